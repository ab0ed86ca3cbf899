"""A Python on the environments' volume that needs nothing of the image it runs in: interpreter, standard library, every shared library it links to
and the C library with its loader, copied from the image that prepares environments.

The paths of loader and libraries are written into the copy, so that no variable has to be set and no child process notices: the volume must lie at
the same path wherever the copy runs. See docs/decisions/0010-workload-security.md.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from moorage.errors import MoorageError, NotFound
from moorage.podside import programs
from moorage.podside.locks import held

# Set to `shared` by a node on which every image has this very interpreter: links to it are enough.
VARIABLE = "MOORAGE_INTERPRETER"
SHARED = "shared"
_RECIPE = 1
_FOLDER = ".interpreters"
_READY = ".moorage-ready"
# Packages go into environments; the rest would need libraries or displays that no pod has.
_LEFT_OUT = (
    "site-packages",
    "dist-packages",
    "test",
    "tests",
    "idlelib",
    "turtledemo",
    "config-*",
    "EXTERNALLY-MANAGED",
    "_tkinter.*",
    "_test*",
)
# Wheels link to these and leave them to the system, which may have them older than its neighbours here.
_EXPECTED_BY_WHEELS = ("libstdc++.so.6", "libgcc_s.so.1")
_FOUND = re.compile(r"^\s*(\S+) => (/\S.*) \(0x[0-9a-f]+\)$", re.MULTILINE)
_ASK = """
import json, sys, sysconfig
print(json.dumps([sys.version, sysconfig.get_paths()["stdlib"], sysconfig.get_paths()["platstdlib"], sysconfig.get_config_var("SOABI")]))
"""


def shared(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether the images of this node all have the interpreter that prepares environments."""
    return environment.get(VARIABLE) == SHARED


def standalone(python: Path, root: Path) -> Path:
    """The copy of `python` below `root`, made when it is not there yet.

    Args:
        python: an interpreter of this container.
        root: the environments' volume, at the path that pods see it at.

    Raises:
        NotFound: this installation lacks patchelf.
        MoorageError: the interpreter is linked to a library that is not there, or not by glibc's loader.
    """
    python = python.resolve()
    try:
        version, standard, platform, abi = json.loads(_output([str(python), "-I", "-S", "-c", _ASK]))
    except ValueError as error:
        raise MoorageError(f"{python} is no Python interpreter.", code="BrokenInstallation") from error
    loader = Path(_patchelf("--print-interpreter", str(python)).strip())
    if not loader.name.startswith("ld-linux"):
        raise MoorageError(f"{python} is not linked by glibc's loader but by {loader}.", code="BrokenInstallation")
    stamps = [[status.st_size, status.st_mtime_ns] for status in (python.stat(), loader.stat())]
    key = hashlib.sha256(json.dumps([_RECIPE, version, abi, str(root), stamps]).encode()).hexdigest()[:12]
    target = root / _FOLDER / f"cpython-{version.split()[0].rstrip('+')}-{key}"
    if not (target / _READY).exists():
        with held(root / ".locks" / target.name, f"Python {version.split()[0]}"):
            if not (target / _READY).exists():
                _make(target, python, loader, sorted({Path(standard), Path(platform)}))
    return target / "bin" / python.name


def _make(target: Path, python: Path, loader: Path, standard: Iterable[Path]) -> None:
    building = target.with_name(f"{target.name}.part")
    # The lock is ours: whatever lies there was left by a pod that died.
    for left in (building, target):
        if left.exists():
            shutil.rmtree(left)
    try:
        (building / "bin").mkdir(parents=True)
        for folder in standard:
            shutil.copytree(folder, building / "lib" / folder.name, ignore=shutil.ignore_patterns(*_LEFT_OUT), dirs_exist_ok=True)
        copied = building / "bin" / python.name
        shutil.copy2(python, copied)
        modules = sorted((building / "lib").glob("python*/lib-dynload/*.so"))
        libraries = _libraries(loader, [python, *modules])
        for name, place in libraries.items():
            shutil.copy2(place.resolve(), building / "lib" / name)
        final = str(target / "lib")
        _patchelf("--set-interpreter", f"{final}/{loader.name}", str(copied))
        # DT_RPATH, which unlike DT_RUNPATH also counts for what the libraries need, and comes before LD_LIBRARY_PATH.
        _patchelf("--force-rpath", "--set-rpath", final, str(copied))
        for file in (*modules, *(building / "lib" / name for name in libraries if name != loader.name)):
            if _patchelf("--print-rpath", str(file)).strip():
                _patchelf("--force-rpath", "--set-rpath", final, str(file))
        _check(building, loader, copied)
        (building / _READY).touch()
        building.rename(target)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _libraries(loader: Path, files: Iterable[Path]) -> dict[str, Path]:
    """The shared libraries these files need, by the names they ask for, the loader included."""
    found: dict[str, Path] = {loader.name: loader}
    for file in files:
        said = _output([str(loader), "--list", str(file)])
        found |= {name: Path(place) for name, place in _FOUND.findall(said)}
        if missing := re.search(r"^\s*(\S+) => not found", said, re.MULTILINE):
            raise MoorageError(f"{file} needs {missing[1]}, which this image lacks.", code="BrokenInstallation")
    folders = {place.parent for place in found.values()}
    for name in _EXPECTED_BY_WHEELS:
        for place in sorted(folder / name for folder in folders if (folder / name).exists()):
            found.setdefault(name, place)
    return found


def _check(building: Path, loader: Path, python: Path) -> None:
    """Run the copy before it has its place, compiling what has no byte code yet: users see it read-only and could not keep theirs."""
    library = building / "lib"
    compiling = [
        str(library / loader.name),
        "--library-path",
        str(library),
        str(python),
        "-I",
        "-S",
        "-m",
        "compileall",
        "-qq",
        str(library),
    ]
    # Some of the standard library's files are no Python on purpose; an interpreter that does not start ends otherwise.
    ended = programs.run(compiling)
    if ended.returncode not in (0, 1) or ended.stderr:
        raise MoorageError(f"The copy of {python.name} does not run: {ended.stderr[-500:]}", code="BrokenInstallation")


def _patchelf(*arguments: str) -> str:
    beside = Path(sys.executable).with_name("patchelf")
    program = str(beside) if beside.exists() else shutil.which("patchelf")
    if program is None:
        raise NotFound("This Moorage installation lacks 'patchelf', which makes interpreters portable.", code="BrokenInstallation")
    return _output([program, *arguments])


def _output(command: list[str]) -> str:
    ended = programs.run(command)
    if ended.returncode:
        raise MoorageError(f"{command[0]} ended with {ended.returncode}: {ended.stderr[-500:].strip()}", code="BrokenInstallation")
    return ended.stdout
