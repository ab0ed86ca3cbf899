"""Where the control plane's binaries come from: a folder that is given, an envtest folder, or a build of pinned Go modules that a cache keeps.

The versions stand in `tests/real/binaries/kubernetes-MINOR.mod` and nowhere else.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

MODULE = Path(__file__).parent.parent / "binaries"
COMPONENTS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")
_COMBINED = "control-plane"
_BUILD_SECONDS = 60 * 60  # 10 minutes on two idle cores; much more beside other work
_LINKED = "-s -w"


class NoBinaries(Exception):
    """There are none, and the message says what would bring some."""


@dataclass(frozen=True, slots=True)
class Binaries:
    """How each component is started, and where from."""

    version: str
    source: str
    commands: Mapping[str, tuple[str, ...]]


def minors() -> list[str]:
    """The pinned minors, newest first."""
    found = [path.stem.removeprefix("kubernetes-") for path in MODULE.glob("kubernetes-*.mod")]
    return sorted(found, key=lambda minor: tuple(map(int, minor.split("."))), reverse=True)


def version_of(minor: str) -> str:
    """The pinned version of a minor, e.g. `v1.37.2`."""
    pins = MODULE / f"kubernetes-{minor}.mod"
    if not pins.exists():
        raise NoBinaries(f"Kubernetes {minor} is not pinned; there are: {', '.join(minors())}.")
    found = re.search(r"^\tk8s\.io/kubernetes (v\S+)$", pins.read_text(), re.MULTILINE)
    assert found is not None, pins
    return found[1]


def cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "moorage-tests" / "binaries"


def find(minor: str, folder: Path | None = None, *, build: bool = True) -> Binaries:
    """The binaries of a minor from the first source that has them all.

    Raises NoBinaries when none has and none may, or can, be built.
    """
    version = version_of(minor)
    if folder is not None:
        missing = [name for name in COMPONENTS if not (folder / name).exists()]
        if missing:
            raise NoBinaries(f"{folder} has no {', '.join(missing)}.")
        return _separate(folder, "given")
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    # envtest's own archives end at etcd and the API server; only a folder with the controllers too is of use.
    if assets and all((Path(assets) / name).exists() for name in COMPONENTS):
        found = _separate(Path(assets), "KUBEBUILDER_ASSETS")
        if found.version.startswith(f"v{minor}."):
            return found
    combined = cache() / f"{version}-{_digest(minor)}" / _COMBINED
    if not combined.exists():
        if not build:
            raise NoBinaries(f"Kubernetes {version} is not built yet; `scripts/kubernetes build --minor {minor}` does it once.")
        _build(minor, version, combined)
    return Binaries(version, str(combined), {name: (str(combined), name) for name in COMPONENTS})


def _separate(folder: Path, source: str) -> Binaries:
    answer = subprocess.run([folder / "kube-apiserver", "--version"], capture_output=True, text=True, timeout=30, check=True).stdout
    return Binaries(answer.split()[-1], f"{source}: {folder}", {name: (str(folder / name),) for name in COMPONENTS})


def _digest(minor: str) -> str:
    """Of everything that goes into the build."""
    digest = hashlib.sha256(_LINKED.encode())
    for name in ("main.go", f"kubernetes-{minor}.mod", f"kubernetes-{minor}.sum"):
        digest.update((MODULE / name).read_bytes())
    return digest.hexdigest()[:12]


def _build(minor: str, version: str, target: Path) -> None:
    go = shutil.which("go")
    if go is None:
        raise NoBinaries(
            "No control plane binaries: give a folder with --binaries, set KUBEBUILDER_ASSETS to one that has the controller manager and "
            "the scheduler too, or install Go, with which they are built once."
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    with (target.parent / "lock").open("w") as lock:
        # Two builds at once would take twice as long each; the second finds what the first made.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if target.exists():
            return
        major, number = version.lstrip("v").split(".")[:2]
        stamp = {"gitVersion": version, "gitMajor": major, "gitMinor": number, "gitTreeState": "clean"}
        linked = " ".join((_LINKED, *(f"-X k8s.io/component-base/version.{name}={value}" for name, value in stamp.items())))
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            made = Path(folder) / _COMBINED
            words = [go, "build", f"-modfile=kubernetes-{minor}.mod", "-mod=readonly", "-trimpath", "-buildvcs=false", "-ldflags", linked]
            print(f"Building Kubernetes {version} from its Go modules, once; about 10 minutes on two cores ...", file=sys.stderr)
            subprocess.run(
                ["nice", "-n", "19", *words, "-o", str(made), "."],
                cwd=MODULE,
                env=os.environ | {"CGO_ENABLED": "0", "GOFLAGS": ""},
                timeout=_BUILD_SECONDS,
                check=True,
            )
            made.rename(target)
