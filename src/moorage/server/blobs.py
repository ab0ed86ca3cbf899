"""The blob facade, `/blobstore/CONTAINER/PATH`: Azure Blob REST for block blobs, as far as storage clients use it.

Authorised by a signed link, a pod's token or a user's before anything else is looked at; nothing can be read without one.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from urllib.parse import parse_qsl, unquote, unquote_to_bytes, urlsplit

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from moorage.errors import Forbidden, Invalid, MoorageError, NotFound, Unauthenticated
from moorage.identity import links
from moorage.identity.roles import Action, decide
from moorage.identity.tokens import User, Workload
from moorage.server import bloblisting as lists
from moorage.server import bloboperations as blobs
from moorage.server.authorization import bearer
from moorage.server.blobheaders import check_supported, of_answer
from moorage.server.blobrequest import Asked
from moorage.server.containers import owner_of
from moorage.server.errors import headers_of, status_of
from moorage.server.services import Services
from moorage.server.xml import error_document

PREFIX = "/blobstore/"
# C0 controls cannot stand in XML, so a listing could not name them.
_UNUSABLE = re.compile(r"[\x00-\x1f\ufffe\uffff]")
_CONTAINER = re.compile(r"^[a-z0-9$](-?[a-z0-9_])*$")
_LONGEST_NAME = 1024

Operation = Callable[[Asked], Awaitable[Response]]
# By method, `restype` and `comp`. Of the service:
_SERVICE: Mapping[tuple[str, str, str], Operation] = {
    ("GET", "", "list"): lists.list_containers,
    ("GET", "account", "properties"): lists.show_account,
    ("HEAD", "account", "properties"): lists.show_account,
}
_CONTAINERS: Mapping[tuple[str, str, str], tuple[str, Operation]] = {
    ("GET", "container", "list"): (links.LIST, lists.list_blobs),
    ("GET", "container", ""): (links.LIST, lists.show_container),
    ("HEAD", "container", ""): (links.LIST, lists.show_container),
    ("GET", "container", "metadata"): (links.LIST, lists.show_container),
    ("HEAD", "container", "metadata"): (links.LIST, lists.show_container),
    ("GET", "account", "properties"): (links.LIST, lists.show_account),
    ("HEAD", "account", "properties"): (links.LIST, lists.show_account),
    ("PUT", "container", ""): (links.WRITE, lists.refuse_container_write),
    ("PUT", "container", "metadata"): (links.WRITE, lists.refuse_container_write),
    ("PUT", "container", "acl"): (links.WRITE, lists.refuse_container_write),
    ("DELETE", "container", ""): (links.DELETE, lists.refuse_container_write),
}
_BLOBS: Mapping[tuple[str, str], tuple[str, Operation]] = {
    ("GET", ""): (links.READ, blobs.get),
    ("HEAD", ""): (links.READ, blobs.get),
    ("GET", "metadata"): (links.READ, blobs.get),
    ("HEAD", "metadata"): (links.READ, blobs.get),
    ("GET", "blocklist"): (links.READ, blobs.get_blocks),
    ("PUT", ""): (links.WRITE, blobs.put),
    ("PUT", "block"): (links.WRITE, blobs.put_block),
    ("PUT", "blocklist"): (links.WRITE, blobs.put_blocks),
    ("PUT", "metadata"): (links.WRITE, blobs.put_metadata),
    ("PUT", "properties"): (links.WRITE, blobs.put_properties),
    ("PUT", "copy"): (links.WRITE, blobs.abort_copy),
    ("DELETE", ""): (links.DELETE, blobs.delete),
}


class BlobFacade:
    """The ASGI application below `/blobstore/`."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        scope["moorage.pattern"] = PREFIX + "{container}/{path}"
        failed: MoorageError | None = None
        try:
            response = await self._answer(request)
        except MoorageError as error:
            failed = error
            body = b"" if request.method == "HEAD" else error_document(error)
            response = Response(body, status_of(error), headers_of(error), media_type="application/xml")
        for name, value in of_answer(request, failed).items():
            response.headers[name] = value
        await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        container, _, path = str(request.scope["path"]).removeprefix(PREFIX).partition("/")
        query = {key.lower(): value for key, value in request.query_params.items()}
        method, kind, comp = request.method, query.get("restype", "").lower(), query.get("comp", "").lower()
        if not container:
            asked = await self._of_service(request, query)
            return await self._found(_SERVICE.get((method, kind, comp)), asked)
        if not path:
            permission, operation = _CONTAINERS.get((method, kind, comp), (_permission(method), None))
            # A listing is of what its prefix says.
            within = query.get("prefix", "") if comp == "list" else ""
            asked = await self._authorized(
                request, container, within, query, permission, new=(method, kind, comp) == ("PUT", "container", "")
            )
            return await self._found(operation, asked)
        permission, found = _BLOBS.get((method, comp), (_permission(method), None))
        asked = await self._authorized(request, container, path, query, permission)
        check_supported(request.headers)
        if "snapshot" in query or "versionid" in query:
            raise NotFound("The specified blob does not exist: neither snapshots nor versions are kept.", code="BlobNotFound", target=path)
        if request.headers.get("x-ms-copy-source") and (method, comp) in (("PUT", ""), ("PUT", "block")):
            return await (blobs.copy_block if comp else blobs.copy)(asked, self._source)
        return await self._found(found, asked)

    async def _found(self, operation: Operation | None, asked: Asked) -> Response:
        if operation is not None:
            return await operation(asked)
        method, comp, kind = asked.request.method, asked.query.get("comp", ""), asked.query.get("restype", "")
        what = " ".join(f"{name}={value}" for name, value in (("restype", kind), ("comp", comp)) if value) or "no restype and no comp"
        raise Invalid(
            f"{method} with {what} is not supported here: there are block blobs, without leases, snapshots, versions, tiers or tags.",
            code="UnsupportedQueryParameter",
            target="comp",
        )

    async def _of_service(self, request: Request, query: dict[str, str]) -> Asked:
        if "sig" in query:
            raise Forbidden("A signed link opens one container, not the service.", code="AuthorizationResourceTypeMismatch")
        caller = self._services.tokens.verify(_token(request))
        request.scope["moorage.user"] = caller.name
        if not isinstance(caller, User):
            raise Forbidden("A pod's token opens its own blobs, not the service.", code="AuthorizationPermissionMismatch")
        return Asked(self._services, request, "", "", query, caller, _any_name)

    async def _authorized(
        self, request: Request, container: str, path: str, query: dict[str, str], permission: str, *, new: bool = False
    ) -> Asked:
        visible: Callable[[str], bool] = _any_name
        services, user = self._services, None
        if "sig" in query:
            services.links.check(query, container, path, permission)
            request.scope["moorage.user"] = "link"
        else:
            caller = services.tokens.verify(_token(request))
            request.scope["moorage.user"] = caller.name
            await self._check(caller, container, path, permission, new=new)
            if isinstance(caller, Workload):
                visible = partial(_covered, caller, container)
            else:
                user = caller
        if not _CONTAINER.match(container) or len(path) > _LONGEST_NAME or _UNUSABLE.search(path) or not _readable(request):
            raise Invalid(
                "The specified resource name contains invalid characters or is too long.", code="InvalidResourceName", target=path
            )
        return Asked(services, request, container, path, query, user, visible)

    async def _check(self, caller: User | Workload, container: str, path: str, permission: str, *, new: bool = False) -> None:
        writes = permission in (links.WRITE, links.DELETE)
        if isinstance(caller, Workload):
            allowed, scope = caller.covers(f"{container}/{path}", write=writes), ""
        else:
            scope = await owner_of(self._services.store, container)
            allowed = decide(caller.roles, Action.WRITE if writes else Action.READ, scope)
        if not allowed:
            raise Forbidden(
                f"This token may not {'write' if writes else 'read'} '{container}/{path}'.", code="AuthorizationPermissionMismatch"
            )
        if scope == "/":
            raise lists.never() if new else NotFound("The specified container does not exist.", code="ContainerNotFound", target=container)

    async def _source(self, asked: Asked) -> tuple[str, str]:
        """Container and path of a copy's source, once it is certain that the caller may read it.

        Only this service's own blobs: nothing is fetched from elsewhere on a caller's behalf.
        """
        headers = asked.request.headers
        try:
            url = urlsplit(headers["x-ms-copy-source"])
        except ValueError as error:  # brackets in the host that hold no address
            raise Invalid("x-ms-copy-source is no address.", code="InvalidHeaderValue", target="x-ms-copy-source") from error
        if url.netloc.lower() != headers.get("host", "").lower() or not url.path.startswith(PREFIX):
            raise Invalid(
                "The copy's source must be a blob of this service, under the same host name; nothing is fetched from elsewhere.",
                code="CannotVerifyCopySource",
                target="x-ms-copy-source",
            )
        container, _, path = unquote(url.path).removeprefix(PREFIX).partition("/")
        query = {key.lower(): value for key, value in parse_qsl(url.query, keep_blank_values=True)}
        if "sig" in query:
            self._services.links.check(query, container, path, links.READ)
            return container, path
        scheme, _, token = headers.get("x-ms-copy-source-authorization", headers.get("authorization", "")).partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise Forbidden(
                "The copy's source needs a signed link, or a bearer token in x-ms-copy-source-authorization.", code="CannotVerifyCopySource"
            )
        await self._check(self._services.tokens.verify(token.strip()), container, path, links.READ)
        return container, path


def _token(request: Request) -> str:
    try:
        return bearer(request)
    except Unauthenticated as error:
        raise Unauthenticated(
            "The request has neither a signed link (query) nor a bearer token (header Authorization).", code="NoAuthenticationInformation"
        ) from error


def _permission(method: str) -> str:
    """What a request must be allowed before it is told that there is no such operation."""
    return links.READ if method in ("GET", "HEAD") else links.WRITE


def _readable(request: Request) -> bool:
    """Whether the path is UTF-8: two names that are not would become the same one."""
    try:
        unquote_to_bytes(request.scope.get("raw_path") or b"").decode()
    except UnicodeDecodeError:
        return False
    return True


def _any_name(_: str) -> bool:
    return True


def _covered(workload: Workload, container: str, name: str) -> bool:
    return workload.covers(f"{container}/{name}", write=False)
