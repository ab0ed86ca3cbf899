"""`upload`: the sidecar that stores outputs while the command runs, and the rest once it has ended.

A file goes up when it has been left alone for a while, and again after every change; a file that keeps changing goes up less and less often
until the end. Nothing is ever deleted from the store. Empty folders leave no trace there: a blob store has none.
"""

from __future__ import annotations

import errno
import os
import signal
import stat
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from time import monotonic, time

from moorage.errors import Conflict, MoorageError, NotFound
from moorage.podside.access import Access
from moorage.podside.blobs import BlobStore
from moorage.podside.patience import Patience
from moorage.specs.manifest import Manifest

_PARALLEL = 4
_SCAN_SECONDS = 2.0
_QUIET_SECONDS = 10.0
# While the command runs, one round of uploads waits this long for the workspace before it looks at the files again.
_ROUND_PATIENCE = timedelta(seconds=20)
# Gone again, or a link to nothing or in a circle; every other error means that something is there.
_NOTHING_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)


@dataclass(frozen=True, slots=True)
class Signature:
    """What tells one content of a file from the next without reading it."""

    size: int
    changed: int
    inode: int


@dataclass(frozen=True, slots=True)
class Found:
    """A file to store: where it is, within which root it must stay, and the blob it becomes."""

    path: Path
    root: Path
    blob: str
    signature: Signature


@dataclass(slots=True)
class Ledger:
    """What has been stored, by blob name, and how often."""

    stored: dict[str, Signature] = field(default_factory=dict)
    times: dict[str, int] = field(default_factory=dict)

    def due(self, found: Found, now: float) -> bool:
        """Whether the file has been quiet long enough: twice as long after each time it was stored and changed again."""
        if self.stored.get(found.blob) == found.signature:
            return False
        quiet: float = _QUIET_SECONDS * 2.0 ** min(self.times.get(found.blob, 0), 6)
        return now - found.signature.changed / 1e9 >= quiet

    def store(self, found: Found) -> None:
        self.stored[found.blob] = found.signature
        self.times[found.blob] = self.times.get(found.blob, 0) + 1


def upload(plan: Manifest, access: Access, *, grace: timedelta, ready: Path | None = None) -> None:
    """Store the plan's uploads until SIGTERM, then what is left within `grace`.

    Raises:
        MoorageError: something could not be stored; the message names the first file and how many there are.
    """
    ended = threading.Event()
    previous = signal.signal(signal.SIGTERM, lambda *_: ended.set())
    store = BlobStore(access)
    ledger = Ledger()
    roots = [_Root(wanted) for wanted in plan.get("uploads") or ()]
    try:
        if ready:
            ready.touch()
        while not ended.wait(_SCAN_SECONDS):
            # What cannot be read now may be readable later; at the end it counts.
            due = [found for found in _scan(roots, lambda error: None) if ledger.due(found, time())]
            if due:
                _report(store_all(store, due, ledger, Patience(_ROUND_PATIENCE, hurry=ended)))
                store.close()
        _finish(store, roots, ledger, Patience(grace))
    finally:
        store.close()
        signal.signal(signal.SIGTERM, previous)


class _Root:
    """One upload of the plan. The place is resolved before the user's code runs, so that no link can lead it elsewhere later."""

    def __init__(self, wanted: Manifest) -> None:
        place = Path(wanted["from"])
        self.single = wanted.get("kind", "folder") == "file"
        self.place = place.parent.resolve() / place.name if self.single else place.resolve()
        self.blob = wanted["to"].strip("/")

    def files(self, unreadable: Callable[[OSError], None]) -> Iterator[Found]:
        if self.single and not self.place.is_dir():
            if found := _found(self.place, self.place.parent, self.blob, unreadable):
                yield found
            return

        def failed(error: OSError) -> None:
            if error.errno not in _NOTHING_THERE:
                unreadable(error)

        for folder, names, files in os.walk(self.place, onerror=failed):
            names.sort()
            for name in sorted(files):
                path = Path(folder, name)
                if found := _found(path, self.place, f"{self.blob}/{path.relative_to(self.place).as_posix()}", unreadable):
                    yield found


def _found(path: Path, root: Path, blob: str, unreadable: Callable[[OSError], None]) -> Found | None:
    try:
        status = path.stat()
    except OSError as error:
        if error.errno not in _NOTHING_THERE:
            unreadable(error)
        return None
    if not stat.S_ISREG(status.st_mode):
        return None
    return Found(path, root, blob, Signature(status.st_size, status.st_mtime_ns, status.st_ino))


def _scan(roots: list[_Root], unreadable: Callable[[OSError], None]) -> list[Found]:
    return [found for root in roots for found in root.files(unreadable)]


def _finish(store: BlobStore, roots: list[_Root], ledger: Ledger, waiting: Patience) -> None:
    """Rounds until a scan finds nothing new: other processes of the pod may still be writing."""
    started = monotonic()
    while True:
        unread: list[OSError] = []
        left = [found for found in _scan(roots, unread.append) if ledger.stored.get(found.blob) != found.signature]
        if not left:
            break
        print(f"Storing {len(left)} files, {sum(found.signature.size for found in left) / 1e6:.1f} MB", flush=True)
        failures = store_all(store, left, ledger, waiting)
        _report(failures)
        if failures:
            first = failures[0]
            others = f" and {len(failures) - 1} more" if len(failures) > 1 else ""
            raise MoorageError(f"'{first[0].path}'{others} could not be stored: {first[1].message}", code="UploadFailed")
    if unread:
        raise MoorageError(f"An output cannot be read ({unread[0].strerror}) and is not stored: {unread[0].filename}", code="UploadFailed")
    print(f"All {len(ledger.stored)} files are stored ({monotonic() - started:.1f} s after the end)", flush=True)


Failure = tuple[Found, MoorageError]


def store_all(store: BlobStore, wanted: list[Found], ledger: Ledger, waiting: Patience) -> list[Failure]:
    """Store these files, several at once, and note in the ledger which are; what could not be stored."""
    with ThreadPoolExecutor(max_workers=min(_PARALLEL, len(wanted))) as pool:
        outcomes = list(pool.map(lambda found: _store_one(store, found, waiting), wanted))
    failures: list[Failure] = []
    for found, outcome in zip(wanted, outcomes, strict=True):
        if outcome is True:
            ledger.store(found)
        elif isinstance(outcome, MoorageError):
            failures.append((found, outcome))
    return failures


def _store_one(store: BlobStore, found: Found, waiting: Patience) -> MoorageError | bool:
    """Whether it is stored; False for a file that went or shrank meanwhile, which comes up in the next scan if it still is one."""
    try:
        waiting.keep_trying(str(found.path), lambda: _write(store, found))
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


def _write(store: BlobStore, found: Found) -> None:
    # Non-blocking, since a file may have become a pipe since the scan.
    descriptor = os.open(found.path, os.O_RDONLY | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        real = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        if not stat.S_ISREG(os.fstat(descriptor).st_mode) or not real.is_relative_to(found.root):
            # This container can read what the user's cannot: a link out of the folder is not followed.
            print(f"{found.path} is not stored: it is a link to {real}, outside {found.root}", flush=True)
            return
        store.write(found.blob, file, found.signature.size)


def _report(failures: list[Failure]) -> None:
    for found, error in failures[:10]:
        print(f"{found.path} is not stored yet: {error.message}", flush=True)
