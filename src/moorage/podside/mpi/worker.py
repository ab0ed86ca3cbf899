"""Every other instance: dials rank 0's until it is there, runs what `mpirun` wants to be run here, and ends when the job does."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from typing import IO

from . import settings, shell, wire
from .instance import ADVICE, FOLLOWS, Failure, Inbox, Place, end, status_of

# Between two tries to connect.
_PAUSE_SECONDS = 1.0
_REMINDER_SECONDS = 30.0
# Rank 0's pod has its address long before its command runs, and refuses until then. Silence means that nothing gets through.
_SILENCE_SECONDS = 120.0
# Exit statuses that are a signal's, as a shell tells them.
_SIGNALLED = range(129, 193)


def work(place: Place) -> int:
    """Be an instance until rank 0's says that the job is over; answers the exit status.

    Raises:
        Failure: rank 0's instance cannot be reached, or was lost.
    """
    return _Worker(place).run()


class _Worker:
    def __init__(self, place: Place) -> None:
        self._place = place
        self._inbox = Inbox()
        self._sessions: list[_Session] = []
        # A command of `mpirun` was ended by a signal, and not by us.
        self._killed = False
        self._status: int | None = None
        self._failure: Failure | None = None

    def run(self) -> int:
        self._inbox.hear_signals(self._stop)
        channel = self._join()
        if channel is None:
            return self._status or 0
        print("This instance is ready; the output of its processes stands in the log of process 0.", flush=True)
        threading.Thread(target=self._listen, args=(channel,), daemon=True).start()
        while self._status is None and self._failure is None:
            self._inbox.take(_REMINDER_SECONDS)
        for session in self._sessions:
            session.stop()
        channel.close()
        if self._failure is not None:
            raise self._failure
        return self._status or 0

    def _join(self) -> wire.Channel | None:
        began = reminded = refused = time.monotonic()
        while self._status is None:
            try:
                hello = {"role": "join", "number": self._place.index}
                return wire.dial(self._place.first, self._place.address, self._place.key, hello)
            except ConnectionRefusedError as error:
                now = refused = time.monotonic()
                reason = str(error)
            except OSError as error:
                now, reason = time.monotonic(), str(error)
            host, port = self._place.first
            if now - began > self._place.patience.total_seconds() or now - refused > _SILENCE_SECONDS:
                raise Failure(
                    "MpiSetupFailed",
                    f"Rank 0's instance could not be reached at {host}:{port}: {reason}. {ADVICE}",
                )
            if now - reminded > _REMINDER_SECONDS:
                reminded = now
                print(f"Waiting for rank 0's instance at {host}:{port}: {reason}", flush=True)
            self._inbox.take(_PAUSE_SECONDS)
        return None

    def _listen(self, channel: wire.Channel) -> None:
        while True:
            try:
                message = channel.hear()
            except OSError as error:
                self._inbox.put(self._lost, str(error))
                return
            if "end" in message:
                self._inbox.put(self._dismissed, channel)
                return
            self._inbox.put(self._serve, message.get("serve"))

    def _serve(self, number: object) -> None:
        self._sessions = [session for session in self._sessions if not session.over]
        self._sessions.append(_Session(self._place, number, lambda status: self._inbox.put(self._ended, status)))

    def _ended(self, status: int) -> None:
        self._killed = self._killed or status in _SIGNALLED

    def _lost(self, reason: str) -> None:
        self._failure = Failure(
            "MpiLauncherLost", f"The connection to rank 0's instance at {self._place.peers[0]} was lost: {reason}.", FOLLOWS
        )

    def _dismissed(self, channel: wire.Channel) -> None:
        self._status = 0
        try:
            channel.tell({"killed": self._killed})
        except OSError:
            # Rank 0's instance has waited long enough.
            pass

    def _stop(self, number: int) -> None:
        if self._status is None:
            self._status = 128 + number


class _Session:
    """One command of a remote shell, with its streams."""

    def __init__(self, place: Place, number: object, ended: Callable[[int], None]) -> None:
        self._place, self._number, self._ended = place, number, ended
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: wire.Channel | None = None
        self._guard = threading.Lock()
        self._stopped = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def over(self) -> bool:
        return not self._thread.is_alive()

    def stop(self) -> None:
        """End the command, if it still runs."""
        with self._guard:
            self._stopped = True
            process, channel = self._process, self._channel
        if process is not None:
            # A shell in front of the daemon would not pass a signal on.
            end(process, all_at_once=True)
        if channel is not None:
            channel.close()

    def _run(self) -> None:
        try:
            channel = wire.dial(self._place.first, self._place.address, self._place.key, {"role": "serve", "number": self._number})
        except OSError as error:
            # The remote shell hears of it when this instance's own connection is found to be lost.
            print(f"Rank 0's instance does not answer: {error}", flush=True)
            return
        try:
            self._execute(channel, str(channel.hear().get("command")))
        except OSError as error:
            if not self._stopped:
                print(f"A command of mpirun was lost: {error}", flush=True)
        channel.close()

    def _execute(self, channel: wire.Channel, command: str) -> None:
        with self._guard:
            if self._stopped:
                return
            self._channel = channel
            self._process = process = _started(self._place, command)
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        feeder = threading.Thread(target=self._feed, args=(channel, process.stdin), daemon=True)
        feeder.start()
        pumps = [
            threading.Thread(target=_pump, args=(stream, channel, kind), daemon=True)
            for stream, kind in ((process.stdout, wire.STDOUT), (process.stderr, wire.STDERR))
        ]
        for pump in pumps:
            pump.start()
        for pump in pumps:
            pump.join()
        status = status_of(process)
        self._ended(status)
        channel.send(wire.EXIT, str(status).encode())
        # Closed by who reads the status: what is unread here when a connection is closed takes with it what the other side has not read.
        feeder.join()

    def _feed(self, channel: wire.Channel, stdin: IO[bytes]) -> None:
        try:
            while True:
                kind, payload = channel.receive()
                if kind == wire.STDIN and not payload:
                    stdin.close()
                elif kind == wire.STDIN and not stdin.closed:
                    try:
                        stdin.write(payload)
                        stdin.flush()
                    except BrokenPipeError:
                        # It reads no more; what else comes is dropped.
                        stdin.close()
        except OSError:
            # As with ssh: with the remote shell goes what it has started.
            self.stop()


def _started(place: Place, command: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, **settings.suggested(os.environ, shared=settings.together(place.peers)), **shell.variables(place)}
    arguments: Sequence[str] = ("/bin/sh", "-c", command)
    return subprocess.Popen(
        arguments,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def _pump(stream: IO[bytes], channel: wire.Channel, kind: bytes) -> None:
    descriptor = stream.fileno()
    while True:
        part = os.read(descriptor, wire.CHUNK)
        if not part:
            return
        try:
            channel.send(kind, part)
        except OSError:
            # Read on, so that the command does not block before it is ended.
            continue
