"""The blob facade, `/blobstore/CONTAINER/PATH`: the seven operations of Azure Blob REST that the SDK uses, and DELETE. Bodies are streamed.

Authorised by a signed link, a pod's token or a user's; nothing can be read without one.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import format_datetime
from functools import partial

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from moorage.errors import Forbidden, Invalid, MoorageError, NotFound
from moorage.identity import links
from moorage.identity.roles import Action, decide
from moorage.identity.tokens import Workload
from moorage.server.authorization import bearer
from moorage.server.containers import owner_of
from moorage.server.errors import headers_of, status_of
from moorage.server.ranges import byte_range, check_write, unmodified
from moorage.server.services import Services
from moorage.server.xml import block_ids, error_document, listing
from moorage.store import Blob, Transaction

PREFIX = "/blobstore/"
_BLOCK_LIST_LIMIT = 16 * 1024 * 1024
_PAGE = 5000
_METADATA = "x-ms-meta-"
# C0 controls cannot stand in XML, so a listing could not name them.
_UNUSABLE = re.compile(r"[\x00-\x1f\ufffe\uffff]")
_METADATA_NAME = re.compile(r"^[A-Za-z_][A-Za-z0-9_]*$")
_CONTAINER = re.compile(r"^[a-z0-9$](-?[a-z0-9_])*$")


@dataclass(frozen=True, slots=True)
class _Asked:
    request: Request
    container: str
    path: str
    query: dict[str, str]
    visible: Callable[[str], bool]


class BlobFacade:
    """The ASGI application below `/blobstore/`."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        scope["moorage.pattern"] = PREFIX + "{container}/{path}"
        try:
            response = await self._answer(request)
        except MoorageError as error:
            headers = {**headers_of(error), "x-ms-error-code": error.code}
            body = b"" if request.method == "HEAD" else error_document(error)
            response = Response(body, status_of(error), headers, media_type="application/xml")
        response.headers["x-ms-version"] = request.headers.get("x-ms-version", "2026-10-06")
        await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        container, _, path = str(request.scope["path"]).removeprefix(PREFIX).partition("/")
        query = {key.lower(): value for key, value in request.query_params.items()}
        comp = query.get("comp", "")
        if not path:
            if request.method == "GET" and comp == "list" and query.get("restype") == "container":
                return await self._list(await self._authorized(request, container, query.get("prefix", ""), query, links.LIST))
            raise Invalid(
                "Of a container only its blobs can be listed (GET ?restype=container&comp=list).", code="InvalidQueryParameterValue"
            )
        match request.method, comp:
            case (("GET" | "HEAD"), ""):
                return await self._get(await self._authorized(request, container, path, query, links.READ))
            case "PUT", "":
                return await self._put(await self._authorized(request, container, path, query, links.WRITE))
            case "PUT", "block":
                return await self._put_block(await self._authorized(request, container, path, query, links.WRITE))
            case "PUT", "blocklist":
                return await self._put_blocks(await self._authorized(request, container, path, query, links.WRITE))
            case "PUT", "metadata":
                return await self._put_metadata(await self._authorized(request, container, path, query, links.WRITE))
            case "DELETE", "":
                return await self._delete(await self._authorized(request, container, path, query, links.DELETE))
            case _:
                raise Invalid(
                    f"{request.method} with comp={comp or 'nothing'} is not supported.", code="InvalidQueryParameterValue", target="comp"
                )

    async def _authorized(self, request: Request, container: str, path: str, query: dict[str, str], permission: str) -> _Asked:
        visible: Callable[[str], bool] = _any_name
        services = self._services
        if "sig" in query:
            services.links.check(query, container, path, permission)
            request.scope["moorage.user"] = "link"
        else:
            caller = services.tokens.verify(bearer(request))
            request.scope["moorage.user"] = caller.name
            writes = permission in (links.WRITE, links.DELETE)
            if isinstance(caller, Workload):
                allowed = caller.covers(f"{container}/{path}", write=writes)
                visible = partial(_covered, caller, container)
            else:
                scope = await owner_of(services.store, container)
                allowed = decide(caller.roles, Action.WRITE if writes else Action.READ, scope)
            if not allowed:
                raise Forbidden(
                    f"This token may not {'write' if writes else 'read'} '{container}/{path}'.", code="AuthorizationPermissionMismatch"
                )
        if not _CONTAINER.match(container) or len(path) > 1024 or _UNUSABLE.search(path):
            raise Invalid(
                "The specified resource name contains invalid characters or is too long.", code="InvalidResourceName", target=path
            )
        return _Asked(request, container, path, query, visible)

    async def _get(self, asked: _Asked) -> Response:
        blob = await self._services.blobs.get(asked.container, asked.path)
        headers = _described(blob)
        if unmodified(asked.request.headers, blob):
            return Response(status_code=304, headers=headers)
        if asked.request.method == "HEAD":
            return _Sized({**headers, **_content(blob)}, blob.size)
        try:
            span = byte_range(asked.request.headers, blob.size)
        except Invalid as error:
            headers = {"Content-Range": f"bytes */{blob.size}", "x-ms-error-code": error.code}
            return Response(error_document(error), status_of(error), headers, media_type="application/xml")
        start, end = span or (0, blob.size)
        headers["Content-Length"] = str(end - start)
        if span is None:
            headers |= _content(blob)
        else:
            headers |= {"Content-Range": f"bytes {start}-{end - 1}/{blob.size}", "x-ms-blob-content-md5": blob.md5}
        return StreamingResponse(
            self._services.blobs.stream(blob, start, end), 200 if span is None else 206, headers, media_type=blob.content_type
        )

    async def _put(self, asked: _Asked) -> Response:
        headers = asked.request.headers
        if headers.get("x-ms-blob-type", "BlockBlob") != "BlockBlob":
            raise Invalid("Only block blobs are kept (x-ms-blob-type: BlockBlob).", code="InvalidHeaderValue", target="x-ms-blob-type")
        check_write(headers, await self._services.store.read(lambda tx: tx.blobs.find(asked.container, asked.path)))
        blob = await self._services.blobs.put(
            asked.container,
            asked.path,
            asked.request.stream(),
            content_type=_content_type(asked.request),
            metadata=_metadata(asked.request),
            md5=headers.get("content-md5", ""),
            guard=lambda current: check_write(headers, current),
        )
        return Response(status_code=201, headers={**_written(blob), "Content-MD5": blob.md5})

    async def _put_block(self, asked: _Asked) -> Response:
        block = asked.query.get("blockid", "")
        if not 0 < len(block) <= 128:
            raise Invalid("blockid must have 1 to 128 characters.", code="InvalidQueryParameterValue", target="blockid")
        md5 = await self._services.blobs.put_block(
            asked.container, asked.path, block, asked.request.stream(), md5=asked.request.headers.get("content-md5", "")
        )
        return Response(status_code=201, headers={"Content-MD5": md5})

    async def _put_blocks(self, asked: _Asked) -> Response:
        text = bytearray()
        async for chunk in asked.request.stream():
            text += chunk
            if len(text) > _BLOCK_LIST_LIMIT:
                raise Invalid("The block list is too long.", code="RequestBodyTooLarge")
        headers = asked.request.headers
        blob = await self._services.blobs.put_blocks(
            asked.container,
            asked.path,
            block_ids(bytes(text)),
            content_type=headers.get("x-ms-blob-content-type", "application/octet-stream"),
            metadata=_metadata(asked.request),
            guard=lambda current: check_write(headers, current),
        )
        return Response(status_code=201, headers=_written(blob))

    async def _put_metadata(self, asked: _Asked) -> Response:
        metadata, headers = _metadata(asked.request), asked.request.headers

        def change(tx: Transaction) -> Blob:
            current = tx.blobs.get(asked.container, asked.path)
            check_write(headers, current)
            return tx.blobs.set_metadata(current, metadata)

        blob = await self._services.store.write(change)
        return Response(status_code=200, headers=_written(blob))

    async def _delete(self, asked: _Asked) -> Response:
        if not await self._services.store.write(lambda tx: tx.blobs.delete(asked.container, asked.path)):
            raise NotFound("The specified blob does not exist.", code="BlobNotFound")
        return Response(status_code=202)

    async def _list(self, asked: _Asked) -> Response:
        query = asked.query
        prefix, delimiter, marker = (query.get(name, "") for name in ("prefix", "delimiter", "marker"))
        limit = _page(query.get("maxresults", ""))

        found = await self._services.store.read(
            lambda tx: (
                tx.blobs.list_folder(asked.container, prefix=prefix, delimiter=delimiter, after=marker, limit=limit)
                if delimiter
                else tx.blobs.list(asked.container, prefix=prefix, after=marker, limit=limit)
            )
        )
        last = found[-1] if len(found) == limit else ""
        # After a folder the next page begins behind everything in it.
        following = (last + "\U0010ffff" if last else "") if isinstance(last, str) else last.name
        shown = [each for each in found if asked.visible(each if isinstance(each, str) else each.name)]
        return Response(listing(asked.container, shown, query, following), media_type="application/xml")


def _any_name(_: str) -> bool:
    return True


def _covered(workload: Workload, container: str, name: str) -> bool:
    return workload.covers(f"{container}/{name}", write=False)


class _Sized(Response):
    """A HEAD's answer: the length of a body that is not sent."""

    def __init__(self, headers: dict[str, str], size: int) -> None:
        super().__init__(headers=headers)
        self.headers["content-length"] = str(size)


def _described(blob: Blob) -> dict[str, str]:
    return {
        **_written(blob),
        "Accept-Ranges": "bytes",
        "x-ms-blob-type": "BlockBlob",
        "x-ms-creation-time": format_datetime(blob.created_at, usegmt=True),
        **{_METADATA + name: value for name, value in blob.metadata.items()},
    }


def _content(blob: Blob) -> dict[str, str]:
    return {"Content-Type": blob.content_type, **({"Content-MD5": blob.md5} if blob.md5 else {})}


def _written(blob: Blob) -> dict[str, str]:
    return {"ETag": blob.etag, "Last-Modified": format_datetime(blob.modified_at, usegmt=True)}


def _content_type(request: Request) -> str:
    return request.headers.get("x-ms-blob-content-type") or request.headers.get("content-type") or "application/octet-stream"


def _metadata(request: Request) -> dict[str, str]:
    found = {name[len(_METADATA) :]: value for name, value in request.headers.items() if name.startswith(_METADATA)}
    for name in found:
        if not _METADATA_NAME.match(name):
            raise Invalid(f"Metadata name '{name}' is not an identifier.", code="InvalidMetadata", target=name)
    return found


def _page(text: str) -> int:
    if text and (not text.isdecimal() or int(text) < 1):
        raise Invalid("maxresults must be a number above 0.", code="OutOfRangeQueryParameterValue", target="maxresults")
    return min(int(text or _PAGE), _PAGE)
