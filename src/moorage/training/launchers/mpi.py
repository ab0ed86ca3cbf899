"""MPI: the pods of a gang, of which that of rank 0 runs `mpirun` over all of them. Why without sshd: docs/decisions/0014-mpi-without-ssh.md."""

from __future__ import annotations

import json
import shlex

from moorage.ids import digest
from moorage.specs import command, workload
from moorage.specs.manifest import Manifest
from moorage.training.launchers import gang
from moorage.training.plan import PEERS_FOLDER
from moorage.training.template import Rendering

# What `moorage.podside.mpi`, or the script below in its place, leaves as the last line of the log when the command could not be run everywhere.
CODES = frozenset({"MpiInstanceLost", "MpiLauncherLost", "MpiNotFound", "MpiSetupFailed", "PythonNotFound"})
# What only the instances of one job know (`moorage.podside.mpi.shell.KEY`).
_KEY = "MOORAGE_MPI_KEY"
_NO_PYTHON = (
    "PythonNotFound",
    "The image has no Python of version 3.7 or later, which a job with distribution type mpi needs to start its processes on other instances: "
    "take an image with python3 on its PATH, or an environment with conda or pip packages.",
)
# $0 is the user's command. Process 1 of a container hears no signal that it has not asked for. Names begin with an underscore: an assignment to
# one that is in the environment would change what the command finds there.
# MPICH gives the variables of rank 0's instance to every process, so that none may say which instance this is.
_SCRIPT = f"""trap 'exit 143' TERM
_folder={PEERS_FOLDER}
. "$_folder/instance.sh"
unset JOB_COMPLETION_INDEX
for _python in python3 python; do
  if "$_python" -c 'import sys; sys.exit(sys.version_info < (3, 7))' >/dev/null 2>&1; then
    exec "$_python" -IBu "$_folder/moorage_mpi" run --peers "$_peers" --index "$_index" --port "$_port" --processes "$LOCAL_WORLD_SIZE" -- "$0"
  fi
done
echo {shlex.quote(json.dumps(dict(zip(("code", "message"), _NO_PYTHON, strict=True))))} >&2
exit 127"""


def launch(rendering: Rendering) -> list[Manifest]:
    """A gang's objects, whose pods run the command through `mpirun`."""
    *before, job = gang.launch(rendering)
    template = job["spec"]["template"]
    pod = template["spec"]
    (main,) = pod["containers"]
    shell, _, text = main["command"]
    # Outside of mpirun for mpirun itself, and inside the command once more: Open MPI 4 puts its own folder first on the PATH of other instances.
    script = workload.with_environment(rendering.spec.get("environment") or {}, _SCRIPT)
    key = digest(rendering.uid, str(rendering.attempt), "mpi", length=32)
    main = {**main, "command": [shell, "-c", command.literal(script), text], "env": [*main["env"], *workload.variables({_KEY: key})]}
    spec = {**job["spec"], "template": {**template, "spec": {**pod, "containers": [main]}}}
    return [*before, {**job, "spec": spec}]
