"""Writes files in a process that is killed at each of its calls in turn, and then once more whole: `python killed_writers.py FOLDER`.

Says of each work how often it was killed; AssertionError when the last run did not leave what it should.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from moorage.client.profile import load, save
from moorage.embedded.node.images import _layer
from moorage.embedded.node.pod import Record
from moorage.embedded.node.volumes import File, publish_files
from moorage.identity.keyfiles import secret_key, signing_key
from moorage.identity.pki import ensure_authority, ensure_server_certificate

_CALLS = ("open", "os.", "shutil.", "tempfile.")
_OLD = {"plan.json": File(b"old", 0o644), "sub/left": File(b"x", 0o400)}
_NEW = {"plan.json": File(b"new", 0o644), "token": File(b"t", 0o600)}


@dataclass(frozen=True)
class Work:
    """What is there before, what is cut off and then done again, and whether that was right."""

    write: Callable[[Path], object]
    check: Callable[[Path], bool]
    before: Callable[[Path], object] = lambda folder: None


def _holds_new(folder: Path) -> bool:
    shown = {child.name: child.read_bytes() for child in folder.iterdir() if not child.name.startswith("..")}
    return shown == {"plan.json": b"new", "token": b"t"} and len(list(folder.iterdir())) == 4


def _pki(folder: Path) -> None:
    ensure_server_certificate(ensure_authority(folder), folder, "server", ["127.0.0.1"])


def _keys(folder: Path) -> None:
    signing_key(folder / "keys" / "signing.pem")
    secret_key(folder / "keys" / "sealing.key")


def _record(number: int) -> Record:
    return Record({"metadata": {"name": "a"}}, f"127.16.0.{number}", "2026-01-01T00:00:00Z", {})


def _address(folder: Path) -> str:
    found = Record.read(folder)
    return found.ip if found else ""


def _profile(folder: Path, token: str) -> None:
    save({"url": "https://127.0.0.1:1", "token": token}, {"MOORAGE_HOME": str(folder)})


WORKS = {
    "first volume": Work(lambda folder: publish_files(folder, _NEW), _holds_new),
    "changed volume": Work(lambda folder: publish_files(folder, _NEW), _holds_new, lambda folder: publish_files(folder, _OLD)),
    "certificates": Work(
        _pki, lambda folder: {"ca.pem", "ca.key", "server.pem", "server.key"} <= {child.name for child in folder.iterdir()}
    ),
    "keys": Work(_keys, lambda folder: len((folder / "keys" / "sealing.key").read_bytes()) == 32),
    "layer": Work(lambda folder: _layer(folder / "python", Path(sys.executable)), lambda folder: (folder / "python/bin/pip3").exists()),
    "pod": Work(
        lambda folder: _record(2).write(folder), lambda folder: _address(folder) == "127.16.0.2", lambda folder: _record(1).write(folder)
    ),
    "profile": Work(
        lambda folder: _profile(folder, "new"),
        lambda folder: load({"MOORAGE_HOME": str(folder)}).token == "new",
        lambda folder: _profile(folder, "old"),
    ),
}


def _killed_at(number: int, work: Work, folder: Path) -> bool:
    """Whether the process was killed at that call, and not done before."""
    child = os.fork()
    if child == 0:
        left = number

        def hook(event: str, arguments: tuple[object, ...]) -> None:
            nonlocal left
            about = any(isinstance(one, str | os.PathLike) and str(one).startswith(str(folder)) for one in arguments)
            if about and event.startswith(_CALLS):
                if left == 0:
                    os._exit(9)
                left -= 1

        sys.addaudithook(hook)
        work.write(folder)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


def _try(name: str, work: Work, place: Path) -> int:
    for number in count():
        folder = place / f"{name} {number}"
        folder.mkdir()
        work.before(folder)
        killed = _killed_at(number, work, folder)
        work.write(folder)
        assert work.check(folder), f"{name}, killed at call {number}: {sorted(str(each) for each in folder.rglob('*'))}"
        if not killed:
            return number
    raise AssertionError("never")


if __name__ == "__main__":
    for name, work in WORKS.items():
        print(f"{name}: {_try(name, work, Path(sys.argv[1]))}", flush=True)
