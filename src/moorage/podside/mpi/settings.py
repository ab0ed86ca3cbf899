"""What `mpirun` is told, by variables and files alone: hosts, processes on each, and a remote shell that is ours.

All implementations are told at once, so that nobody has to find out whose `mpirun` it is: Open MPI 4 (`OMPI_*`), Open MPI 5 (`PRTE_*` too), MPICH and
MVAPICH (`HYDRA_*`), Intel MPI (`I_MPI_*`).
"""

from __future__ import annotations

import ipaddress
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


def own_machine(address: str) -> str:
    """The name of rank 0's instance for Hydra, which tells it to the others to connect to: its address, or localhost where all share a machine."""
    return "localhost" if _loopback(address) else address


def host_files(peers: Sequence[str], processes: int) -> dict[str, str]:
    """The files of hosts by name, in each implementation's form; rank 0's instance runs `mpirun` and comes first."""
    others = [host(index) for index in range(1, len(peers))]
    return {
        SLOTS: "".join(f"{name} slots={processes}\n" for name in ("localhost", *others)),
        MACHINES: "".join(f"{name}:{processes}\n" for name in (own_machine(peers[0]), *others)),
    }


def forced(folder: Path, shell: Path, count: int) -> dict[str, str]:
    """Variables without which the job would not run over its instances, whatever the image says.

    Args:
        folder: where the files of hosts are.
        shell: our remote shell.
        count: how many instances there are.
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
    }


def suggested(address: str, environment: Mapping[str, str]) -> dict[str, str]:
    """Variables that the user's own or the image's go before: what fits pods.

    Args:
        address: the pod's.
        environment: the variables there are.
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
    if _loopback(address):
        # The embedded cluster: one machine is all of the nodes. Two of them would take the same names in its /dev/shm, and it has few cores.
        found.update(
            {
                "OMPI_MCA_btl": "self,tcp",
                "OMPI_MCA_btl_tcp_if_include": "127.0.0.0/8",
                "OMPI_MCA_mpi_yield_when_idle": "1",
            }
        )
    return {name: value for name, value in found.items() if name not in environment}


def _loopback(address: str) -> bool:
    return ipaddress.ip_address(address).is_loopback
