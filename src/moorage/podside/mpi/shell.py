"""The remote shell that `mpirun` calls like ssh: `rsh [OPTIONS] HOST COMMAND...`. It asks rank 0's instance, in whose pod it usually runs."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Mapping, Sequence

from . import wire
from .instance import BROKEN, Place

ADDRESS, PORT, KEY, SOURCE, PYTHON = (
    "MOORAGE_MPI_ADDRESS",
    "MOORAGE_MPI_PORT",
    "MOORAGE_MPI_KEY",
    "MOORAGE_MPI_SOURCE",
    "MOORAGE_MPI_PYTHON",
)

# Of ssh's options those that take a value of their own.
_WITH_VALUE = frozenset("BbcDEeFIiJLlmOopQRSWw")


def variables(place: Place) -> dict[str, str]:
    """What the remote shell needs to know."""
    return {ADDRESS: place.first[0], PORT: str(place.port), KEY: place.key, SOURCE: place.address, PYTHON: sys.executable}


def parse(arguments: Sequence[str]) -> tuple[str, str]:
    """Host and command, as ssh finds them: the words of the command are joined by blanks and left to the other side's shell."""
    left = list(arguments)
    while left and left[0].startswith("-"):
        option = left.pop(0)
        if option == "--":
            break
        if len(option) == 2 and option[1] in _WITH_VALUE and left:
            left.pop(0)
    host = left.pop(0).rpartition("@")[2] if left else ""
    return host, " ".join(left)


def execute(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run the command on the host; answers its exit status, or 255 when the connection is lost."""
    host, command = parse(arguments)
    mpirun = os.getppid()
    try:
        address, source = (environment[ADDRESS], int(environment[PORT])), environment[SOURCE]
        channel = wire.dial(address, source, environment[KEY], {"role": "rsh", "host": host})
        channel.tell({"command": command})
        threading.Thread(target=_feed, args=(channel,), daemon=True).start()
        while True:
            kind, payload = channel.receive()
            if kind == wire.EXIT:
                return int(payload)
            stream = sys.stdout if kind == wire.STDOUT else sys.stderr
            stream.buffer.write(payload)
            stream.buffer.flush()
    except KeyError as error:
        print(f"The variable {error.args[0]} is missing: this shell works only below an MPI job's mpirun.", file=sys.stderr)
    except OSError as error:
        # When mpirun itself is gone, the job is over and this is no news.
        if os.getppid() == mpirun:
            print(f"The connection to {host} was lost: {error}", file=sys.stderr)
    return BROKEN


def _feed(channel: wire.Channel) -> None:
    try:
        while True:
            part = os.read(0, wire.CHUNK)
            channel.send(wire.STDIN, part)
            if not part:
                return
    except OSError:
        # There is no standard input, or no connection; the latter is seen where the answer is read.
        return
