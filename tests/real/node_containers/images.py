"""Images for the nodes, made once from Debian packages and kept in the tests' cache under a name that says what went into them."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from image.build import build, build_component, inputs_digest
from image.facts import Facts, component
from image.oci import ARCHITECTURES, archive, split

from tests.real.control_plane.binaries import cache
from tests.real.node_containers.binaries import NodeBinaries
from tests.real.node_containers.configuration import PAUSE

# What a person's image may be: Debian without any Python, and one that has a library for machine learning.
PLAIN = "example.test/plain:1"
SKLEARN = "example.test/sklearn:1"
_PACKAGES = {PLAIN: ["ca-certificates"], SKLEARN: ["python3", "python3-sklearn"]}


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
    return _kept("component", inputs_digest(), lambda path: build_component(path, compress=False))


def user_image(reference: str) -> Path:
    """An image as a user might bring."""
    ours = component()
    packages = _PACKAGES[reference]
    # Packages for machine learning need Perl's own dependents, or not; only the small one is made smaller.
    facts = Facts(reference.partition(":")[0], ours.suite, packages, ours.unwanted if reference == PLAIN else ())
    wanted = hashlib.sha256(
        json.dumps(asdict(facts)).encode() + (Path(__file__).parent.parent.parent.parent / "image" / "build.py").read_bytes()
    )
    name = reference.partition("/")[2].partition(":")[0]
    return _kept(name, wanted.hexdigest()[:12], lambda path: build(path, facts, reference, compress=False))


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
