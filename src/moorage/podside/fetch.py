"""`fetch`: bring code, inputs and models from the blob facade into the pod, several files at a time.

A file appears under its name only when all of it is there.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from time import monotonic

from moorage.errors import Conflict, Invalid, MoorageError, NotFound, Unavailable
from moorage.podside.access import Access
from moorage.podside.blobs import Blob, BlobStore, Partial
from moorage.podside.patience import Patience
from moorage.specs.manifest import Manifest

_PARALLEL = 8
_REPORT_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Transfer:
    """One blob and the file it becomes."""

    blob: Blob
    to: Path


def fetch(plan: Manifest, access: Access, *, patience: timedelta = timedelta(minutes=10)) -> None:
    """Make the plan's folders and downloads true.

    Raises:
        NotFound, Forbidden, Invalid: at once.
        Unavailable: when the workspace could not be reached for `patience`.
    """
    waiting = Patience(patience)
    _make_folders(plan)
    store = BlobStore(access)
    try:
        for wanted in plan.get("downloads") or ():
            _download(store, waiting, wanted)
    finally:
        store.close()


def _make_folders(plan: Manifest) -> None:
    folders = [*plan.get("folders", ())]
    for upload in plan.get("uploads") or ():
        folders.append(upload["from"] if upload.get("kind", "folder") == "folder" else os.path.dirname(upload["from"]))
    for folder in folders:
        Path(folder).mkdir(parents=True, exist_ok=True)


def _download(store: BlobStore, waiting: Patience, wanted: Manifest) -> None:
    uri, kind, to = wanted["uri"].strip("/"), wanted.get("kind", "any"), Path(wanted["to"])
    started = monotonic()
    to.mkdir(parents=True, exist_ok=True)
    transfers = waiting.keep_trying(uri, lambda: _transfers(store, uri, kind, to, named=bool(wanted.get("named"))))
    total = sum(transfer.blob.size for transfer in transfers)
    print(f"Downloading {uri}: {_count(len(transfers), 'file')}, {_megabytes(total)}", flush=True)
    _run(store, waiting, transfers)
    if wanted.get("named"):
        _link_entries(to, uri.rpartition("/")[2])
    print(f"Downloaded {uri} in {monotonic() - started:.1f} s", flush=True)


def _transfers(store: BlobStore, uri: str, kind: str, to: Path, *, named: bool) -> list[Transfer]:
    """What a download consists of; a file lands in the folder `to` under its own name, a folder too when it is `named`."""
    own = uri.rpartition("/")[2]
    if kind in ("file", "any") and "/" in uri:
        size = store.size(uri)
        if size is not None:
            return [Transfer(Blob(uri, size), to / _safe(own))]
    if kind == "file":
        raise NotFound(f"There is no file '{uri}' in the workspace's store.", code="BlobNotFound", target=uri)
    folder = to / _safe(own) if named else to
    found = [Transfer(blob, folder / _safe(blob.name[len(uri) + 1 :])) for blob in store.under(uri) if not blob.name.endswith("/")]
    if not found:
        raise NotFound(f"There is nothing at '{uri}' in the workspace's store.", code="BlobNotFound", target=uri)
    return found


def _safe(name: str) -> str:
    """A blob's name as a path below the folder; names that would leave it are refused, not bent."""
    if "\0" in name or any(part in ("", ".", "..") for part in name.split("/")):
        raise Invalid(f"The blob name '{name}' is no path below its folder; it is not downloaded.", code="UnsafeBlobName")
    return name


def _run(store: BlobStore, waiting: Patience, transfers: Sequence[Transfer]) -> None:
    progress = _Progress(len(transfers), sum(transfer.blob.size for transfer in transfers))
    with ThreadPoolExecutor(max_workers=min(_PARALLEL, max(1, len(transfers)))) as pool:
        futures = [pool.submit(_fetch_one, store, waiting, transfer, progress) for transfer in transfers]
        done, _ = wait(futures, return_when=FIRST_EXCEPTION)
        for future in futures:
            future.cancel()
    for future in done:
        future.result()


def _fetch_one(store: BlobStore, waiting: Patience, transfer: Transfer, progress: _Progress) -> None:
    part = transfer.to.with_name(f".{transfer.to.name[:200]}.moorage-part")
    try:
        transfer.to.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            partial = Partial(file)

            def attempt() -> None:
                try:
                    store.read_into(transfer.blob.name, partial)
                except Conflict as error:
                    partial.begin_anew()
                    raise Unavailable(f"'{transfer.blob.name}' was replaced while it was being downloaded; it begins anew.") from error
                except NotFound as error:
                    raise NotFound(f"'{transfer.blob.name}' was deleted while it was being downloaded.", code="BlobNotFound") from error
                if file.tell() < transfer.blob.size:
                    raise Unavailable(f"'{transfer.blob.name}' ended after {file.tell()} of {transfer.blob.size} bytes.")

            waiting.keep_trying(transfer.blob.name, attempt)
            if file.tell() != transfer.blob.size:
                raise Invalid(f"'{transfer.blob.name}' has {file.tell()} bytes, listed were {transfer.blob.size}: it changed meanwhile.")
        part.replace(transfer.to)
    except OSError as error:
        raise MoorageError(f"'{transfer.to}' cannot be written: {error.strerror}.", code="WriteFailed") from error
    progress.add(transfer.blob.size)


def _link_entries(to: Path, name: str) -> None:
    """Entries of the model's own folder, in its parent too: scoring scripts use either form of path."""
    folder = to / name
    if not folder.is_dir():
        return
    for entry in folder.iterdir():
        link = to / entry.name
        if not link.is_symlink() and not link.exists():
            link.symlink_to(os.path.join(name, entry.name))


class _Progress:
    """A line every few seconds, no more."""

    def __init__(self, files: int, size: int) -> None:
        self._files, self._size = files, size
        self._done = self._bytes = 0
        self._next = monotonic() + _REPORT_SECONDS
        self._lock = threading.Lock()

    def add(self, size: int) -> None:
        with self._lock:
            self._done += 1
            self._bytes += size
            if monotonic() >= self._next:
                self._next = monotonic() + _REPORT_SECONDS
                print(f"  {self._done} of {self._files} files, {_megabytes(self._bytes)} of {_megabytes(self._size)}", flush=True)


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
