"""How a job spreads over pods: how many there are, what each does, how its processes are numbered, and by which variables they find each other.

The numbering is that of the original and of torchrun: process `LOCAL_RANK` of instance `NODE_RANK` is `RANK` = `NODE_RANK` * `LOCAL_WORLD_SIZE` + `LOCAL_RANK`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from moorage.errors import Invalid
from moorage.ids import digest
from moorage.specs.manifest import Manifest

# On every pod of a job of several: a JSON list of {"pod", "address"} by completion index. Written once all of them are prepared.
PEERS_ANNOTATION = "moorage.dev/peers"
INDEX = "batch.kubernetes.io/job-completion-index"
# Below the ports that Linux gives to outgoing connections (32768) and Kubernetes to node ports (30000), and above those of well-known servers.
_FIRST_PORT, _LAST_PORT = 20000, 29999


@dataclass(frozen=True, slots=True)
class Layout:
    """The pods of a job.

    Args:
        type: `PyTorch`, `TensorFlow`, `Mpi`; empty where the job names none.
        pods: how many there are at a time.
        workers: the first so many of them end by themselves; those beyond are parameter servers, which serve until the workers are done.
        processes: how often each pod runs the command.
    """

    type: str = ""
    pods: int = 1
    workers: int = 1
    processes: int = 1

    @property
    def together(self) -> bool:
        """Whether the pods start and end together; False for the one pod of an ordinary job."""
        return bool(self.type) or self.pods > 1

    @property
    def world(self) -> int:
        """How many processes there are in all."""
        return self.pods * self.processes

    def rank(self, index: int, local: int = 0) -> int:
        """The number of a pod's process in the whole job."""
        return index * self.processes + local

    def role(self, index: int) -> str:
        """What people call the pod of that completion index."""
        return f"parameter server {index - self.workers}" if index >= self.workers else f"instance {index}"


def layout(spec: Manifest) -> Layout:
    """The layout of a TrainingJob's spec, its counts as they were checked at submission.

    Raises:
        Invalid: the counts do not fit.
    """
    count = int((spec.get("resources") or {}).get("instanceCount") or 1)
    wanted = spec.get("distribution") or {}
    kind = str(wanted.get("type") or "")
    check(kind, count, wanted.get("workerCount"), wanted.get("parameterServerCount"))
    if kind == "TensorFlow":
        servers = int(wanted.get("parameterServerCount") or 0)
        workers = int(wanted.get("workerCount") or count)
        return Layout(kind, workers + servers, workers)
    return Layout(kind, count, count, int(wanted.get("processCountPerInstance") or 1))


def check(kind: str, instances: int, workers: int | None, servers: int | None) -> None:
    """Refuse counts that contradict each other; the targets are the API body's fields.

    The original's rule: as many workers as instances where no number is given. A parameter server has a pod of its own, which `instance_count` may
    count or not.

    Raises:
        Invalid: the counts of workers, parameter servers and instances do not fit.
    """
    if kind != "TensorFlow" or workers is None or instances in (workers, workers + (servers or 0)):
        return
    fitting = f"{workers} (or {workers + servers}, with the parameter servers)" if servers else str(workers)
    raise Invalid(
        f"distribution.workerCount is {workers}, but resources.instanceCount is {instances}: each worker is an instance of its own. "
        f"Set instance_count to {fitting}, or leave worker_count out.",
        code="DistributionMismatch",
        target="properties.distribution.workerCount",
    )


def port(uid: str, attempt: int) -> int:
    """Where process 0 listens, for the others to meet: one per job and attempt, since pods may share their machine's ports.

    Args:
        uid: the TrainingJob's.
        attempt: how often its pods were started anew.
    """
    return _FIRST_PORT + int(digest(uid, str(attempt), length=8), 16) % (_LAST_PORT - _FIRST_PORT + 1)


def launcher_port(meeting: int) -> int:
    """Where rank 0's instance of an MPI job waits for the others; their processes may meet at `meeting` as in any other job."""
    return _beside(meeting, 1)


def _beside(meeting: int, number: int) -> int:
    return _FIRST_PORT + (meeting - _FIRST_PORT + number) % (_LAST_PORT - _FIRST_PORT + 1)


def index_of(pod: Manifest) -> int | None:
    """A pod's completion index; None where it has none."""
    metadata = pod["metadata"]
    text = str((metadata.get("annotations") or {}).get(INDEX) or (metadata.get("labels") or {}).get(INDEX) or "")
    return int(text) if text.isdigit() else None


def log_name(rank: int, world: int) -> str:
    """Of the log of a job's process: `std_log_process_RANK.txt`, padded so that names sort; `std_log.txt` for the only one.

    Clients stream the one whose number is zero (azure-ai-ml: `user_logs/std_log[\\D]*0*(_ps)?.txt`).
    """
    return "std_log.txt" if world <= 1 else f"std_log_process_{str(rank).zfill(len(str(world - 1)))}.txt"


def variables(found: Layout, addresses: Sequence[str], index: int, meeting: int) -> Mapping[str, str]:
    """What all processes of the pod `index` have alike in their environment.

    Args:
        addresses: of all pods, by completion index.
        meeting: port of process 0.
    """
    known = {
        "MASTER_ADDR": addresses[0],
        "MASTER_PORT": str(meeting),
        "WORLD_SIZE": str(found.world),
        "LOCAL_WORLD_SIZE": str(found.processes),
        "NODE_RANK": str(index),
        "AZUREML_NODE_COUNT": str(found.pods),
        # The original's documentation reads it in scripts for MPI and Lightning.
        "AZ_BATCH_MASTER_NODE": f"{addresses[0]}:{meeting}",
    }
    if found.type == "Mpi":
        # MPICH gives the variables of rank 0's instance to all processes: of those that differ there can be none.
        del known["NODE_RANK"]
    return known | ({"TF_CONFIG": _tf_config(found, addresses, index, meeting)} if found.type == "TensorFlow" else {})


def _tf_config(found: Layout, addresses: Sequence[str], index: int, meeting: int) -> str:
    """TensorFlow's own form. No `chief`: worker 0 is, as MultiWorkerMirroredStrategy has it and the original does.

    Every server listens on a port of its own, since pods may share their machine's ports.
    """
    places = [f"{address}:{_beside(meeting, number)}" for number, address in enumerate(addresses)]
    cluster: dict[str, Sequence[str]] = {"worker": places[: found.workers]}
    if found.pods > found.workers:
        cluster["ps"] = places[found.workers :]
    kind, number = ("worker", index) if index < found.workers else ("ps", index - found.workers)
    return json.dumps({"cluster": cluster, "task": {"type": kind, "index": number}, "environment": "cloud"})
