"""A folder or file as it is sent: which files, their sizes, and one hash over names and contents.

The hash is the original's (hash version 202208), so that code sent by its SDK and by this client is recognised as the same.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from moorage.client import ignore
from moorage.errors import Invalid

HASH_VERSION = "202208"
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Limits:
    """The most that a code folder may hold; the original's figures. None: no limit."""

    size: int | None = 300 * 1024 * 1024
    files: int | None = 2000

    @staticmethod
    def of(environ: dict[str, str] | os._Environ[str]) -> Limits:
        """`MOORAGE_CODE_LIMIT_MB` and `MOORAGE_CODE_LIMIT_FILES` change them."""
        found = {}
        for name, variable, unit in (("size", "MOORAGE_CODE_LIMIT_MB", 1024 * 1024), ("files", "MOORAGE_CODE_LIMIT_FILES", 1)):
            if text := environ.get(variable):
                if not text.isdigit() or int(text) == 0:
                    raise Invalid(f"{variable} must be a positive whole number, it is '{text}'.", target=variable)
                found[name] = int(text) * unit
        return Limits(**found)


UNLIMITED = Limits(None, None)


@dataclass(frozen=True, slots=True)
class File:
    """One file: its path under the snapshot's root (`/` between parts), where it is, and its size in bytes."""

    name: str
    path: Path
    size: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What is sent, in the order of its hash.

    Attributes:
        root: the file or folder.
        files: what of it.
        folder: the name under which a folder is sent where it is not the root's own.
    """

    root: Path
    files: tuple[File, ...]
    folder: str = ""

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)

    def hash(self, read: Callable[[int], None] | None = None) -> str:
        """SHA-256 over the number of files, names and sizes, and contents.

        Args:
            read: called with the bytes of each piece that was read; many gigabytes take a while.

        Raises:
            Invalid: a file cannot be read, or is gone by now.
        """
        found = hashlib.sha256(str(len(self.files)).encode())
        for file in self.files:
            found.update(f"#{file.name}#{file.size}".encode())
        for file in self.files:
            try:
                with file.path.open("rb") as stream:
                    while block := stream.read(_CHUNK):
                        found.update(block)
                        if read is not None:
                            read(len(block))
            except OSError as error:
                raise Invalid(
                    f"{file.path} cannot be read: {error.strerror}. Make it readable, or leave it out in .amlignore.",
                    code="PathNotReadable",
                    target=str(file.path),
                ) from error
        return found.hexdigest()


def take(root: Path, *, limits: Limits = UNLIMITED, what: str = "folder") -> Snapshot:
    """List a file or a folder's files, as `.amlignore` (else `.gitignore`) at its top allows.

    Args:
        root: the file or folder.
        limits: raise when there is more.
        what: how messages call it, e.g. "the code folder ./src".

    Raises:
        Invalid: not there, unreadable, empty, over a limit (naming the largest files), or with a link that leads out of it.
    """
    try:
        mode = root.stat().st_mode
    except OSError as error:
        raise Invalid(f"{what} does not exist or cannot be read: {root} ({error.strerror}).", code="PathNotFound") from error
    if stat.S_ISREG(mode):
        return within(Snapshot(root, (File(root.name, root, root.stat().st_size),)), limits, what)
    if not stat.S_ISDIR(mode):
        raise Invalid(f"{what} is neither a file nor a folder: {root}.", code="PathNotFound")
    try:
        files = in_order(_walk(root, rules(root)))
    except OSError as error:
        raise Invalid(f"{what} cannot be read: {error.filename or root} ({error.strerror}).", code="PathNotReadable") from error
    if not files:
        raise Invalid(f"{what} holds no files to send: {root} (after .amlignore or .gitignore).", code="PathEmpty")
    return within(Snapshot(root, files), limits, what)


def in_order(files: Iterable[File]) -> tuple[File, ...]:
    """Files as the hash takes them."""
    return tuple(sorted(files, key=lambda file: (file.name.lower(), file.name)))


def rules(root: Path) -> list[ignore.Rule]:
    """`.amlignore`'s rules, `.gitignore`'s when there is none, after those that always hold."""
    found = ignore.parse("\n".join(ignore.ALWAYS))
    for name in (".amlignore", ".gitignore"):
        if (root / name).is_file():
            return found + ignore.parse((root / name).read_text(encoding="utf-8", errors="surrogateescape"))
    return found


def _walk(root: Path, ignored: list[ignore.Rule]) -> Iterator[File]:
    top = root.resolve()
    pending = [(root, "", frozenset({top}))]
    while pending:
        folder, prefix, above = pending.pop()
        with os.scandir(folder) as scanned:
            entries = list(scanned)
        for entry in entries:
            name = f"{prefix}{entry.name}"
            path = Path(entry.path)
            link = entry.is_symlink()
            if ignore.left_out(ignored, name, folder=entry.is_dir()):
                continue
            try:
                name.encode()
            except UnicodeEncodeError as error:
                raise Invalid(
                    f"the file name {name!r} is not valid UTF-8; rename it or leave it out in .amlignore.", code="BadFileName"
                ) from error
            target = path.resolve()
            if link and not target.exists():
                raise Invalid(f"{path} is a link that leads nowhere; remove it or leave it out in .amlignore.", code="BadLink")
            if link and not target.is_relative_to(top):
                raise Invalid(
                    f"{path} is a link out of the folder (to {target}); copy the file, or leave it out in .amlignore.", code="BadLink"
                )
            if entry.is_dir():
                # A link to a folder above would never end.
                if target not in above:
                    pending.append((path, f"{name}/", above | {target}))
            elif entry.is_file():
                yield File(name, path, entry.stat().st_size)
            else:
                raise Invalid(f"{path} is neither a file nor a folder; leave it out in .amlignore.", code="BadFileName")


def within(snapshot: Snapshot, limits: Limits, what: str) -> Snapshot:
    """The snapshot itself; Invalid, naming the largest files, when it holds more than the limits."""
    count, size = len(snapshot.files), snapshot.size
    over = []
    if limits.files is not None and count > limits.files:
        over.append(f"{count} files (the limit is {limits.files})")
    if limits.size is not None and size > limits.size:
        over.append(f"{megabytes(size)} (the limit is {megabytes(limits.size)})")
    if not over:
        return snapshot
    largest = sorted(snapshot.files, key=lambda file: -file.size)[:5]
    named = ", ".join(f"{file.name} ({megabytes(file.size)})" for file in largest)
    raise Invalid(
        f"{what} holds {' and '.join(over)}. The largest files: {named}. Leave out what the job does not need in a file .amlignore in {snapshot.root}; "
        "give data as inputs; or raise MOORAGE_CODE_LIMIT_MB and MOORAGE_CODE_LIMIT_FILES.",
        code="SnapshotTooLarge",
    )


def megabytes(size: int) -> str:
    """A size for people: `312 B`, `4.2 kB`, `1.3 MB`, `2.0 GB`."""
    amount = float(size)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1000 or unit == "GB":
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    raise AssertionError("the last unit always returns")
