"""What `mpirun` is told, by variables and files alone: hosts, processes on each, and a remote shell that is ours.

All implementations are told at once, so that nobody has to find out whose `mpirun` it is: Open MPI 4 (`OMPI_*`), Open MPI 5 (`PRTE_*` too), MPICH and
MVAPICH (`HYDRA_*`), Intel MPI (`I_MPI_*`).
"""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from pathlib import Path

# Names that nothing resolves: an implementation must not find that several instances are this very machine, as on the embedded cluster they are.
_HOST = "instance-"
SLOTS, MACHINES = "hosts", "machines"


def host(index: int) -> str:
    """The name of an instance in the files of hosts."""
    return f"{_HOST}{index}"


def index_of(name: str, count: int) -> int | None:
    """Which instance a remote shell's host is, of `count`; None for a name that is none of theirs."""
    number = name[len(_HOST) :]
    if not name.startswith(_HOST) or not number.isdigit() or int(number) >= count:
        return None
    return int(number)


def together(peers: Sequence[str]) -> bool:
    """Whether this machine has the addresses of several instances, as on the embedded cluster, whose pods are processes of one machine."""
    return len(peers) > 1 and all(map(_ours, peers[:2]))


def host_files(peers: Sequence[str], processes: int, *, shared: bool) -> dict[str, str]:
    """The files of hosts by name, in each implementation's form; rank 0's instance runs `mpirun` and comes first.

    Args:
        peers: the addresses of all instances, by index.
        processes: how many run on each.
        shared: the instances are on one machine.
    """
    others = [host(index) for index in range(1, len(peers))]
    # Hydra tells the others this name to connect to; Open MPI tells nobody.
    own = peers[0] if others and not shared else "localhost"
    return {
        SLOTS: "".join(f"{name} slots={processes}\n" for name in ("localhost", *others)),
        MACHINES: "".join(f"{name}:{processes}\n" for name in (own, *others)),
    }


def forced(folder: Path, shell: Path, count: int, processes: int) -> dict[str, str]:
    """Variables without which the job would not run over its instances, whatever the image says.

    Args:
        folder: where the files of hosts are.
        shell: our remote shell.
        count: how many instances there are.
        processes: how many run on each.
    """
    slots, machines, path = str(folder / SLOTS), str(folder / MACHINES), str(shell)
    return {
        "OMPI_MCA_orte_default_hostfile": slots,
        "OMPI_MCA_orte_leave_session_attached": "1",
        "OMPI_MCA_plm_rsh_agent": path,
        "OMPI_MCA_plm_rsh_no_tree_spawn": "1",
        "PRTE_MCA_prte_default_hostfile": slots,
        "PRTE_MCA_plm_ssh_agent": path,
        "PRTE_MCA_plm_ssh_no_tree_spawn": "1",
        # Before MPICH 3.2 and in MVAPICH2 these were called so.
        "HYDRA_BOOTSTRAP": "ssh",
        "HYDRA_BOOTSTRAP_EXEC": path,
        "HYDRA_HOST_FILE": machines,
        "HYDRA_LAUNCHER": "ssh",
        "HYDRA_LAUNCHER_EXEC": path,
        "I_MPI_HYDRA_BOOTSTRAP": "ssh",
        "I_MPI_HYDRA_BOOTSTRAP_EXEC": path,
        # Every instance is started from rank 0's, none by another one.
        "I_MPI_HYDRA_BRANCH_COUNT": str(count),
        "I_MPI_HYDRA_HOST_FILE": machines,
        # It takes the names out of the file and not the numbers, and has as many processes on each as there are cores.
        "I_MPI_PERHOST": str(processes),
    }


def suggested(environment: Mapping[str, str], *, shared: bool) -> dict[str, str]:
    """Variables that the user's own or the image's go before: what fits pods.

    Args:
        environment: the variables there are.
        shared: the instances are on one machine.
    """
    found = {
        # Open MPI does not start where there is no home, as for a user whom the image does not know.
        "HOME": "/tmp",
        # The container's user is often root, and the container is the fence.
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        "PRTE_ALLOW_RUN_AS_ROOT": "1",
        "PRTE_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        # Every pod of a node would bind its first process to the node's first core.
        "OMPI_MCA_hwloc_base_binding_policy": "none",
        "PRTE_MCA_hwloc_default_binding_policy": "none",
        "I_MPI_PIN": "off",
    }
    if shared:
        # Two instances would take the same names in the machine's /dev/shm, and it has few cores for all of them.
        found.update(
            {
                "OMPI_MCA_btl": "self,tcp",
                "OMPI_MCA_mpi_yield_when_idle": "1",
            }
        )
    return {name: value for name, value in found.items() if name not in environment}


def _ours(address: str) -> bool:
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True
