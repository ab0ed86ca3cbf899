"""The node's binaries: `kubelet`, `kube-proxy` and `pause` of a folder that is given, or built once like the control plane's.

A module beside the control plane's, with the same version of Kubernetes: who needs no containers never builds it.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.real.control_plane import binaries
from tests.real.control_plane.binaries import _OUT_OF_REACH as OUT_OF_REACH
from tests.real.control_plane.binaries import Broken, NoBinaries, version_of
from tests.real.control_plane.toolchain import NoGo, go

MODULE = binaries.MODULE / "node"
COMPONENTS = ("kubelet", "kube-proxy", "pause")
_COMBINED = "node"
_BUILD_SECONDS = 60 * 60


@dataclass(frozen=True, slots=True)
class NodeBinaries:
    """How each component is started."""

    kubelet: tuple[str, ...]
    proxy: tuple[str, ...]
    pause: Path


def find(minor: str, folder: Path | None = None) -> NodeBinaries:
    """The binaries of a minor.

    Raises NoBinaries when there are none and none can be built; Broken when a build fails.
    """
    if folder is not None:
        if missing := [name for name in COMPONENTS if not (folder / name).exists()]:
            raise NoBinaries(f"{folder} has no {', '.join(missing)}.")
        return NodeBinaries((str(folder / "kubelet"),), (str(folder / "kube-proxy"),), folder / "pause")
    version = version_of(minor)
    made = binaries.cache() / f"node-{version}-{_digest(minor)}"
    if not made.exists():
        _build(minor, version, made)
    combined = str(made / _COMBINED)
    return NodeBinaries((combined, "kubelet"), (combined, "kube-proxy"), made / "pause")


def _digest(minor: str) -> str:
    digest = hashlib.sha256()
    for name in ("main.go", "pause/main.go", f"kubernetes-{minor}.mod", f"kubernetes-{minor}.sum"):
        digest.update((MODULE / name).read_bytes())
    return digest.hexdigest()[:12]


def _build(minor: str, version: str, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        command, chosen = go(_go_version(minor), target.parent)
    except NoGo as error:
        raise NoBinaries(f"No kubelet: {error}; or give a folder with {', '.join(COMPONENTS)}.") from error
    with (target.parent / "lock").open("w") as lock, tempfile.TemporaryDirectory(dir=target.parent) as name:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if target.exists():
            return
        made = Path(name) / "made"
        made.mkdir()
        major, number = version.lstrip("v").split(".")[:2]
        stamp = {"gitVersion": version, "gitMajor": major, "gitMinor": number, "gitTreeState": "clean"}
        linked = " ".join(("-s", "-w", *(f"-X k8s.io/component-base/version.{key}={value}" for key, value in stamp.items())))
        print(
            f"Building the kubelet of Kubernetes {version} from its Go modules, once; 5 to 10 minutes on two cores ...",
            file=sys.stderr,
            flush=True,
        )
        for package, output in ((".", _COMBINED), ("./pause", "pause")):
            words = [str(command), "build", f"-modfile=kubernetes-{minor}.mod", "-mod=readonly", "-trimpath", "-buildvcs=false"]
            done = subprocess.run(
                ["nice", "-n", "19", *words, "-ldflags", linked, "-o", str(made / output), package],
                cwd=MODULE,
                env=os.environ | {"CGO_ENABLED": "0", "GOFLAGS": ""} | chosen,
                capture_output=True,
                text=True,
                timeout=_BUILD_SECONDS,
                check=False,
            )
            if done.returncode:
                end = (done.stdout + done.stderr)[-1500:]
                if OUT_OF_REACH.search(done.stderr):
                    raise NoBinaries(f"The Go modules of Kubernetes cannot be had here:\n{end}")
                raise Broken(f"The kubelet could not be built:\n{end}")
        made.rename(target)


def _go_version(minor: str) -> str:
    line = next(line for line in (MODULE / f"kubernetes-{minor}.mod").read_text().splitlines() if line.startswith("go "))
    number = line.removeprefix("go ").strip()
    return number if number.count(".") == 2 else f"{number}.0"
