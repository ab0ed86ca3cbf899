"""One container of a pod across its restarts: its attempts on disk, its probes and hooks, how it is stopped."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Coroutine
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

from moorage.clock import monotonic
from moorage.embedded.node import cgroups, logs, probes
from moorage.embedded.node.attempt import Attempt
from moorage.embedded.node.launch import Machine, limits_of
from moorage.embedded.node.records import Exit, View, Waiting
from moorage.ids import digest
from moorage.specs.manifest import Manifest

_MESSAGE_LIMIT = 4096
_LOG_LINES, _LOG_MESSAGE_LIMIT = 80, 2048


class PodSide(Protocol):
    """What a container asks of its pod."""

    uid: str

    @property
    def pod_ip(self) -> str: ...

    def wake(self) -> None: ...

    def event(self, type: str, reason: str, message: str) -> None: ...

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]: ...


class Container:
    """A container as the node keeps it.

    Args:
        spec: the container as the pod has it.
        folder: one folder per attempt in it, named by its number.
    """

    def __init__(self, spec: Manifest, folder: Path, pod: PodSide, machine: Machine) -> None:
        self.spec = spec
        self.name: str = spec["name"]
        self.folder = folder
        self.number: int | None = None
        self.attempt: Attempt | None = None
        self.waiting: Waiting | None = None
        self._pod = pod
        self._machine = machine
        self._last: Exit | None = None
        self._exit: Exit | None = None
        self._started = False
        self._ready = False
        self._unhealthy = ""
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping: asyncio.Task[None] | None = None
        self._stop_by = float("inf")

    async def adopt(self, known: Manifest | None) -> None:
        """Find what earlier lives of the agent started, and wait for what is just starting; `known` is the container's status in the API, whose
        probe results go on."""
        numbers = sorted(int(child.name) for child in self.folder.iterdir() if child.name.isdigit()) if self.folder.exists() else []
        for number in reversed(numbers):
            attempt = self._attempt(number)
            attempt.attach()
            await attempt.begun.wait()
            folder = self.folder / str(number)
            if not attempt.alive and not (folder / "started").exists() and not (folder / "exit").exists():
                # The agent died between making the folder and starting the shim.
                self._remove(number)
                continue
            if self.attempt is None:
                self.number, self.attempt = number, attempt
                self._exit = self._ended(attempt)
            else:
                attempt.close()
                self._last = self._ended(attempt)
                break
        if self.attempt is not None and self.attempt.alive:
            same = known is not None and known.get("containerID") == self.attempt.container_id
            self._began(ready=bool(same and known and known.get("ready")), started=bool(same and known and known.get("started")))

    def view(self) -> View:
        attempt = self.attempt
        if attempt is None:
            return View(self.name, waiting=self.waiting)
        return View(
            self.name,
            self.number,
            attempt.started,
            self._exit,
            self._last,
            self._started,
            self._ready,
            self._unhealthy,
            self.waiting,
            attempt.container_id,
        )

    def place(self) -> Path:
        """A fresh folder for the next attempt; the last two ended ones stay for their logs."""
        following = 0 if self.number is None else self.number + 1
        folder = self.folder / str(following)
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
        return folder

    async def start(self, launch: Manifest) -> None:
        """Start the next attempt in the folder that `place` gave last. Unavailable or OSError when that cannot be done."""
        number = 0 if self.number is None else self.number + 1
        limits = limits_of(self.spec)
        placement = self._machine.cgroups.create(self._cgroup(number), limits)
        attempt = self._attempt(number)
        watched = 0 if placement.memory else limits.memory
        launch = {**launch, "cgroups": list(placement.procs)}
        await attempt.start(launch, self._machine.log_limits, watched, placement.oom_file if limits.memory else "")
        if self.number is not None:
            self._last = self._exit
            self._remove(self.number - 1)
        self.number, self.attempt, self.waiting = number, attempt, None
        self._exit = None
        if attempt.exit is not None:
            self._changed()
            return
        self._began(ready=False, started=False)

    def request_stop(self, grace: timedelta, message: str) -> None:
        """Stop it: preStop, TERM, and KILL once the grace is over. Asked again with less grace, it hurries."""
        attempt = self.attempt
        if attempt is None or not attempt.alive:
            return
        by = monotonic() + grace.total_seconds()
        if self._stopping is None:
            self._stop_by = by
            self._pod.event("Normal", "Killing", message)
            self._stopping = self._pod.spawn(self._stop(attempt, grace))
        elif by < self._stop_by - 1:
            self._stop_by = by
            attempt.terminate(grace)

    def close(self) -> None:
        """Let go of it; the process goes on."""
        for task in self._tasks:
            task.cancel()
        if self.attempt is not None:
            self.attempt.close()

    def forget(self) -> None:
        """Remove what its attempts left outside the pod's folder."""
        for number in range((self.number if self.number is not None else -1) + 1):
            cgroups.remove(self.folder / str(number))

    def folder_of(self, *, previous: bool) -> tuple[Path, Attempt] | None:
        """Where the log of the current or the previous attempt lies."""
        if self.number is None or self.attempt is None:
            return None
        if not previous:
            return self.folder / str(self.number), self.attempt
        folder = self.folder / str(self.number - 1)
        return (folder, Attempt(folder, "", lambda: None)) if folder.exists() else None

    def _attempt(self, number: int) -> Attempt:
        identity = f"moorage://{digest(self._pod.uid, self.name, str(number), length=64)}"
        return Attempt(self.folder / str(number), identity, self._changed)

    def _cgroup(self, number: int) -> str:
        return f"{self._pod.uid}-{self.name}-{number}"

    def _remove(self, number: int) -> None:
        if number >= 0:
            cgroups.remove(self.folder / str(number))
            shutil.rmtree(self.folder / str(number), ignore_errors=True)

    def _began(self, *, ready: bool, started: bool) -> None:
        """The process runs: look after it."""
        assert self.attempt is not None
        self._unhealthy, self._stopping, self._stop_by = "", None, float("inf")
        self._ready = ready or "readinessProbe" not in self.spec
        self._started = started
        if not started:
            self._tasks.append(self._pod.spawn(self._start_up(self.attempt)))
        else:
            self._watch(self.attempt)
        self._pod.wake()

    async def _start_up(self, attempt: Attempt) -> None:
        """The postStart hook, then the startup probe; only after both the container counts as started."""
        hook = (self.spec.get("lifecycle") or {}).get("postStart")
        if hook:
            seen = await self._hook(attempt, hook, timedelta(minutes=5))
            if not seen.good:
                self._pod.event("Warning", "FailedPostStartHook", f"PostStartHook failed: {seen.output}")
                self._fail("FailedPostStartHook")
                return
        if probe := self.spec.get("startupProbe"):
            target = probes.Target(attempt, self.spec, self._pod.pod_ip)

            def told(look: probes.Look, streak: probes.Streak) -> bool:
                self._note("Startup", look)
                if streak.verdict is False:
                    self._fail(f"Container {self.name} failed startup probe, will be restarted")
                self._started = streak.verdict is True
                return streak.verdict is None

            await probes.watch(probe, lambda: target.look(probe), told)
        else:
            self._started = True
        if self._started and attempt.alive:
            self._watch(attempt)
        self._pod.wake()

    def _watch(self, attempt: Attempt) -> None:
        target = probes.Target(attempt, self.spec, self._pod.pod_ip)
        if ready := self.spec.get("readinessProbe"):
            self._tasks.append(self._pod.spawn(probes.watch(ready, lambda: target.look(ready), self._readiness)))
        if live := self.spec.get("livenessProbe"):
            self._tasks.append(self._pod.spawn(probes.watch(live, lambda: target.look(live), self._liveness)))

    def _readiness(self, look: probes.Look, streak: probes.Streak) -> bool:
        self._note("Readiness", look)
        if streak.verdict is not None and streak.verdict != self._ready:
            self._ready = streak.verdict
            self._pod.wake()
        return True

    def _liveness(self, look: probes.Look, streak: probes.Streak) -> bool:
        self._note("Liveness", look)
        if streak.verdict is False:
            self._fail(f"Container {self.name} failed liveness probe, will be restarted")
        return streak.verdict is not False

    def _note(self, kind: str, look: probes.Look) -> None:
        if not look.good:
            self._pod.event("Warning", "Unhealthy", f"{kind} probe failed: {look.output}")

    def _fail(self, message: str) -> None:
        self._unhealthy = message
        self._pod.wake()

    async def _stop(self, attempt: Attempt, grace: timedelta) -> None:
        began = monotonic()
        hook = (self.spec.get("lifecycle") or {}).get("preStop")
        if hook and grace > timedelta(0):
            seen = await self._hook(attempt, hook, grace)
            if not seen.good:
                self._pod.event("Warning", "FailedPreStopHook", f"PreStopHook failed: {seen.output}")
            left = max(self._machine.shortest_grace, grace - timedelta(seconds=monotonic() - began))
        else:
            left = grace
        attempt.terminate(min(left, timedelta(seconds=max(0.0, self._stop_by - monotonic()))) if not hook else left)

    async def _hook(self, attempt: Attempt, hook: Manifest, limit: timedelta) -> probes.Look:
        if "sleep" in hook:
            span = min(limit, timedelta(seconds=hook["sleep"]["seconds"]))
            try:
                await asyncio.wait_for(attempt.ended.wait(), span.total_seconds())
            except TimeoutError:
                pass  # the usual end of a sleep
            return probes.Look(True)
        target = probes.Target(attempt, self.spec, self._pod.pod_ip)
        return await target.look({**hook, "timeoutSeconds": limit.total_seconds()})

    def _changed(self) -> None:
        """The shim had something to say."""
        if self.attempt is not None and self.attempt.exit is not None and self._exit is None:
            self._exit = self._ended(self.attempt)
            self._ready = self._started = False
            if self.number is not None:
                cgroups.remove(self.folder / str(self.number))
            for task in self._tasks:
                task.cancel()
            self._tasks = []
            if self._exit is not None and self._exit.reason == "StartError":
                self._pod.event("Warning", "Failed", f"Error: {self._exit.message}")
        self._pod.wake()

    def _ended(self, attempt: Attempt) -> Exit | None:
        """The attempt's end with its termination message."""
        if attempt.exit is None or attempt.exit.message:
            return attempt.exit
        return replace(attempt.exit, message=termination_message(self.spec, attempt.folder, attempt.exit.code))


def termination_message(container: Manifest, folder: Path, code: int) -> str:
    """What the container left in its message file, else, where it asks for that and failed, the end of its log."""
    try:
        with (folder / "termination").open("rb") as file:
            text = file.read(_MESSAGE_LIMIT).decode(errors="replace")
    except FileNotFoundError:
        text = ""
    if text or code == 0 or container.get("terminationMessagePolicy") != "FallbackToLogsOnError":
        return text
    return logs.tail_text(folder, _LOG_LINES, _LOG_MESSAGE_LIMIT)
