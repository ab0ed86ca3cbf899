"""Puts the scoring server, and the pure Python packages it borrows, into a folder that the user's interpreter can run from."""

from __future__ import annotations

import shutil
from importlib.util import find_spec
from pathlib import Path

from moorage.errors import MoorageError

# What the server needs of others; `scoring.borrow` makes them importable behind everything the user's environment has.
BORROWED = ("uvicorn", "h11", "click")


def install_scoring(folder: Path) -> None:
    """Copy `moorage_scoring` and the borrowed packages into `folder`; a repeat replaces what an interrupted one left."""
    sources = {"moorage_scoring": Path(__file__).parent / "scoring", **{name: _package(name) for name in BORROWED}}
    folder.mkdir(parents=True, exist_ok=True)
    for name, source in sources.items():
        part = folder / f".{name}.part"
        shutil.rmtree(part, ignore_errors=True)
        shutil.copytree(source, part)
        target = folder / name
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
