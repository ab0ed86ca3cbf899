"""A small client of Azure Blob REST, as far as the workspace's blob facade speaks it: list, read from an offset, write, write in blocks.

One connection per thread, kept open. Every failure becomes one of the project's errors; what may pass with time is Unavailable or Throttled.
"""

from __future__ import annotations

import base64
import http.client
import ssl
import threading
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO
from urllib.parse import quote, urlencode, urlsplit

from moorage.errors import Conflict, Forbidden, Invalid, MoorageError, NotFound, Throttled, Unauthenticated, Unavailable
from moorage.podside.access import Access

_SERVICE_VERSION = "2026-10-06"
_TIMEOUT_SECONDS = 60.0
_CHUNK = 1 << 20
# Azure's client writes a blob in one request up to this size, and in blocks above.
SINGLE_PUT_LIMIT = 64 << 20
BLOCK_SIZE = 16 << 20
_PASSING = (408, 500, 502, 503, 504)


@dataclass(frozen=True, slots=True)
class Blob:
    """A blob's full name (CONTAINER/PATH) and size."""

    name: str
    size: int


class Section:
    """A file's bytes from an offset on, as a body that ends where it is told to, however much the file grows."""

    def __init__(self, file: BinaryIO, offset: int, size: int) -> None:
        self._file, self._offset, self._left = file, offset, size

    def read(self, amount: int = -1) -> bytes:
        wanted = self._left if amount < 0 else min(amount, self._left)
        if wanted == 0:
            return b""
        self._file.seek(self._offset)
        data = self._file.read(wanted)
        if not data:
            raise Conflict("The file became shorter while it was being stored.")
        self._offset += len(data)
        self._left -= len(data)
        return data


@dataclass(slots=True)
class Partial:
    """A download that may break off and be taken up again: the file up to where it has come, and the version of the blob that is in it."""

    file: BinaryIO
    version: str = ""

    def begin_anew(self) -> None:
        """Forget what has come."""
        self.file.seek(0)
        self.file.truncate()
        self.version = ""


class BlobStore:
    """Blobs behind the pod's access."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._local = threading.local()
        self._open: list[http.client.HTTPConnection] = []
        self._lock = threading.Lock()

    def close(self) -> None:
        """Close the connections of all threads."""
        with self._lock:
            for connection in self._open:
                connection.close()
            self._open.clear()

    def size(self, name: str) -> int | None:
        """The blob's size; None when there is no such blob."""
        try:
            with self._request("HEAD", name) as response:
                return int(response.getheader("Content-Length") or 0)
        except NotFound:
            return None

    def under(self, folder: str) -> Iterator[Blob]:
        """Every blob below CONTAINER/PATH, page by page."""
        container, _, path = folder.strip("/").partition("/")
        prefix = f"{path}/" if path else ""
        marker = ""
        while True:
            query = {"restype": "container", "comp": "list", "prefix": prefix} | ({"marker": marker} if marker else {})
            with self._request("GET", container, query=query) as response:
                page = _parsed(response.read())
            for element in page.iterfind("./Blobs/Blob"):
                name, length = element.findtext("Name"), element.findtext("Properties/Content-Length")
                if name is not None and name.startswith(prefix):
                    yield Blob(f"{container}/{name}", int(length or 0))
            marker = page.findtext("NextMarker") or ""
            if not marker:
                return

    def read_into(self, name: str, partial: Partial) -> None:
        """Go on with a download; on a lost connection it holds what had arrived.

        Raises:
            Conflict: the blob is another one than that of which a part is there.
        """
        if not partial.version:
            partial.begin_anew()
        offset = partial.file.tell()
        headers = {"x-ms-range": f"bytes={offset}-", "If-Match": partial.version} if offset else {}
        with self._request("GET", name, headers=headers) as response:
            if offset and response.status != 206:
                raise Unavailable(f"The service answered {response.status} to a request for a part of '{name}'.")
            partial.version = response.getheader("ETag") or ""
            while data := response.read(_CHUNK):
                partial.file.write(data)

    def write(self, name: str, file: BinaryIO, size: int) -> None:
        """Store `size` bytes of the file as the blob, replacing what was there."""
        if size <= SINGLE_PUT_LIMIT:
            headers = {"x-ms-blob-type": "BlockBlob", "Content-Length": str(size), "Content-Type": "application/octet-stream"}
            with self._request("PUT", name, headers=headers, body=Section(file, 0, size)):
                return
        identifiers: list[str] = []
        for start in range(0, size, BLOCK_SIZE):
            identifier = base64.b64encode(f"{start:016d}".encode()).decode()
            length = min(BLOCK_SIZE, size - start)
            with self._request(
                "PUT",
                name,
                query={"comp": "block", "blockid": identifier},
                headers={"Content-Length": str(length)},
                body=Section(file, start, length),
            ):
                identifiers.append(identifier)
        blocks = "".join(f"<Latest>{identifier}</Latest>" for identifier in identifiers)
        document = f'<?xml version="1.0" encoding="utf-8"?><BlockList>{blocks}</BlockList>'.encode()
        with self._request("PUT", name, query={"comp": "blocklist"}, headers={"Content-Length": str(len(document))}, body=document):
            return

    @contextmanager
    def _request(
        self,
        method: str,
        name: str,
        *,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        body: bytes | Section | None = None,
    ) -> Iterator[http.client.HTTPResponse]:
        """One request; the connection is kept when the answer was read to its end, else dropped."""
        endpoint = urlsplit(self._access.endpoint())
        target = f"{endpoint.path}/{quote(name)}" + (f"?{urlencode(query)}" if query else "")
        own = {"Authorization": f"Bearer {self._access.token()}", "x-ms-version": _SERVICE_VERSION, **(headers or {})}
        connection = self._connection(endpoint.scheme, endpoint.netloc)
        finished = False
        try:
            connection.request(method, target, body=body, headers=own)
            response = connection.getresponse()
            if response.status >= 400:
                raise _failure(response, f"{method} {name}")
            yield response
            response.read()
            finished = True
        except (OSError, http.client.HTTPException) as error:
            raise Unavailable(f"The workspace at {endpoint.netloc} cannot be reached: {_words(error)}.") from error
        finally:
            if not finished:
                self._drop(connection)

    def _connection(self, scheme: str, netloc: str) -> http.client.HTTPConnection:
        held: http.client.HTTPConnection | None = getattr(self._local, "connection", None)
        if held is not None and self._local.address == (scheme, netloc):
            self._remember(held)
            return held
        if held is not None:
            self._drop(held)
        connection: http.client.HTTPConnection
        if scheme == "https":
            authority = self._access.authority()
            context = ssl.create_default_context(cafile=str(authority) if authority else None)
            connection = http.client.HTTPSConnection(netloc, timeout=_TIMEOUT_SECONDS, context=context, blocksize=_CHUNK)
        else:
            connection = http.client.HTTPConnection(netloc, timeout=_TIMEOUT_SECONDS, blocksize=_CHUNK)
        self._local.connection, self._local.address = connection, (scheme, netloc)
        self._remember(connection)
        return connection

    def _remember(self, connection: http.client.HTTPConnection) -> None:
        """A closed connection opens itself at its next request, so that it may come back."""
        with self._lock:
            if connection not in self._open:
                self._open.append(connection)

    def _drop(self, connection: http.client.HTTPConnection) -> None:
        connection.close()
        self._local.connection = None
        with self._lock:
            if connection in self._open:
                self._open.remove(connection)


def _parsed(document: bytes) -> ElementTree.Element:
    try:
        return ElementTree.fromstring(document)
    except ElementTree.ParseError as error:
        raise Unavailable(f"The service's list of blobs is not XML: {error}.") from error


def _failure(response: http.client.HTTPResponse, what: str) -> MoorageError:
    status, code = response.status, response.getheader("x-ms-error-code") or ""
    said = f"{what} was answered {status} {code or response.reason}".rstrip()
    if status == 404:
        return NotFound(f"{said}.", code=code or None)
    if status == 401:
        # The token may have run out a moment before its renewal is mounted.
        return Unauthenticated(f"{said}: the pod's token is not accepted.")
    if status == 403:
        return Forbidden(f"{said}: the job's token does not cover it.")
    if status == 412:
        return Conflict(f"{said}.")
    if status == 429:
        return Throttled(f"{said}.")
    if status in _PASSING:
        return Unavailable(f"{said}.")
    return Invalid(f"{said}.")


def _words(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
