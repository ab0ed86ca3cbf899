"""A real control plane (scripts/kubernetes) and the embedded cluster: time to ready, what a job asks of the API server, what is written when nothing happens.

`benchmarks/run kubernetes`, apart from the others: it takes a quarter of an hour, and building the control plane the first time as much again.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[0] = str(ROOT)
sys.path.append(str(Path(__file__).parent))

from table import Row  # noqa: E402
from tests.real.audit import Request, requests  # noqa: E402
from tests.real.control_plane.binaries import find, minors  # noqa: E402
from tests.real.control_plane.plane import Plane, routed  # noqa: E402
from tests.real.workspace import Workspace, served_workspace  # noqa: E402

import stack  # noqa: E402

EXAMPLE = ROOT / "examples" / "digits"
SETTLE_SECONDS = 90.0
QUIET_SECONDS = 300.0
ACCOUNTS = "system:serviceaccount:azureml:"
JOB = """
type: command
command: echo done
environment: {image: python:3.11}
compute: azureml:local
"""


def main() -> None:
    folder = Path(tempfile.mkdtemp(prefix="moorage-kube-", dir="/var/tmp"))
    try:
        for label, value in measure(folder):
            print(f"{label}: {value}", flush=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def measure(folder: Path) -> Iterator[Row]:
    plane = Plane(folder / "k8s")
    minor = minors()[0]
    found = find(minor)
    try:
        yield (
            f"Kubernetes {found.version}, cold, to ready with two nodes",
            f"{_timed(lambda: plane.up(minor, lambda: found, nodes=2)):6.1f} s",
        )
        plane.stop_nodes()
        for name in reversed(list(found.commands)):
            plane.stop(name)
        yield "the same state again after all was killed", f"{_timed(lambda: plane.up(minor, lambda: found)):6.1f} s"
        yield from _with_extension(plane, folder)
    finally:
        plane.down()
    yield from _embedded(folder)


def _with_extension(plane: Plane, folder: Path) -> Iterator[Row]:
    log = plane.layout.audit_log
    with served_workspace(folder / "home", plane.layout.kubeconfig) as workspace:
        yield "the extension installed, a compute attached", f"{_timed(workspace.install):6.1f} s"
        job = folder / "job.yml"
        job.write_text(JOB)
        for name in ("first", "second"):
            since = log.stat().st_size
            workspace.ok("job", "create", "-f", str(job), "--name", name, "--stream")
            asked = Counter({each: count for each, count in requests(log, since=since).items() if not each.beats})
        ours = Counter({each: count for each, count in asked.items() if each.user.startswith(ACCOUNTS)})
        yield "requests for a job without environment, leases and heartbeats aside, by us", _sum(ours)
        yield "  of them writes", _sum(Counter({each: count for each, count in ours.items() if each.writes}))
        yield "  by everybody, nodes and controllers included", _sum(asked)
        if routed():
            _serve(workspace)
        time.sleep(SETTLE_SECONDS)
        since = log.stat().st_size
        time.sleep(QUIET_SECONDS)
        quiet = requests(log, since=since)
        hour = 3600 / QUIET_SECONDS
        writes = Counter({each: count for each, count in quiet.items() if each.writes})
        beats = Counter({each: count for each, count in writes.items() if each.beats})
        yield f"settled, over {QUIET_SECONDS:g} s, leases and heartbeats an hour", f"{sum(beats.values()) * hour:.0f}"
        yield "  other writes an hour", f"{sum((writes - beats).values()) * hour:.0f}"
        for each, count in sorted((writes - beats).items()):
            yield f"    {each.user} {each.verb} {each.resource}", f"{count * hour:.0f}"
        yield (
            "  reads an hour, by us",
            f"{sum(count for each, count in quiet.items() if each.user.startswith(ACCOUNTS) and not each.writes) * hour:.0f}",
        )
        workspace.remove()


def _serve(workspace: Workspace) -> None:
    """The example's model trained and served: most of what can write when nothing happens."""
    workspace.ok("job", "create", "-f", str(EXAMPLE / "train.yml"), "--name", "digits", "--stream")
    workspace.ok("model", "create", "--name", "digits", "--type", "custom_model", "--path", "azureml://jobs/digits/outputs/model")
    workspace.ok("online-endpoint", "create", "-f", str(EXAMPLE / "endpoint.yml"))
    workspace.ok("online-deployment", "create", "-f", str(EXAMPLE / "deployment.yml"), "--all-traffic")


def _embedded(folder: Path) -> Iterator[Row]:
    """The same on the embedded cluster, which has no audit log: its versions count writes."""
    running = stack.Stack(folder / "embedded", stack.free_ports())
    kubeconfig = running.home / "cluster" / "kubeconfig"
    try:
        running.up("--tour", str(EXAMPLE), timeout=600)
        time.sleep(SETTLE_SECONDS)
        before, _ = changed(kubeconfig, 0)
        time.sleep(QUIET_SECONDS)
        after, names = changed(kubeconfig, before)
        yield f"embedded cluster, settled, over {QUIET_SECONDS:g} s, writes an hour", f"{(after - before) * 3600 / QUIET_SECONDS:.0f}"
        yield (
            "  objects written, leases and nodes aside",
            ", ".join(name for name in names if not name.startswith(("Lease ", "Node "))) or "none",
        )
    finally:
        running.run("down", "--purge", "--yes")


def changed(kubeconfig: Path, since: int) -> tuple[int, list[str]]:
    """The newest version in the cluster, and what was written after `since`."""

    def kubectl(*words: str) -> str:
        command = [str(Path(sys.executable).parent / "kubectl"), f"--kubeconfig={kubeconfig}", *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout

    kinds = ",".join(kubectl("api-resources", "--verbs=list", "-o", "name").split())
    found = json.loads(kubectl("get", kinds, "-A", "-o", "json"))["items"]
    versions = {f"{one['kind']} {one['metadata']['name']}": int(one["metadata"].get("resourceVersion") or 0) for one in found}
    return max(versions.values()), sorted(name for name, version in versions.items() if version > since)


def _timed(act: Callable[[], object]) -> float:
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


def _sum(counted: Counter[Request]) -> str:
    return f"{sum(counted.values()):6d}"


if __name__ == "__main__":
    main()
