"""MPI jobs as far as they can be told without running one: manifests, files of hosts, variables, command lines, reasons."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from moorage.podside.mpi import settings, shell
from moorage.podside.peers import Gate, wait
from moorage.specs.distribution import Layout, launcher_port, variables
from moorage.specs.manifest import Manifest
from moorage.specs.workload import ENVIRONMENTS_FOLDER
from moorage.training.launchers import choose, gang, mpi
from moorage.training.plan import PEERS_FOLDER
from moorage.training.status import failure
from moorage.training.template import Rendering

SOURCE = Path(mpi.__file__).parents[2] / "podside" / "mpi"


def rendering(attempt: int = 0, grouped: bool = False, **environment: Any) -> Rendering:
    pod: Manifest = {
        "initContainers": [{"name": "fetch"}],
        "containers": [{"name": "main", "command": ["/bin/sh", "-c", "python train.py"], "env": [{"name": "A", "value": "1"}]}],
        "volumes": [],
    }
    spec = {"environment": environment, "distribution": {"type": "Mpi", "processCountPerInstance": 2}}
    return Rendering({"name": "j", "labels": {}}, spec, pod, Layout("Mpi", 3, 3, 2), "uid-1", attempt, grouped)


def main_of(manifests: list[Manifest]) -> Manifest:
    (main,) = manifests[-1]["spec"]["template"]["spec"]["containers"]
    found: Manifest = main
    return found


@pytest.mark.parametrize("grouped", [False, True])
def test_mpi_pods_are_a_gang_that_differs_in_how_the_command_is_started_and_in_the_key(grouped: bool) -> None:
    ours, theirs = mpi.launch(rendering(grouped=grouped)), gang.launch(rendering(grouped=grouped))
    assert [each["kind"] for each in ours] == (["PodGroup", "Job"] if grouped else ["Job"])
    assert choose(Layout("Mpi", 1, 1, 1)) is mpi.launch
    assert main_of(ours)["command"][:2] == ["/bin/sh", "-c"] and main_of(ours)["command"][3:] == ["python train.py"]
    assert [each["name"] for each in main_of(ours)["env"]] == ["A", "MOORAGE_MPI_KEY"]
    main_of(ours).update(main_of(theirs))
    assert ours == theirs


def test_the_script_around_the_command_changes_no_variable_that_a_user_would_name(tmp_path: Path) -> None:
    """One that is in the environment would be given to the command with another value."""
    (tmp_path / "annotation").write_text('[{"pod": "p", "address": "10.0.0.1"}]')
    wait(Layout("Mpi", 1, 1, 2), Gate(tmp_path / "annotation", 0, 20000, tmp_path / "to", tmp_path / "logs"))
    text = "\n".join([main_of(mpi.launch(rendering()))["command"][2], (tmp_path / "to" / "instance.sh").read_text()])
    assert set(re.findall(r"^(?:for )?(\w+)(?:=| in )", text, re.MULTILINE)) == {"_folder", "_python", "_peers", "_index", "_port"}


def test_the_key_is_another_one_at_every_attempt() -> None:
    keys = [main_of(mpi.launch(rendering(attempt)))["env"][-1]["value"] for attempt in (0, 0, 1)]
    assert keys[0] == keys[1] != keys[2] and all(len(key) == 32 for key in keys)


def test_mpirun_is_looked_for_in_the_prepared_environment_first() -> None:
    script = main_of(mpi.launch(rendering(image="i", hash="h1", conda="dependencies: [openmpi]")))["command"][2]
    assert script.startswith(f'export PATH="{ENVIRONMENTS_FOLDER}/h1/bin:$PATH"')
    assert "export PATH" not in main_of(mpi.launch(rendering(image="i")))["command"][2]


def test_no_variable_that_differs_between_instances_is_given_to_the_processes() -> None:
    found = [variables(Layout("Mpi", 2, 2, 2), ["10.0.0.1", "10.0.0.2"], index, 20000) for index in (0, 1)]
    assert found[0] == found[1]
    assert (found[0]["MASTER_ADDR"], found[0]["MASTER_PORT"], found[0]["WORLD_SIZE"]) == ("10.0.0.1", "20000", "4")


@pytest.mark.parametrize(("meeting", "expected"), [(20000, 20001), (29999, 20000)])
def test_the_launcher_leaves_the_port_at_which_processes_meet_to_them(meeting: int, expected: int) -> None:
    assert launcher_port(meeting) == expected


def test_every_code_that_an_instance_leaves_is_known_to_the_operator() -> None:
    nodes = [node for path in SOURCE.glob("*.py") for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))]
    calls = [node for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Failure"]
    left = {call.args[0].value for call in calls if isinstance(call.args[0], ast.Constant)}
    assert left | {"PythonNotFound"} == mpi.CODES


def test_a_code_of_the_launcher_is_the_jobs_reason_and_any_other_the_commands_own() -> None:
    def ended(text: str) -> Any:
        status = {"name": "main", "state": {"terminated": {"exitCode": 127, "message": text}}}
        return failure({"metadata": {"name": "p"}, "status": {"phase": "Failed", "containerStatuses": [status]}})

    ours = ended('a line\n{"code": "MpiNotFound", "message": "Add openmpi."}')
    assert (ours.phase, ours.reason, ours.message, ours.exit_code) == ("Failed", "MpiNotFound", "Add openmpi.", 127)
    assert ended('{"code": "Mine", "message": "no"}').reason == "CommandFailed"


def test_the_code_that_runs_in_images_needs_no_newer_python_than_it_says() -> None:
    for path in SOURCE.glob("*.py"):
        ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 7))


@pytest.mark.parametrize(
    ("peers", "shared", "slots", "machines"),
    [
        (["10.0.0.1", "10.0.0.2"], False, "localhost slots=2\ninstance-1 slots=2\n", "10.0.0.1:2\ninstance-1:2\n"),
        (["127.16.0.2", "127.16.0.3"], True, "localhost slots=2\ninstance-1 slots=2\n", "localhost:2\ninstance-1:2\n"),
        (["10.0.0.1"], False, "localhost slots=2\n", "localhost:2\n"),
    ],
)
def test_the_files_of_hosts_name_every_instance_so_that_none_is_taken_for_this_machine(
    peers: list[str], shared: bool, slots: str, machines: str
) -> None:
    assert settings.host_files(peers, 2, shared=shared) == {settings.SLOTS: slots, settings.MACHINES: machines}


@pytest.mark.parametrize(
    ("name", "index"),
    [("instance-0", 0), ("instance-2", 2), ("instance-3", None), ("instance-x", None), ("other", None), ("localhost", None)],
)
def test_only_names_of_instances_are_instances(name: str, index: int | None) -> None:
    assert settings.index_of(name, 3) == index


def test_the_users_variables_go_before_what_is_only_suggested() -> None:
    suggested = settings.suggested({"I_MPI_PIN": "on"}, shared=False)
    assert "I_MPI_PIN" not in suggested and suggested["OMPI_MCA_hwloc_base_binding_policy"] == "none"
    assert not any("btl" in name for name in suggested)
    assert settings.suggested({}, shared=True)["OMPI_MCA_btl"] == "self,tcp"


def test_every_implementation_is_told_of_hosts_and_shell() -> None:
    told = settings.forced(Path("/f"), Path("/pkg/rsh"), 3, 2)
    for hosts in ("OMPI_MCA_orte_default_hostfile", "PRTE_MCA_prte_default_hostfile"):
        assert told[hosts] == "/f/hosts"
    for hosts in ("HYDRA_HOST_FILE", "I_MPI_HYDRA_HOST_FILE"):
        assert told[hosts] == "/f/machines"
    for agent in (
        "OMPI_MCA_plm_rsh_agent",
        "PRTE_MCA_plm_ssh_agent",
        "HYDRA_LAUNCHER_EXEC",
        "HYDRA_BOOTSTRAP_EXEC",
        "I_MPI_HYDRA_BOOTSTRAP_EXEC",
    ):
        assert told[agent] == "/pkg/rsh"
    assert (told["I_MPI_HYDRA_BRANCH_COUNT"], told["I_MPI_PERHOST"]) == ("3", "2")


@pytest.mark.parametrize(
    ("arguments", "host", "command"),
    [
        # As Open MPI, MPICH and Intel MPI were seen to call it.
        (["instance-1", "PATH=/usr/bin:$PATH ; orted -mca plm rsh"], "instance-1", "PATH=/usr/bin:$PATH ; orted -mca plm rsh"),
        (["-x", "instance-1", '"/usr/bin/hydra_pmi_proxy"', "--proxy-id", "1"], "instance-1", '"/usr/bin/hydra_pmi_proxy" --proxy-id 1'),
        (["-q", "-x", "instance-1", "hydra_bstrap_proxy", "--x"], "instance-1", "hydra_bstrap_proxy --x"),
        (["-o", "StrictHostKeyChecking=no", "-p22", "-l", "me", "--", "me@instance-2", "id"], "instance-2", "id"),
        (["-x"], "", ""),
    ],
)
def test_the_remote_shell_takes_sshs_command_line(arguments: list[str], host: str, command: str) -> None:
    assert shell.parse(arguments) == (host, command)


def test_a_pod_that_is_taken_away_while_python_is_looked_for_ends_at_once(tmp_path: Path) -> None:
    script = main_of(mpi.launch(rendering()))["command"][2].replace("$$", "$").replace(PEERS_FOLDER, str(tmp_path))
    (tmp_path / "instance.sh").write_text("_peers=a _index=0 _port=1 LOCAL_WORLD_SIZE=1\n")
    (tmp_path / "python3").write_text(f'#!/bin/sh\necho "$2" >> {tmp_path}/asked\nkill -s TERM "$PPID"\n')
    (tmp_path / "python3").chmod(0o755)
    done = subprocess.run(["/bin/sh", "-c", script, "true"], env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, check=False, timeout=60)
    # And not killed by the signal, which process 1 would not have been.
    assert done.returncode == 143
    assert (tmp_path / "asked").read_text().splitlines() == ["import sys; sys.exit(sys.version_info < (3, 7))"]
