"""One container's launch document: its environment, its mounts and its limits, put together for the shim."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from moorage.embedded.node import mounts
from moorage.embedded.node.attempt import LogLimits
from moorage.embedded.node.cgroups import Cgroups, Limits
from moorage.embedded.node.devices import Gpu
from moorage.embedded.node.environment import Surroundings, command, expand, resolve
from moorage.embedded.node.images import Images, is_component
from moorage.embedded.node.mounts import Entry, Mount
from moorage.embedded.node.status import qos_class
from moorage.embedded.node.volumes import SERVICE_ACCOUNT_PATH
from moorage.errors import Invalid, NotFound
from moorage.specs.manifest import Manifest
from moorage.specs.mounted import VARIABLE
from moorage.specs.quantities import parse_quantity

TERMINATION_LOG = "/dev/termination-log"


@dataclass(frozen=True, slots=True)
class Confinement:
    """How containers get a root of their own. `mode`: `root`, `user` (a user namespace) or `none`, and then `reason` says why."""

    mode: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Machine:
    """What containers of a node run on: the same for all nodes of one process but for `folder` and `allocatable`.

    Args:
        api: host and port of the Kubernetes API, as containers reach it.
        gpus: all of the machine, whichever node offers them.
    """

    confinement: Confinement
    cgroups: Cgroups
    images: Images
    api: tuple[str, int]
    folder: Path
    allocatable: Mapping[str, str] = field(default_factory=dict)
    gpus: Sequence[Gpu] = ()
    log_limits: LogLimits = field(default_factory=LogLimits)
    shortest_grace: timedelta = timedelta(seconds=2)


class HostFiles:
    """The host's file system as `mounts.plan` asks for it."""

    def entry(self, path: str) -> Entry | None:
        try:
            mode = os.lstat(path).st_mode
        except OSError:
            return None
        if stat.S_ISLNK(mode):
            return Entry("link", str(Path(path).readlink()))
        return Entry("dir" if stat.S_ISDIR(mode) else "file")

    def children(self, path: str) -> Mapping[str, Entry]:
        try:
            names = os.listdir(path)
        except OSError:
            return {}
        found = ((name, self.entry(os.path.join(path, name))) for name in names)
        return {name: entry for name, entry in found if entry is not None}


@dataclass(frozen=True, slots=True)
class Place:
    """Folders of a container on the host: the pod's, and the one of this attempt."""

    pod: Path
    attempt: Path


def limits_of(container: Manifest) -> Limits:
    """The container's limits; CPU requests become shares, as in the kubelet."""
    resources = container.get("resources") or {}
    limits, requests = resources.get("limits") or {}, resources.get("requests") or {}
    memory = parse_quantity(limits["memory"], target="limits.memory") if "memory" in limits else 0
    cpu = parse_quantity(limits["cpu"], target="limits.cpu") if "cpu" in limits else 0
    asked = parse_quantity(requests["cpu"], target="requests.cpu") if "cpu" in requests else cpu
    return Limits(int(memory), float(cpu), max(2, int(asked * 1024)))


def oom_score(pod: Manifest, container: Manifest, memory: int) -> int:
    """How readily the kernel ends it when the machine is out of memory (kubelet qos/policy.go); never less than a plain process."""
    match qos_class(pod["spec"]):
        case "Guaranteed":
            return 2
        case "BestEffort":
            return 1000
    request = ((container.get("resources") or {}).get("requests") or {}).get("memory") or "0"
    share = int(parse_quantity(request, target="requests.memory") * 1000 / memory) if memory else 0
    return min(max(2, 1000 - share), 999)


def compose(
    container: Manifest, around: Surroundings, volumes: Mapping[str, Path], place: Place, machine: Machine, *, token: Path | None
) -> Manifest:
    """The launch document. Raises NotFound for what a reference lacks, Invalid for what cannot be.

    Args:
        volumes: the host path of every volume that the container mounts.
        token: the ServiceAccount folder; None: the pod does not want it.
    """
    confined = machine.confinement.mode != "none"
    env = resolve(container, around, _base_environment(container, around, place, machine))
    argv = command(container, env)
    mounted = _volume_mounts(container, volumes, env)
    if token is not None and not any(mount.path == SERVICE_ACCOUNT_PATH for mount in mounted):
        mounted.append(Mount(SERVICE_ACCOUNT_PATH, str(token), readonly=True))
    termination = place.attempt / "termination"
    termination.touch(mode=0o666)
    mounted.append(Mount(os.path.normpath(container.get("terminationMessagePath") or TERMINATION_LOG), str(termination), file=True))
    cwd = os.path.normpath(container.get("workingDir") or "/")
    launch: Manifest = {
        "argv": argv,
        "env": env,
        "cwd": cwd,
        "namespace": machine.confinement.mode,
        "root": str(place.attempt / "root"),
        "steps": [],
        "cgroups": [],
        "stdin": bool(container.get("stdin")),
        "tty": bool(container.get("tty")),
        "oomScoreAdj": oom_score(around.pod, container, int(parse_quantity(around.allocatable.get("memory", "0"), target="memory"))),
    }
    if not confined:
        rewriting = mounts.rewriting(mounted)
        launch = rewriting.launch(launch)
        return {**launch, "env": {**launch["env"], VARIABLE: json.dumps(dict(rewriting.folders))}}
    (place.attempt / "root").mkdir()
    launch["steps"] = mounts.plan(_root_mounts(mounted, cwd, place, machine), HostFiles())
    return launch


def _base_environment(container: Manifest, around: Surroundings, place: Place, machine: Machine) -> dict[str, str]:
    home = place.pod / "home"
    home.mkdir(exist_ok=True)
    host, port = machine.api
    env = {
        **dict(machine.images.inherited),
        "PATH": machine.images.path(container.get("image", ""), home / ".python"),
        "HOME": str(home),
        "HOSTNAME": around.pod["spec"].get("hostname") or around.pod["metadata"]["name"],
        "LANG": os.environ.get("LANG", "C.UTF-8"),
        "KUBERNETES_SERVICE_HOST": host,
        "KUBERNETES_SERVICE_PORT": str(port),
        "KUBERNETES_SERVICE_PORT_HTTPS": str(port),
        "KUBERNETES_PORT": f"tcp://{host}:{port}",
    }
    if is_component(container.get("image", "")):
        # Every image stands for the same interpreter here: environments link to it instead of carrying a copy (moorage.podside.interpreter).
        env["MOORAGE_INTERPRETER"] = "shared"
    if machine.confinement.mode == "none":
        (place.attempt / "tmp").mkdir(exist_ok=True)
        env["TMPDIR"] = str(place.attempt / "tmp")
    return env


def _volume_mounts(container: Manifest, volumes: Mapping[str, Path], env: Mapping[str, str]) -> list[Mount]:
    found = []
    for mount in container.get("volumeMounts") or ():
        if (source := volumes.get(mount["name"])) is None:
            raise NotFound(
                f"volume {mount['name']!r} of container {container['name']!r} is not among the pod's volumes", target=mount["name"]
            )
        sub = mount.get("subPath") or expand(mount.get("subPathExpr") or "", env)
        if sub:
            source = _sub_path(source, sub)
        path = os.path.normpath(os.path.join("/", mount["mountPath"]))
        found.append(Mount(path, str(source), bool(mount.get("readOnly")), source.is_file()))
    return found


def _sub_path(volume: Path, sub: str) -> Path:
    """A path inside a volume, made as a directory where it does not exist; never outside, not through links either."""
    base = volume.resolve()
    path = (base / sub).resolve()
    if sub.startswith("/") or not path.is_relative_to(base):
        raise Invalid(f"subPath {sub!r} must stay inside its volume", target="subPath")
    if not path.exists():
        path.mkdir(parents=True)
    return path


def _root_mounts(mounted: Sequence[Mount], cwd: str, place: Place, machine: Machine) -> list[Mount]:
    """All mounts of a root: a private /tmp and /dev/shm, the container's own, and what they must not hide."""
    taken = {mount.path for mount in mounted}
    every = list(mounted)
    if "/tmp" not in taken:
        (place.attempt / "tmp").mkdir(exist_ok=True)
        (place.attempt / "tmp").chmod(0o1777)
        every.append(Mount("/tmp", str(place.attempt / "tmp")))
    if "/dev/shm" not in taken and Path("/dev/shm").is_dir():
        every.append(Mount("/dev/shm", None))
    if not any(_covers(mount.path, cwd) for mount in every) and not Path(cwd).exists():
        (place.attempt / "work").mkdir()
        every.append(Mount(cwd, str(place.attempt / "work")))
    kept = (*machine.images.keep, str(place.pod / "home"))
    hidden = [path for path in kept if Path(path).exists() and any(_covers(mount.path, path) for mount in every)]
    return every + [Mount(path, path, exact=False) for path in hidden if path not in taken]


def _covers(folder: str, path: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def token_wanted(pod: Manifest, account: Manifest | None) -> bool:
    """Whether the pod gets the ServiceAccount's token: the pod decides, else the account, else yes."""
    chosen: Any = pod["spec"].get("automountServiceAccountToken")
    if chosen is None and account is not None:
        chosen = account.get("automountServiceAccountToken")
    return chosen is not False
