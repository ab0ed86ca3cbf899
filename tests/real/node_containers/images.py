"""Images for the nodes, made once from Debian packages and kept in the tests' cache under a name that says what went into them."""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import image
from image.build import build, build_component, inputs_digest, install
from image.facts import Facts, component
from image.oci import ARCHITECTURES, archive, split

from tests.real.control_plane.binaries import cache
from tests.real.node_containers.binaries import NodeBinaries
from tests.real.node_containers.configuration import PAUSE
from tests.real.node_containers.index import wheels

# What a person's image may be: Debian without any Python, and Python with a library for machine learning.
PLAIN = "example.test/plain:1"
SKLEARN = "example.test/sklearn:1"
# Debian's own package of scikit-learn brings compilers and Boost, 860 MB in all.
REQUIREMENTS = ("scikit-learn==1.7.2", "numpy==2.3.5")
_SOURCES = [Path(image.__file__).parent / name for name in ("build.py", "oci.py", "component.toml")]


def pause_image(binaries: NodeBinaries) -> Path:
    """One static program, in the one layer."""

    def make(path: Path) -> None:
        with tempfile.TemporaryDirectory(dir=path.parent) as name:
            folder = Path(name)
            with tarfile.open(folder / "tree", "w") as tree:
                tree.add(binaries.pause, "pause")
            facts = Facts(PAUSE, "", (), user="65535:65535", entry_point=["/pause"])
            layers = split(folder / "tree", ["pause"], lambda _: 0, folder, epoch=0, compress=False)
            archive(path, facts, PAUSE, layers, architecture=ARCHITECTURES[platform.machine()], epoch=0)

    return _kept("pause", hashlib.sha256(binaries.pause.read_bytes()).hexdigest()[:12], make)


def component_image() -> Path:
    """Of this work tree as it is."""
    return _kept("component", inputs_digest(), lambda path: build_component(path, compress=False, trees=cache().parent / "images"))


def plain_image() -> Path:
    """Debian's essential packages as they are."""
    return _kept(
        "plain",
        _digest(),
        lambda path: build(path, _user_facts(PLAIN, ["ca-certificates"]), PLAIN, compress=False, trees=cache().parent / "images"),
    )


def sklearn_image() -> Path:
    """Debian's Python with `REQUIREMENTS` from wheels."""
    packages = ["ca-certificates", "libstdc++6", "python3"]
    prefix = "/opt/user"
    facts = _user_facts(SKLEARN, packages, prefix=prefix, environment={"PATH": f"{prefix}/bin:/usr/bin:/bin"})

    def make(path: Path) -> None:
        with tempfile.TemporaryDirectory(dir=path.parent) as name:
            installed = Path(name) / "installed"
            install(installed, ["--no-index", "--find-links", str(wheels(REQUIREMENTS)), *REQUIREMENTS])
            build(path, facts, SKLEARN, installed=installed, parts={"packages": prefix.strip("/") + "/"}, compress=False, trees=path.parent)

    return _kept("sklearn", _digest(), make)


def _user_facts(reference: str, packages: list[str], **more: Any) -> Facts:
    ours = component()
    return Facts(reference.partition(":")[0], ours.suite, packages, ours.unwanted, **more)


def _digest() -> str:
    """Of what user images are made by and from."""
    digest = hashlib.sha256(Path(__file__).read_bytes())
    for path in _SOURCES:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def _kept(name: str, digest: str, make: Callable[[Path], object]) -> Path:
    """The archive of that content, made when it is not there; earlier ones of the name are taken away."""
    folder = cache().parent / "images"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{digest}.tar"
    with (folder / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            making = folder / f".{name}-{os.getpid()}.tar"
            make(making)
            making.replace(path)
            for old in folder.glob(f"{name}-*.tar"):
                if old != path:
                    old.unlink()
    return path
