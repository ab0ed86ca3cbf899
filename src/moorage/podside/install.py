"""Puts what runs in the user's container into a folder that the user's interpreter can run from: the scoring server with the pure Python packages it
borrows, and what starts jobs."""

from __future__ import annotations

import shutil
from importlib.util import find_spec
from pathlib import Path

from moorage.errors import MoorageError

# What the server needs of others; `scoring.borrow` makes them importable behind everything the user's environment has.
BORROWED = ("uvicorn", "h11", "click")


# The shell that mpirun calls: a program by itself.
_SHELL = "rsh"
_SINGLE = "single.sh"


def install_mpi(folder: Path) -> None:
    """Copy `moorage_mpi` into `folder`, which exists; a repeat replaces what an interrupted one left."""
    _copy(Path(__file__).parent / "mpi", folder / "moorage_mpi")
    # A wheel need not keep what may be executed.
    (folder / "moorage_mpi" / _SHELL).chmod(0o755)


def install_start(folder: Path) -> None:
    """Copy what runs the command of a job of one process into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(Path(__file__).with_name(_SINGLE), folder / _SINGLE)


def install_scoring(folder: Path) -> None:
    """Copy `moorage_scoring` and the borrowed packages into `folder`; a repeat replaces what an interrupted one left."""
    sources = {"moorage_scoring": Path(__file__).parent / "scoring", **{name: _package(name) for name in BORROWED}}
    folder.mkdir(parents=True, exist_ok=True)
    for name, source in sources.items():
        _copy(source, folder / name)


def _copy(source: Path, target: Path) -> None:
    part = target.with_name(f".{target.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(source, part)
    if target.exists():
        shutil.rmtree(target)
    part.rename(target)


def _package(name: str) -> Path:
    spec = find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise MoorageError(
            f"This Moorage installation lacks the package '{name}', which the scoring server needs.", code="BrokenInstallation"
        )
    return Path(next(iter(spec.submodule_search_locations)))
