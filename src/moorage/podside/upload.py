"""`upload`: the sidecar that stores outputs while the command runs, and the rest once it has ended.

A file goes up when it has been left alone for a while, and again after every change; a file that keeps changing goes up less and less often
until the end. Nothing is ever deleted from the store. Empty folders leave no trace there: a blob store has none.

The user's code owns the folders that are read here, and this container may read what the user's cannot: nothing found there is trusted. Memory grows
by some 200 bytes a file, since a job may write hundreds of thousands.
"""

from __future__ import annotations

import errno
import os
import re
import signal
import stat
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from time import monotonic, time

from moorage.errors import Conflict, MoorageError, NotFound
from moorage.podside.access import Access
from moorage.podside.blobs import BlobStore
from moorage.podside.patience import Patience
from moorage.specs.manifest import Manifest

_PARALLEL = 4
_SHOWN = 10
_SHOWN_LINKS = 3
_SCAN_SECONDS = 2.0
_LONGEST_PAUSE_SECONDS = 30.0
_QUIET_SECONDS = 10.0
# While the command runs, one round of uploads waits this long for the workspace before it looks at the files again.
_ROUND_PATIENCE = timedelta(seconds=20)
# Gone again, or a link to nothing or in a circle; every other error means that something is there.
_NOTHING_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
# File systems that have no such thing.
_NO_SYNC = (errno.EINVAL, errno.ENOSYS, errno.EROFS, errno.ENOTSUP)
# File systems without a disk.
_MEMORY = ("tmpfs", "ramfs")
# Files that are handed to the threads at once.
_BATCH = 256
# Bytes of a name that are no UTF-8, as Python shows them (PEP 383).
_NO_TEXT = re.compile("[\udc80-\udcff]")
# How often the time for which a file must be left alone doubles.
_MOST_TIMES = 6


@dataclass(frozen=True, slots=True)
class Signature:
    """What tells one content of a file from the next without reading it.

    Args:
        changed: when its content was, which a program may set as it likes (`cp -p`, `tar`).
        touched: when anything of it was, by the system's own clock.
    """

    size: int
    changed: int
    inode: int
    touched: int = 0


@dataclass(frozen=True, slots=True)
class Found:
    """A file to store: where it is, within which root it must stay, and the blob it becomes."""

    path: Path
    root: Path
    blob: str
    signature: Signature


@dataclass(slots=True)
class Ledger:
    """What has been stored, and how often. Packed: it holds an entry for every file of the job."""

    stored: dict[bytes, bytes] = field(default_factory=dict)

    def holds(self, found: Found) -> bool:
        """Whether this very content has been stored."""
        return self.stored.get(_digest(found.path), b"")[:-1] == _digest(found.signature)

    def due(self, found: Found, now: float) -> bool:
        """Whether the file has been quiet long enough: twice as long after each time it was stored and changed again."""
        if self.holds(found):
            return False
        times = self.stored.get(_digest(found.path), b"\0")[-1]
        quiet: float = _QUIET_SECONDS * 2.0**times
        return now - found.signature.changed / 1e9 >= quiet

    def forget(self, found: Found) -> None:
        """Take the file for one that was never stored."""
        self.stored.pop(_digest(found.path), None)

    def store(self, found: Found) -> None:
        times = self.stored.get(_digest(found.path), b"\0")[-1]
        self.stored[_digest(found.path)] = _digest(found.signature) + bytes([min(times + 1, _MOST_TIMES)])


def _digest(value: object) -> bytes:
    return blake2b(repr(value).encode(), digest_size=16).digest()


def upload(plan: Manifest, access: Access, *, grace: timedelta, within: Path | None = None, ready: Path | None = None) -> str:
    """Store the plan's uploads until SIGTERM, then what is left within `grace`; what their owner must know, empty when all of it is stored.

    Args:
        within: the volume that the user's code writes to: no link below it leads anywhere, also when this container starts again beside running code.

    Raises:
        MoorageError: something could not be stored; the message names the first file and how many there are.
    """
    ended = threading.Event()
    previous = signal.signal(signal.SIGTERM, lambda *_: ended.set())
    store = BlobStore(access)
    ledger = Ledger()
    roots = [_Root(wanted, within) for wanted in plan.get("uploads") or ()]
    pause = _SCAN_SECONDS
    try:
        if ready:
            ready.touch()
        while not ended.wait(pause):
            begun = monotonic()
            # What cannot be read now may be readable later; at the end it counts.
            due = (found for found in _scan(roots, lambda error: None) if ledger.due(found, time()))
            _report(store_all(store, due, ledger, Patience(_ROUND_PATIENCE, hurry=ended), written_to=True))
            store.close()
            # Looking at very many files takes time that is the user's.
            pause = min(max(_SCAN_SECONDS, 5 * (monotonic() - begun)), _LONGEST_PAUSE_SECONDS)
        for root in roots:
            if _in_memory(root.place):
                # Of changes through mapped memory no sign is left there: what was stored as the command ran is stored again.
                for found in root.files(lambda error: None):
                    ledger.forget(found)
        _finish(store, roots, ledger, Patience(grace))
        return _notice(roots)
    finally:
        store.close()
        signal.signal(signal.SIGTERM, previous)


class _Root:
    """One upload of the plan."""

    def __init__(self, wanted: Manifest, within: Path | None) -> None:
        place = Path(wanted["from"])
        if within is not None and place.is_relative_to(within):
            # Not resolved below the volume: when this container starts again, links of the user's may lie there.
            place = within.resolve() / place.relative_to(within)
        else:
            place = place.parent.resolve() / place.name
        self.single = wanted.get("kind", "folder") == "file"
        self.place = place
        self.blob = wanted["to"].strip("/")
        # Of the last look: links that lead out of the folder, the first of them, and how many there are.
        self.astray: list[str] = []
        self.strays = 0

    def files(self, unreadable: Callable[[OSError], None]) -> Iterator[Found]:
        self.astray, self.strays = [], 0
        root = self.place.parent if self.single and not self.place.is_dir() else self.place
        if Path(os.path.realpath(root)) != root:
            self._stray(root)
            return
        if root != self.place:
            if self._leads_out(self.place, root):
                self._stray(self.place)
            elif found := _found(self.place, root, self.blob, unreadable):
                yield found
            return
        for path, link in _walk(self.place, unreadable):
            if link and self._leads_out(path, root):
                self._stray(path)
            elif found := _found(path, root, f"{self.blob}/{text(path.relative_to(root).as_posix())}", unreadable):
                yield found

    def _leads_out(self, path: Path, root: Path) -> bool:
        """Whether it is a link to something outside; whether that exists, the user's container may know and this one not."""
        return path.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(root)

    def _stray(self, path: Path) -> None:
        self.strays += 1
        if len(self.astray) < _SHOWN_LINKS:
            self.astray.append(f"'{text(path)}' (to '{text(os.path.realpath(path))}')")


def _notice(roots: list[_Root]) -> str:
    """That links led outside, so that nobody takes what they stand for as stored; the container can read what the user's cannot, and follows none."""
    shown = [each for root in roots for each in root.astray][:_SHOWN_LINKS]
    if not shown:
        return ""
    more = sum(root.strays for root in roots) - len(shown)
    others = f" and {more} more" if more else ""
    return (
        f"Links that lead outside of their output are not stored, nor what they lead to: {', '.join(shown)}{others}. "
        "Write or copy the files into the output."
    )


def _walk(top: Path, unreadable: Callable[[OSError], None]) -> Iterator[tuple[Path, bool]]:
    """Everything below a folder that is no folder, and whether it is a link, one after the other: neither depth nor number of files costs memory."""
    folders = [str(top)]
    while folders:
        try:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                    else:
                        yield Path(entry.path), entry.is_symlink()
        except OSError as error:
            if error.errno not in _NOTHING_THERE:
                unreadable(error)


def text(name: str | Path) -> str:
    """A name as text: a byte that is no UTF-8 becomes `%XX`, since a blob's name is text."""
    return _NO_TEXT.sub(lambda found: f"%{ord(found[0]) - 0xDC00:02X}", str(name))


def _found(path: Path, root: Path, blob: str, unreadable: Callable[[OSError], None]) -> Found | None:
    try:
        status = path.stat()
    except OSError as error:
        if error.errno not in _NOTHING_THERE:
            unreadable(error)
        return None
    if not stat.S_ISREG(status.st_mode):
        return None
    return Found(path, root, blob, Signature(status.st_size, status.st_mtime_ns, status.st_ino, status.st_ctime_ns))


def _scan(roots: list[_Root], unreadable: Callable[[OSError], None]) -> Iterator[Found]:
    return (found for root in roots for found in root.files(unreadable))


def _finish(store: BlobStore, roots: list[_Root], ledger: Ledger, waiting: Patience) -> None:
    """Rounds until a scan finds nothing new: other processes of the pod may still be writing."""
    started = monotonic()
    while True:
        unread: list[OSError] = []
        sizes = [found.signature.size for found in _scan(roots, unread.append) if not ledger.holds(found)]
        if not sizes:
            break
        print(f"Storing {len(sizes)} files, {sum(sizes) / 1e6:.1f} MB", flush=True)
        left = (found for found in _scan(roots, lambda error: None) if not ledger.holds(found))
        failures = store_all(store, left, ledger, waiting)
        _report(failures)
        if failures.first:
            found, error = failures.first[0]
            others = f" and {failures.count - 1} more" if failures.count > 1 else ""
            raise MoorageError(f"'{text(found.path)}'{others} could not be stored: {error.message}", code="UploadFailed")
    if unread:
        raise MoorageError(
            f"An output cannot be read ({unread[0].strerror}) and is not stored: {text(unread[0].filename)}", code="UploadFailed"
        )
    print(f"All {len(ledger.stored)} files are stored ({monotonic() - started:.1f} s after the end)", flush=True)


@dataclass(slots=True)
class Failures:
    """What could not be stored: the first files with the reasons, and how many there are."""

    first: list[tuple[Found, MoorageError]] = field(default_factory=list)
    count: int = 0

    def add(self, found: Found, error: MoorageError) -> None:
        self.count += 1
        if self.count <= _SHOWN:
            self.first.append((found, error))


def store_all(store: BlobStore, wanted: Iterable[Found], ledger: Ledger, waiting: Patience, *, written_to: bool = False) -> Failures:
    """Store these files, several at once, and note in the ledger which are; what could not be stored.

    Args:
        written_to: programs that may have the files open go on.
    """
    failures = Failures()
    left = iter(wanted)
    with ThreadPoolExecutor(max_workers=_PARALLEL) as pool:
        while batch := list(islice(left, _BATCH)):
            outcomes = pool.map(lambda found: _store_one(store, found, waiting, written_to), batch)
            for found, outcome in zip(batch, outcomes, strict=True):
                if outcome is True:
                    ledger.store(found)
                elif isinstance(outcome, MoorageError):
                    failures.add(found, outcome)
    return failures


def _store_one(store: BlobStore, found: Found, waiting: Patience, written_to: bool) -> MoorageError | bool:
    """Whether it is stored; False for a file that went or shrank meanwhile, which comes up in the next scan if it still is one."""
    try:
        waiting.keep_trying(text(found.path), lambda: _write(store, found, written_to))
    except Conflict:
        return False
    except NotFound as error:
        return MoorageError(error.message, code="UploadFailed")
    except MoorageError as error:
        return error
    except FileNotFoundError:
        return False
    except OSError as error:
        return MoorageError(f"it cannot be read: {error.strerror}.", code="UploadFailed")
    return True


def _write(store: BlobStore, found: Found, written_to: bool) -> None:
    # Non-blocking, since a file may have become a pipe since the scan.
    descriptor = os.open(found.path, os.O_RDONLY | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        real = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        if not stat.S_ISREG(os.fstat(descriptor).st_mode) or not real.is_relative_to(found.root):
            # This container can read what the user's cannot: a link out of the folder is not followed.
            print(f"{text(found.path)} is not stored: it is a link to {text(real)}, outside {found.root}", flush=True)
            return
        if written_to:
            _make_changes_show(descriptor)
        store.write(found.blob, file, found.signature.size)


def _make_changes_show(descriptor: int) -> None:
    """Have a later change of the file change its time, also one through memory that a program has mapped it to.

    The system notes the time of the first such change only, until the page is on the disk: what follows within half a minute looks as if nothing had.
    """
    try:
        os.fdatasync(descriptor)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise


def _in_memory(place: Path) -> bool:
    """Whether a path lies on a file system that has no disk, to which nothing is ever written back."""
    try:
        device = os.stat(place).st_dev
        mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return False
    number = f"{os.major(device)}:{os.minor(device)}"
    # Fields of proc_pid_mountinfo(5): the third is the device, the first behind the lone dash the kind of file system.
    return any(line.split()[2] == number and line.partition(" - ")[2].split()[0] in _MEMORY for line in mounts)


def _report(failures: Failures) -> None:
    for found, error in failures.first:
        print(f"{text(found.path)} is not stored yet: {error.message}", flush=True)
