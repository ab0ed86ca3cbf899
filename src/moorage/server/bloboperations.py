"""What can be done with a blob: read it, write it whole or in blocks, copy it within the service, describe it, delete it. Bodies are streamed."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from uuid import uuid4

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from moorage.errors import Conflict, Invalid, NotFound
from moorage.server.blobheaders import (
    DEFAULT_TYPE,
    checked,
    content,
    described,
    description,
    expected,
    kept,
    metadata,
    written,
)
from moorage.server.blobrequest import Asked
from moorage.server.blobstore import Description, Guard, committed_blocks
from moorage.server.checksums import Expected
from moorage.server.errors import status_of
from moorage.server.ranges import byte_range, check_write, of_source, unmodified
from moorage.server.xml import block_list, error_document, named_blocks
from moorage.store import Blob, Transaction

# 50,000 entries with the longest ids.
_BLOCK_LIST_LIMIT = 16 * 1024 * 1024
_BLOCK_ID = 64
# In the link of a log that still grows: an answer without a range ends with its last whole line. The SDK counts the lines that it has shown, so that of a
# line which it once saw half it would never show the rest.
LINES, WHOLE_LINES = "moorage-lines", "whole"
_LONGEST_LINE = 64 * 1024
# Azure's, for ranges with a checksum.
_CHECKED_RANGE = 4 * 1024 * 1024

Source = Callable[[Asked], Awaitable[tuple[str, str]]]


async def get(asked: Asked) -> Response:
    request = asked.request
    blob = await asked.services.blobs.get(asked.container, asked.path)
    headers = described(blob)
    if unmodified(request.headers, blob):
        return Response(status_code=304, headers=headers)
    if request.method == "HEAD":
        return _Sized({**headers, **content(blob)}, blob.size)
    try:
        span = byte_range(request.headers, blob.size)
    except Invalid as error:
        headers = {"Content-Range": f"bytes */{blob.size}", "x-ms-error-code": error.code}
        return Response(error_document(error), status_of(error), headers, media_type="application/xml")
    start, end = span or (0, blob.size)
    if span is None and request.query_params.get(LINES) == WHOLE_LINES:
        # No checksum: that of the blob is of more than is sent.
        end = await _last_line_end(asked, blob)
    elif span is None:
        headers |= content(blob)
    else:
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{blob.size}"
        if blob.md5:
            headers["x-ms-blob-content-md5"] = blob.md5
        if request.headers.get("x-ms-range-get-content-md5", "").lower() == "true":
            return await _checked_range(asked, blob, start, end, headers)
    headers["Content-Length"] = str(end - start)
    body = await _begun(asked.services.blobs.stream(blob, start, end))
    return StreamingResponse(body, 200 if span is None else 206, headers, media_type=blob.content_type)


async def _last_line_end(asked: Asked, blob: Blob) -> int:
    """Where the last whole line ends; the end of the blob when its last line is longer than anybody looks back."""
    begin = max(0, blob.size - _LONGEST_LINE)
    tail = b"".join([chunk async for chunk in asked.services.blobs.stream(blob, begin, blob.size)])
    found = 1 + max(tail.rfind(b"\n"), tail.rfind(b"\r"))
    return begin + found if found or not begin else blob.size


async def _begun(body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same bytes, the first of them read, so that a store that is away is said with a status and not by a broken connection."""
    first = await anext(body, b"")

    async def whole() -> AsyncIterator[bytes]:
        yield first
        async for chunk in body:
            yield chunk

    return whole()


async def _checked_range(asked: Asked, blob: Blob, start: int, end: int, headers: dict[str, str]) -> Response:
    if end - start > _CHECKED_RANGE:
        raise Invalid("A range whose MD5 is asked for may have 4 MiB at most.", code="OutOfRangeInput", target="x-ms-range-get-content-md5")
    data = b"".join([chunk async for chunk in asked.services.blobs.stream(blob, start, end)])
    headers["Content-MD5"] = base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()
    return Response(data, 206, headers, media_type=blob.content_type)


async def put(asked: Asked) -> Response:
    headers = asked.request.headers
    await _early(asked)
    blob, digest = await asked.services.blobs.put(
        asked.container,
        asked.path,
        asked.request.stream(),
        description(asked.request),
        expected=expected(headers),
        guard=_guard(headers),
    )
    return Response(status_code=201, headers={**written(blob), **checked(digest)})


async def put_block(asked: Asked) -> Response:
    digest = await asked.services.blobs.put_block(
        asked.container, asked.path, _block_id(asked), asked.request.stream(), expected=expected(asked.request.headers)
    )
    return Response(status_code=201, headers=checked(digest))


async def put_blocks(asked: Asked) -> Response:
    text = bytearray()
    async for chunk in asked.request.stream():
        text += chunk
        if len(text) > _BLOCK_LIST_LIMIT:
            raise Invalid("The block list is too long.", code="RequestBodyTooLarge")
    headers, body = asked.request.headers, bytes(text)
    said = description(asked.request)
    if (
        headers.get("content-md5")
        and headers["content-md5"] != base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()
    ):
        raise Invalid("The MD5 value specified in the request did not match that of the block list.", code="Md5Mismatch")
    # The request's own type is that of the list.
    said = Description(headers.get("x-ms-blob-content-type", DEFAULT_TYPE), said.metadata, said.headers, said.md5)
    blob = await asked.services.blobs.put_blocks(asked.container, asked.path, named_blocks(body), said, guard=_guard(headers))
    return Response(status_code=201, headers={**written(blob), "x-ms-request-server-encrypted": "false"})


async def get_blocks(asked: Asked) -> Response:
    wanted = asked.query.get("blocklisttype", "committed").lower()
    if wanted not in ("committed", "uncommitted", "all"):
        raise Invalid("blocklisttype must be committed, uncommitted or all.", code="InvalidQueryParameterValue", target="blocklisttype")
    blob, staged = await asked.services.store.read(
        lambda tx: (tx.blobs.find(asked.container, asked.path), tx.blobs.blocks(asked.container, asked.path))
    )
    if blob is None and not staged:
        raise NotFound("The specified blob does not exist.", code="BlobNotFound", target=asked.path)
    headers = {**(written(blob) if blob else {}), "x-ms-blob-content-length": str(blob.size if blob else 0)}
    return Response(block_list(wanted, staged, committed_blocks(blob)), headers=headers, media_type="application/xml")


async def copy(asked: Asked, source: Source) -> Response:
    """Copy Blob and Put Blob From URL: done when it is answered."""
    headers = asked.request.headers
    await _early(asked)
    blob = await _source(asked, source)
    said = description(asked.request)
    from_url = "x-ms-blob-type" in headers
    made, digest = await asked.services.blobs.put(
        asked.container,
        asked.path,
        asked.services.blobs.stream(blob),
        Description(
            content_type=headers.get("x-ms-blob-content-type") or blob.content_type,
            metadata=said.metadata or blob.metadata,
            headers=said.headers or blob.headers,
        ),
        expected=_source_expected(asked.request),
        guard=_guard(headers),
    )
    if from_url:
        return Response(status_code=201, headers={**written(made), **checked(digest)})
    return Response(status_code=202, headers={**written(made), "x-ms-copy-id": str(uuid4()), "x-ms-copy-status": "success"})


async def copy_block(asked: Asked, source: Source) -> Response:
    """Put Block From URL."""
    blob = await _source(asked, source)
    span = byte_range({"range": asked.request.headers.get("x-ms-source-range", "")}, blob.size)
    body = asked.services.blobs.stream(blob, *span) if span else asked.services.blobs.stream(blob)
    digest = await asked.services.blobs.put_block(
        asked.container, asked.path, _block_id(asked), body, expected=_source_expected(asked.request)
    )
    return Response(status_code=201, headers=checked(digest))


async def put_metadata(asked: Asked) -> Response:
    said = metadata(asked.request)
    return await _describe(asked, lambda tx, blob: tx.blobs.describe(blob, metadata=said))


async def put_properties(asked: Asked) -> Response:
    """Those that the request leaves out are cleared, as on Azure."""
    headers = asked.request.headers
    content_type, md5 = headers.get("x-ms-blob-content-type") or DEFAULT_TYPE, headers.get("x-ms-blob-content-md5", "")
    return await _describe(asked, lambda tx, blob: tx.blobs.describe(blob, content_type=content_type, md5=md5, headers=kept(headers)))


async def delete(asked: Asked) -> Response:
    headers = asked.request.headers
    if headers.get("x-ms-delete-snapshots", "").lower() == "only":
        # There are none, so that nothing is to delete; the blob itself is not meant.
        await asked.services.blobs.get(asked.container, asked.path)
        return Response(status_code=202)

    def remove(tx: Transaction) -> None:
        check_write(headers, tx.blobs.get(asked.container, asked.path))
        tx.blobs.delete(asked.container, asked.path)

    await asked.services.store.write(remove)
    return Response(status_code=202, headers={"x-ms-delete-type-permanent": "true"})


async def abort_copy(asked: Asked) -> Response:
    await asked.services.blobs.get(asked.container, asked.path)
    raise Conflict("There is currently no pending copy operation: copies are done when they are answered.", code="NoPendingCopyOperation")


async def _describe(asked: Asked, change: Callable[[Transaction, Blob], Blob]) -> Response:
    headers = asked.request.headers

    def write(tx: Transaction) -> Blob:
        current = tx.blobs.get(asked.container, asked.path)
        check_write(headers, current)
        return change(tx, current)

    return Response(status_code=200, headers=written(await asked.services.store.write(write)))


async def _early(asked: Asked) -> None:
    """Refuse before the body comes what would be refused after it."""
    if guard := _guard(asked.request.headers):
        guard(await asked.services.store.read(lambda tx: tx.blobs.find(asked.container, asked.path)))


def _guard(headers: Mapping[str, str]) -> Guard | None:
    """The check of a write's conditions; None where it has none, which saves looking at what is there."""
    if not any(name.startswith("if-") for name in headers):
        return None
    return lambda current: check_write(headers, current)


async def _source(asked: Asked, source: Source) -> Blob:
    blob = await asked.services.blobs.get(*await source(asked))
    if unmodified(of_source(asked.request.headers), blob):
        raise Invalid("The source condition specified using HTTP conditional header(s) is not met.", code="SourceConditionNotMet")
    return blob


def _source_expected(request: Request) -> Expected:
    return Expected(request.headers.get("x-ms-source-content-md5", ""), request.headers.get("x-ms-source-content-crc64", ""))


def _block_id(asked: Asked) -> str:
    block = asked.query.get("blockid", "")
    try:
        size = len(base64.b64decode(block, validate=True))
    except (binascii.Error, ValueError):
        size = 0
    if not 0 < size <= _BLOCK_ID:
        raise Invalid(
            f"The block id is invalid: it must be the base64 of 1 to {_BLOCK_ID} bytes.",
            code="InvalidQueryParameterValue",
            target="blockid",
        )
    return block


class _Sized(Response):
    """A HEAD's answer: the length of a body that is not sent."""

    def __init__(self, headers: dict[str, str], size: int) -> None:
        super().__init__(headers=headers)
        self.headers["content-length"] = str(size)
