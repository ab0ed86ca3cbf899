"""Files to and from the blob facade: blocks in parallel, ranges in parallel, and a file on disk only once it is whole."""

from __future__ import annotations

import base64
import functools
import os
import tempfile
import threading
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from moorage.client.snapshot import File
from moorage.client.transport import Transport, backoff
from moorage.errors import Conflict, Invalid, MoorageError, NotFound, Unavailable
from moorage.specs.manifest import Manifest

# As the original's storage client: one PUT up to here, blocks above.
_SINGLE_PUT = 64 << 20
_BLOCK = 8 << 20
_RANGE = 32 << 20
_PIECE = 1 << 20
# Small files wait for the service's disk, which then keeps several of them at once; blocks wait for the processor.
_PARALLEL = 8
_PARALLEL_BLOCKS = 4
_ATTEMPTS = 5
_VERSION = {"x-ms-version": "2026-10-06"}
Count = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Blob:
    """One item of a listing."""

    name: str
    size: int
    metadata: Mapping[str, str]


class Container:
    """A container, or a prefix of one, behind a signed link.

    Args:
        url: container URL without a query.
        signature: the SAS, `sv=...&sig=...`.
        ca: certificate authority file; empty for the system's.
    """

    def __init__(self, url: str, signature: str, *, ca: str = "") -> None:
        self.url = url.rstrip("/")
        self._query = dict(parse_qsl(signature.lstrip("?"), keep_blank_values=True))
        parts = urlsplit(url)
        self._transport = Transport(f"{parts.scheme}://{parts.netloc}", ca=ca)

    def __enter__(self) -> Container:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        self._transport.close()

    def link(self, key: str, **query: str) -> str:
        path = f"{self.url}/{quote(key, safe='/~')}" if key else self.url
        return f"{path}?{urlencode({**self._query, **query})}"

    def metadata(self, key: str) -> dict[str, str] | None:
        """A blob's metadata, None when there is no such blob."""
        try:
            response = self._transport.request("HEAD", self.link(key), headers=_VERSION)
        except NotFound:
            return None
        return {
            name[len("x-ms-meta-") :].lower(): value for name, value in response.headers.items() if name.lower().startswith("x-ms-meta-")
        }

    def mark(self, key: str, metadata: Mapping[str, str]) -> None:
        """Replace a blob's metadata."""
        headers = {**_VERSION, **{f"x-ms-meta-{name}": value for name, value in metadata.items()}}
        self._transport.request("PUT", self.link(key, comp="metadata"), headers=headers, content=b"")

    def listing(self, prefix: str) -> Iterator[Blob]:
        """Every blob whose name begins with `prefix`."""
        marker = ""
        while True:
            query = {"restype": "container", "comp": "list", "prefix": prefix, **({"marker": marker} if marker else {})}
            response = self._transport.request("GET", self.link("", **query), headers=_VERSION)
            try:
                found = ElementTree.fromstring(response.content)
            except ElementTree.ParseError as error:
                raise MoorageError(f"the blob listing is not XML: {response.text[:200]}", code="BadAnswer") from error
            for item in found.iter("Blob"):
                size = int(item.findtext("Properties/Content-Length") or 0)
                metadata = {entry.tag: entry.text or "" for entry in item.find("Metadata") or ()}
                yield Blob(item.findtext("Name") or "", size, metadata)
            marker = found.findtext("NextMarker") or ""
            if not marker:
                return

    def upload(self, files: Sequence[File], prefix: str, *, sent: Count | None = None) -> None:
        """Send files to `prefix/NAME`, several at a time; `sent` is called with the bytes of each piece that has arrived."""
        count = _locked(sent)
        with ThreadPoolExecutor(_PARALLEL, thread_name_prefix="upload") as pool:
            small = [file for file in files if file.size <= _SINGLE_PUT]
            _finish(pool, [partial(self._put, file, f"{prefix}/{file.name}", count) for file in small])
        with ThreadPoolExecutor(_PARALLEL_BLOCKS, thread_name_prefix="upload") as pool:
            for file in files:
                if file.size > _SINGLE_PUT:
                    self._put_blocks(pool, file, f"{prefix}/{file.name}", count)

    def _put(self, file: File, key: str, count: Count) -> None:
        headers = {
            **_VERSION,
            "x-ms-blob-type": "BlockBlob",
            "Content-Type": "application/octet-stream",
            "Content-Length": str(file.size),
        }
        self._transport.request("PUT", self.link(key), headers=headers, content=lambda: _pieces(file))
        count(file.size)

    def _put_blocks(self, pool: ThreadPoolExecutor, file: File, key: str, count: Count) -> None:
        offsets = range(0, file.size, _BLOCK)
        names = [base64.b64encode(f"{index:08d}".encode()).decode() for index in range(len(offsets))]

        def put(offset: int, name: str) -> None:
            length = min(_BLOCK, file.size - offset)
            content = _read(file, offset, length)
            self._transport.request("PUT", self.link(key, comp="block", blockid=name), headers=_VERSION, content=content)
            count(length)

        _finish(pool, [partial(put, offset, name) for offset, name in zip(offsets, names, strict=True)])
        listing = "".join(f"<Latest>{name}</Latest>" for name in names)
        body = f'<?xml version="1.0" encoding="utf-8"?><BlockList>{listing}</BlockList>'.encode()
        self._transport.request(
            "PUT", self.link(key, comp="blocklist"), headers={**_VERSION, "Content-Type": "application/xml"}, content=body
        )

    def download(
        self,
        blobs: Sequence[Blob],
        prefix: str,
        folder: Path,
        *,
        received: Count | None = None,
        replacing: Callable[[Path], None] | None = None,
    ) -> list[Path]:
        """Fetch blobs into `folder`, their names cut by `prefix`; each file appears whole or not at all.

        Args:
            received: called with the bytes of each piece that has come.
            replacing: called with each file that is there already, as the original replaces it too.

        Raises:
            Invalid: a blob's name leads out of the folder, or the disk refuses the file.
            Conflict: a blob was changed since it was listed.
        """
        count = _locked(received)
        _umask()
        pairs = [(blob, inside(folder, blob.name[len(prefix) :].lstrip("/") or blob.name.rsplit("/", 1)[-1])) for blob in blobs]
        for _, path in pairs:
            if replacing is not None and path.exists():
                replacing(path)
        with ThreadPoolExecutor(_PARALLEL, thread_name_prefix="download") as pool:
            small = [pair for pair in pairs if pair[0].size <= _RANGE]
            _finish(pool, [partial(self._fetch, blob, path, count, None) for blob, path in small])
        with ThreadPoolExecutor(_PARALLEL_BLOCKS, thread_name_prefix="download") as pool:
            for blob, path in pairs:
                if blob.size > _RANGE:
                    self._fetch(blob, path, count, pool)
        return [path for _, path in pairs]

    def _fetch(self, blob: Blob, path: Path, count: Count, pool: ThreadPoolExecutor | None) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:100]}.", suffix=".part")
        except OSError as error:
            raise Invalid(f"{path} cannot be written: {error.strerror}.", code="CannotWrite", target=str(path)) from error
        part = Path(temporary)
        try:
            try:
                os.ftruncate(handle, blob.size)
                version = _Version(blob)
                spans = [(at, min(at + _RANGE, blob.size)) for at in range(0, blob.size, _RANGE)]
                pieces = [partial(self._range, version, span, handle, count) for span in spans]
                if pool is None:
                    for piece in pieces:
                        piece()
                else:
                    _finish(pool, pieces)
            finally:
                os.close(handle)
            part.chmod(0o644 & ~_umask())
            part.replace(path)
        except OSError as error:
            raise Invalid(f"{path} cannot be written: {error.strerror}.", code="CannotWrite", target=str(path)) from error
        finally:
            part.unlink(missing_ok=True)

    def _range(self, version: _Version, span: tuple[int, int], handle: int, count: Count) -> None:
        """A span of bytes into the file; a dropped connection is taken up where it broke."""
        (at, end), failures, blob = span, 0, version.blob
        while at < end:
            headers = {**_VERSION, "x-ms-range": f"bytes={at}-{end - 1}", **version.condition}
            try:
                with self._transport.stream("GET", self.link(blob.name), headers=headers) as response:
                    version.check(response.headers)
                    skip = 0 if response.status_code == 206 else at
                    for block in response.iter_bytes():
                        piece, skip = block[skip:], max(0, skip - len(block))
                        piece = piece[: end - at]
                        os.pwrite(handle, piece, at)
                        at += len(piece)
                        count(len(piece))
                        failures = 0 if piece else failures
                if at < end:
                    raise Unavailable(f"'{blob.name}' ended {end - at} bytes early.")
            except Conflict as error:
                raise version.changed() from error
            except Unavailable:
                failures += 1
                if failures >= _ATTEMPTS:
                    raise
                time.sleep(backoff(failures))


class _Version:
    """The one version of a blob that a file is made of: that of which the first bytes came, of the size that was listed."""

    def __init__(self, blob: Blob) -> None:
        self.blob = blob
        self._etag = ""
        self._lock = threading.Lock()

    @property
    def condition(self) -> Mapping[str, str]:
        """The header that has the service answer with this version only."""
        return {"If-Match": self._etag} if self._etag else {}

    def check(self, headers: Mapping[str, str]) -> None:
        etag, size = headers.get("ETag", ""), headers.get("Content-Range", "").rpartition("/")[2]
        with self._lock:
            self._etag = self._etag or etag
            if etag != self._etag or (size.isdecimal() and int(size) != self.blob.size):
                raise self.changed()

    def changed(self) -> Conflict:
        return Conflict(
            f"'{self.blob.name}' was changed while it was fetched; fetch it again when nothing writes to it.", code="BlobChanged"
        )


def inside(folder: Path, name: str) -> Path:
    """Where a blob of that name goes; Invalid when that is not inside the folder, links on the way followed."""
    parts = name.replace("\\", "/").split("/")
    if not name or "\0" in name or ".." in parts or name.startswith("/") or Path(name).is_absolute():
        raise Invalid(f"the stored name {name!r} leads out of the download folder; it is not fetched.", code="UnsafePath", target=name)
    root = folder.resolve()
    path = folder / name
    if not (path.parent.resolve() / path.name).is_relative_to(root) or path.is_symlink():
        raise Invalid(f"{path} is, or lies behind, a link out of the download folder; it is not written.", code="UnsafePath", target=name)
    return path


def datastore_container(properties: Manifest, signature: str, *, ca: str = "") -> Container:
    """The container of an AzureBlob datastore.

    The account may be `HOST:PORT/path/#`: what would follow, the storage suffix, is then a fragment and falls away (contract, 3.2).
    """
    account = str(properties.get("accountName", ""))
    if "#" in account:
        base = f"https://{account.partition('#')[0].rstrip('/')}"
    else:
        base = f"https://{account}.blob.{properties.get('endpoint') or 'core.windows.net'}"
    return Container(f"{base}/{properties.get('containerName', '')}", signature, ca=ca)


def _read(file: File, offset: int, length: int) -> bytes:
    try:
        with file.path.open("rb") as stream:
            stream.seek(offset)
            content = stream.read(length)
    except OSError as error:
        raise Invalid(f"{file.path} cannot be read: {error.strerror}.", code="PathNotReadable", target=str(file.path)) from error
    if len(content) != length:
        raise Invalid(
            f"{file.path} changed while it was sent; try again when nothing writes to it.", code="FileChanged", target=str(file.path)
        )
    return content


def _pieces(file: File) -> Iterator[bytes]:
    for offset in range(0, file.size, _PIECE):
        yield _read(file, offset, min(_PIECE, file.size - offset))


def _finish(pool: ThreadPoolExecutor, work: Sequence[Callable[[], None]]) -> None:
    """Run all, raise the first failure, and start nothing more after it (nor after Ctrl-C)."""
    waiting = [pool.submit(task) for task in work]
    try:
        for future in waiting:
            future.result()
    except BaseException:
        for future in waiting:
            future.cancel()
        # What runs still writes to the file that is closed next, and whose number another may have then.
        wait(waiting)
        raise


def _locked(count: Count | None) -> Count:
    lock = threading.Lock()

    def add(amount: int) -> None:
        if count is not None:
            with lock:
                count(amount)

    return add


@functools.cache
def _umask() -> int:
    """The process's mask; read once, before threads, since reading it changes it for a moment."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
