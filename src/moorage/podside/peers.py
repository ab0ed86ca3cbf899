"""`peers`: the last init container of a pod that trains together with others. It waits until the operator has written where they are, and leaves
beside the user's code what the processes need to find each other.

The annotation arrives as a file of a downward API volume, which the node rewrites when the pod changes: looking at it costs no request.
"""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from time import sleep

from moorage.errors import Invalid
from moorage.podside.install import install_mpi
from moorage.specs.distribution import Layout, launcher_port, log_name, variables

_LOOK_AGAIN = timedelta(milliseconds=200)
# SIGKILL comes this long after SIGTERM: of the pod's grace most is left for storing outputs.
_PATIENCE = timedelta(seconds=30)
_START = Path(__file__).with_name("start.sh")


@dataclass(frozen=True, slots=True)
class Gate:
    """What the operator tells the container.

    Args:
        annotation: the file that the node keeps like the pod's annotation; empty while there is none.
        index: the pod's completion index.
        port: where process 0 listens.
        to: folder for `instance.sh` (variables), `peers.json` (the annotation) and what runs the command: `start.sh`, or for MPI `moorage_mpi`.
        logs: folder for the output of processes other than the pod's first.
    """

    annotation: Path
    index: int
    port: int
    to: Path
    logs: Path


def wait(found: Layout, gate: Gate) -> None:
    """Return once the peers are known and written down. There is no time limit: the operator says in the job's status what is waited for.

    Raises:
        Invalid: the annotation is not of the job's form.
    """
    print(f"Waiting for the other {found.pods - 1} of {found.pods} instances", flush=True)
    while not (text := _annotated(gate.annotation)):
        sleep(_LOOK_AGAIN.total_seconds())
    addresses = _addresses(text, found)
    gate.to.mkdir(parents=True, exist_ok=True)
    gate.logs.mkdir(parents=True, exist_ok=True)
    (gate.to / "peers.json").write_text(text, encoding="utf-8")
    lines = _assignments(variables(found, addresses, gate.index, gate.port))
    lines += _mpi(addresses, gate) if found.type == "Mpi" else _logs(found, gate)
    (gate.to / "instance.sh").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    if found.type == "Mpi":
        install_mpi(gate.to)
    else:
        shutil.copyfile(_START, gate.to / "start.sh")
    print(f"All {found.pods} instances are there: {' '.join(addresses)}", flush=True)


def _annotated(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""  # the node is just putting a newer version in its place


def _addresses(text: str, found: Layout) -> list[str]:
    try:
        addresses = [str(peer["address"]) for peer in json.loads(text)]
    except (ValueError, TypeError, KeyError) as error:
        raise Invalid(
            f"The annotation with the peers is not a JSON list of pods with addresses: {text[:200]}", code="InvalidPeers"
        ) from error
    if len(addresses) != found.pods:
        raise Invalid(f"The annotation names {len(addresses)} peers; the job has {found.pods} instances.", code="InvalidPeers")
    return addresses


def _assignments(known: Mapping[str, str]) -> list[str]:
    return [f"export {name}={shlex.quote(value)}" for name, value in known.items()]


def _mpi(addresses: Sequence[str], gate: Gate) -> list[str]:
    return [f"_peers={shlex.quote(','.join(addresses))}", f"_index={gate.index}", f"_port={launcher_port(gate.port)}"]


def _logs(found: Layout, gate: Gate) -> list[str]:
    lines = [
        f"_log_{local}={shlex.quote(str(gate.logs / log_name(found.rank(gate.index, local), found.world)))}"
        for local in range(found.processes)
    ]
    return [*lines, f"_patience={_PATIENCE.total_seconds():.0f}"]
