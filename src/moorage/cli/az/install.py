"""`moorage az`: the `az` executable for scripts that were written for the original."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

import click

from moorage.cli.candidates import folders
from moorage.cli.commands import command, group
from moorage.cli.session import Session
from moorage.errors import Conflict, Invalid, NotFound
from moorage.specs.manifest import Manifest

az = group("az", "An `az` executable that answers `az ml ...` and its neighbours.")
# By this line our own file is known.
_MARK = "# The az shim of Moorage; `moorage az install` makes it anew."


@command(az, "install", examples=["moorage az install ~/.local/bin", "moorage az install ~/bin --force"])
@click.argument("folder", metavar="DIR", shell_complete=folders)
@click.option("--force", is_flag=True, help="Replace a file of that name that is not Moorage's.")
def install(session: Session, folder: str, force: bool) -> Manifest:
    """Put an executable `az` into DIR. It runs this installation of Moorage and speaks to nothing but its workspace service."""
    path = Path(folder).expanduser().absolute() / "az"
    if path.is_dir():
        raise Invalid(f"{path} is a folder; name the folder in which `az` should lie.", target="DIR")
    if (path.exists() or path.is_symlink()) and not _ours(path) and not force:
        raise Conflict(f"{path} is there already and is not Moorage's. Name another folder, or replace it with --force.", target="DIR")
    # -P: a file of the folder where somebody calls it (`random.py`, `moorage/`) is not taken for a module.
    text = "\n".join(("#!/bin/sh", _MARK, f'exec {_quote(sys.executable)} -P -m moorage.cli.az "$@"', ""))
    # Whole or not at all, and never through a link to somebody else's file.
    draft = path.with_name(f".az.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(text, encoding="utf-8")
        draft.chmod(0o755)
        draft.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise Invalid(f"{path} cannot be written: {error.strerror}.", target="DIR") from error
    searched = [Path(each or ".").absolute() for each in os.environ.get("PATH", "").split(os.pathsep)]
    if path.parent not in searched:
        session.say(f'put it in front of others: export PATH="{path.parent}:$PATH"')
    return {"path": str(path)}


@command(az, "uninstall", examples=["moorage az uninstall ~/.local/bin"])
@click.argument("folder", metavar="DIR", shell_complete=folders)
def uninstall(session: Session, folder: str) -> None:
    """Remove the executable from DIR; a file that is not Moorage's stays."""
    path = Path(folder).expanduser().absolute() / "az"
    if not path.is_file():
        raise NotFound(f"there is no {path}.", target="DIR")
    if not _ours(path):
        raise Conflict(f"{path} is not Moorage's; it stays.", target="DIR")
    path.unlink()
    session.say(f"removed {path}")


def _ours(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return _MARK.encode() in file.read(400)
    except OSError:
        return False


def _quote(text: str) -> str:
    import shlex

    return shlex.quote(text)
