"""Keeps the embedded cluster and the workspace service running: starts them, starts them again when they die, stops them in order.

It may die itself: they go on, and the next one adopts them. Standard library only, because it stays resident.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
from dataclasses import dataclass, field

from moorage.cli.home import Home, Process, default_home, started

log = logging.getLogger("moorage.supervisor")
# The workspace service stops first: the cluster's last reports find it gone and are repeated at the next start.
ROLES = ("cluster", "server")
_FIRST_PAUSE = 0.2
_LONGEST_PAUSE = 10.0
# A process that lived this long was healthy; its next death starts over at the first pause.
_HEALTHY_SECONDS = 30.0
# Stopping the cluster stops every pod with its grace (30 s by default in Kubernetes).
STOP_SECONDS = {"cluster": 45.0, "server": 10.0}


@dataclass(slots=True)
class Supervisor:
    home: Home
    environment: dict[str, str]
    stopping: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        """Until SIGTERM or SIGINT; then both are stopped too."""
        self.home.record("supervisor", os.getpid())
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stopping.set)
        keepers = [asyncio.create_task(self._keep(role)) for role in ROLES]
        await self.stopping.wait()
        for keeper in keepers:
            keeper.cancel()
        await asyncio.gather(*keepers, return_exceptions=True)
        for role in reversed(ROLES):
            await self._stop(role)
        (self.home.run / "supervisor.json").unlink(missing_ok=True)

    async def _keep(self, role: str) -> None:
        pause = _FIRST_PAUSE
        failures = 0
        loop = asyncio.get_running_loop()
        self.home.note_failures(role, 0)
        while True:
            process = self.home.process(role)
            if process is None:
                process = self._start(role)
            else:
                log.info("adopted %s (process %d)", role, process.pid)
            began = loop.time()
            await exited(process)
            if loop.time() - began > _HEALTHY_SECONDS:
                pause, failures = _FIRST_PAUSE, 0
            failures += 1
            self.home.note_failures(role, failures)
            log.warning("%s (process %d) ended; starting it again in %.1f s", role, process.pid, pause)
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)

    def _start(self, role: str) -> Process:
        descriptor = os.open(self.home.log(role), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            # posix_spawn instead of fork: the child gets nothing of ours but these files, in a session of its own.
            pid = os.posix_spawn(
                sys.executable,
                [sys.executable, "-m", "moorage", "run", role],
                os.environ | self.environment,
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_DUP2, descriptor, 1),
                    (os.POSIX_SPAWN_DUP2, descriptor, 2),
                ],
                setsid=True,
            )
        finally:
            os.close(descriptor)
        log.info("started %s (process %d)", role, pid)
        return self.home.record(role, pid)

    async def _stop(self, role: str) -> None:
        process = self.home.process(role)
        if process is not None:
            os.kill(process.pid, signal.SIGTERM)
            try:
                async with asyncio.timeout(STOP_SECONDS[role]):
                    await exited(process)
            except TimeoutError:
                log.warning("%s did not stop within %.0f s and is killed", role, STOP_SECONDS[role])
                os.kill(process.pid, signal.SIGKILL)
                await exited(process)
        (self.home.run / f"{role}.json").unlink(missing_ok=True)


async def exited(process: Process) -> None:
    """Return when a process is no more, whether it is our child or was adopted."""
    if not process.alive:
        reap(process.pid)
        return
    if hasattr(os, "pidfd_open"):
        try:
            descriptor = os.pidfd_open(process.pid)
        except ProcessLookupError:
            return
        gone = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_reader(descriptor, gone.set)
        try:
            await gone.wait()
        finally:
            loop.remove_reader(descriptor)
            os.close(descriptor)
        reap(process.pid)
        return
    # Systems without pidfd (macOS): nothing wakes us for a process that is not our child.
    while started(process.pid) == process.began:
        await asyncio.sleep(1)
        reap(process.pid)


def reap(pid: int) -> None:
    """Take the exit status of a child of ours, so that no zombie stays; nothing for an adopted process."""
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s", stream=sys.stderr)
    home = default_home()
    settings = json.loads(home.settings.read_text(encoding="utf-8"))
    asyncio.run(Supervisor(home, {str(key): str(value) for key, value in settings.get("environment", {}).items()}).run())


if __name__ == "__main__":
    main()
