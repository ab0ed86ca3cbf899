"""The ARM surface as a table: method and path pattern to a handler. Fixed segments match without regard to case, names in braces as they are.

A handler is `async (Call) -> Answer`; it reads and writes through `call.services.store` and raises the errors of `moorage.errors`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NoReturn, TypeAlias
from urllib.parse import quote, unquote, urlencode

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from moorage import clock
from moorage.errors import Invalid, NotFound
from moorage.identity.roles import Action
from moorage.identity.tokens import User
from moorage.ids import Workspace
from moorage.server.authorization import action_of, authenticate, require
from moorage.server.founding import workspace_key
from moorage.server.services import Services
from moorage.specs.manifest import Manifest
from moorage.store import Resource, ResourceKey, Transaction
from moorage.wire import idle
from moorage.wire.later import elsewhere
from moorage.wire.warning import header

PROVIDER = "Microsoft.MachineLearningServices"
S = "/subscriptions/{subscription}"
G = S + "/resourceGroups/{group}"
W = f"{G}/providers/{PROVIDER}/workspaces/{{workspace}}"
LOCATION = f"{S}/providers/{PROVIDER}/locations/{{location}}"

NOBODY = User("anonymous", {})


@dataclass(frozen=True, slots=True)
class Call:
    """One request, authenticated and parsed.

    Attributes:
        services: the parts of the service.
        request: for headers; its body is read already unless the route is `raw`.
        user: the caller; `NOBODY` on public routes.
        names: the pattern's names, percent-decoded.
        query: query arguments; keys in lower case without a leading `$`.
        body: the JSON object sent, `{}` when none was.
        workspace: of workspace routes, in the casing of its creation; elsewhere made of what the path has.
        pattern: the route's, for metrics.
    """

    services: Services
    request: Request
    user: User
    names: Mapping[str, str]
    query: Mapping[str, str]
    body: Manifest
    workspace: Workspace
    pattern: str

    @property
    def base_url(self) -> str:
        """`https://host:port` as this client reaches the service, without a slash at the end."""
        return base_url(self.services, self.request)

    @property
    def path(self) -> str:
        """The request's path, percent-decoded."""
        return str(self.request.scope["path"])

    def absolute(self, path: str, **query: str) -> str:
        """An absolute URL to a path of this service."""
        return self.base_url + quote(path) + (f"?{urlencode(query)}" if query else "")

    def key(self, type: str) -> ResourceKey:
        """The key of the resource that the path names: `{name}`, and `{parent}` where the pattern has one."""
        return ResourceKey(self.workspace, type, self.names["name"], self.names.get("parent", ""))

    def properties(self) -> Manifest:
        """The body's `properties`; Invalid unless it is an object."""
        found = self.body.get("properties")
        if not isinstance(found, dict):
            raise Invalid("The body needs an object 'properties'.", target="properties")
        return found


@dataclass(frozen=True, slots=True)
class Answer:
    """What a handler answers: a JSON body (None for an empty one), a status and headers."""

    body: Manifest | None = None
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


Handler: TypeAlias = Callable[[Call], Awaitable[Answer | Response]]


@dataclass(frozen=True, slots=True)
class Route:
    """A row of the table.

    Attributes:
        method: GET, PUT, POST, PATCH, DELETE.
        pattern: `W + "/jobs/{name}"`.
        handler: what answers.
        action: what the caller's role must allow; by method when left out.
        public: no bearer token is looked at; the handler authenticates, or the answer is for everybody.
        by_user: any user may call it; the handler looks at the role, once it knows on what.
        raw: the handler reads the body itself.
        workspace_exists: answer 404 unless the path's workspace exists.
    """

    method: str
    pattern: str
    handler: Handler
    action: Action | None = None
    public: bool = False
    by_user: bool = False
    raw: bool = False
    workspace_exists: bool = True


@dataclass(slots=True)
class _Node:
    fixed: dict[str, _Node] = field(default_factory=dict)
    named: dict[str, _Node] = field(default_factory=dict)
    routes: dict[str, Route] = field(default_factory=dict)


class Table:
    """All routes as a tree of path segments; an ASGI application."""

    def __init__(self, services: Services, routes: Iterable[Route]) -> None:
        self._services = services
        self._root = _Node()
        self._known: dict[str, Workspace] = {}
        self._changed = services.store.changes.bell("resources/workspaces")
        for route in routes:
            self._add(route)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        response = await self._answer(request)
        await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        route, names = self.match(request.method, _raw_path(request))
        # The boundary reads it for metrics and the access log.
        request.scope["moorage.pattern"] = route.pattern
        services = self._services
        user = NOBODY if route.public else authenticate(request, services.tokens)
        request.scope["moorage.user"] = user.name
        workspace = Workspace(names.get("subscription", ""), names.get("group", ""), names.get("workspace", ""))
        if not (route.public or route.by_user):
            scope_id = workspace.id if "workspace" in names else str(request.scope["path"])
            require(user, route.action or action_of(request.method, route.pattern), scope_id)
        if "workspace" in names and route.workspace_exists:
            workspace = await self._existing(workspace)
        body = {} if route.raw else await read_json(request, services.settings.request_limit)
        query = {key.lower().removeprefix("$"): value for key, value in request.query_params.items()}
        answer = await route.handler(Call(services, request, user, names, query, body, workspace, route.pattern))
        if isinstance(answer, Response):
            return answer
        headers = dict(answer.headers)
        if request.method in ("PUT", "PATCH"):
            headers |= header(_unheeded(route.pattern, body))
        if answer.body is None:
            return Response(status_code=answer.status, headers=headers)
        return JSONResponse(answer.body, status_code=answer.status, headers=headers)

    def match(self, method: str, path: str) -> tuple[Route, dict[str, str]]:
        """The route for a percent-encoded path and the names in it; NotFound, or Invalid with MethodNotAllowed."""
        segments = [segment for segment in path.split("/") if segment]
        found = list(_walk(self._root, segments, 0, {}))
        for node, names in found:
            if method in node.routes:
                return node.routes[method], names
        for node, names in found:
            if method == "HEAD" and "GET" in node.routes:
                return node.routes["GET"], names
        if found:
            allowed = ", ".join(sorted(found[0][0].routes))
            raise Invalid(f"{method} is not allowed here; allowed: {allowed}.", code="MethodNotAllowed")
        raise NotFound(f"There is nothing at this address.{elsewhere(path)}", code="InvalidResourceType", target=unquote(path))

    def _add(self, route: Route) -> None:
        node = self._root
        for segment in (part for part in route.pattern.split("/") if part):
            if segment.startswith("{"):
                node = node.named.setdefault(segment[1:-1], _Node())
            else:
                node = node.fixed.setdefault(segment.lower(), _Node())
        if route.method in node.routes:
            raise ValueError(f"two routes for {route.method} {route.pattern}")
        node.routes[route.method] = route

    async def _existing(self, asked: Workspace) -> Workspace:
        if self._changed.take():
            self._known.clear()
        known = self._known.get(asked.id.lower())
        if known is None:
            found = await self._services.store.read(lambda tx: tx.resources.find(workspace_key(asked)))
            if found is None:
                raise NotFound(
                    f"Workspace '{asked.name}' does not exist in resource group '{asked.resource_group}' of subscription "
                    f"'{asked.subscription}'. Correct the one of the three names that is wrong, or make it: moorage workspace create.",
                    code="WorkspaceNotFound",
                    target=asked.id,
                )
            known = self._known[asked.id.lower()] = found.key.workspace
        return known


def _unheeded(pattern: str, body: Manifest) -> list[str]:
    """What a PUT asks for that nothing acts on; its type of resource is what is fixed in the pattern below the workspace."""
    if not pattern.startswith(W):
        return []
    type = "/".join(part for part in pattern.removeprefix(W).split("/") if part and not part.startswith("{")) or "workspaces"
    return [*idle.kept(type, body), *idle.warnings(type, body)]


def _walk(node: _Node, segments: list[str], at: int, names: dict[str, str]) -> Iterable[tuple[_Node, dict[str, str]]]:
    """Every node the path leads to, fixed segments first."""
    if at == len(segments):
        if node.routes:
            yield node, names
        return
    if (fixed := node.fixed.get(segments[at].lower())) is not None:
        yield from _walk(fixed, segments, at + 1, names)
    for name, child in node.named.items():
        yield from _walk(child, segments, at + 1, {**names, name: unquote(segments[at])})


def _raw_path(request: Request) -> str:
    raw = request.scope.get("raw_path")
    return raw.decode("latin-1").partition("?")[0] if raw else quote(str(request.scope["path"]))


async def read_json(request: Request, limit: int) -> Manifest:
    """The body as a JSON object, `{}` when there is none; Invalid says where it does not parse."""
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit:
            raise Invalid(f"The body is larger than {limit} bytes.", code="RequestBodyTooLarge")
        chunks.append(chunk)
    text = b"".join(chunks)
    if not text.strip():
        return {}
    try:
        body = json.loads(text, parse_constant=_no_number, parse_float=_finite)
        if b"\\u" in text:
            # Half of a surrogate pair parses, but can be neither stored nor answered.
            json.dumps(body, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        raise Invalid(
            f"The body is not JSON: {error.msg} at line {error.lineno}, column {error.colno}.", code="InvalidRequestContent"
        ) from error
    except UnicodeError as error:
        raise Invalid("The body is not JSON in UTF-8.", code="InvalidRequestContent") from error
    except RecursionError as error:
        raise Invalid("The body is nested too deeply.", code="InvalidRequestContent") from error
    if not isinstance(body, dict):
        raise Invalid("The body must be a JSON object.", code="InvalidRequestContent")
    return body


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        _no_number(text)
    return number


def _no_number(text: str) -> NoReturn:
    raise Invalid(f"The body is not JSON: {text[:40]} is not a number that JSON can hold.", code="InvalidRequestContent")


def base_url(services: Services, request: Request) -> str:
    """The configured public URL, else the address under which the request came."""
    return services.settings.public_url.rstrip("/") or f"{request.url.scheme}://{request.url.netloc}"


def envelope(resource: Resource, properties: Manifest | None = None, *, location: str | None = None) -> Manifest:
    """The ARM envelope around a stored resource: what the client sent, plus id, name, type and systemData.

    Args:
        resource: as stored.
        properties: what stands in place of the stored properties.
        location: shown when the client sent none; only for types that have one.
    """
    body = dict(resource.body)
    if location is not None:
        body.setdefault("location", location)
    body["properties"] = resource.properties if properties is None else properties
    ours = {
        "id": resource.id,
        "name": resource.name,
        "type": f"{PROVIDER}/workspaces/{resource.key.type}",
    }
    return {
        **ours,
        **{key: value for key, value in body.items() if key not in ours and key != "systemData"},
        "systemData": system_data(resource),
    }


def system_data(resource: Resource) -> Manifest:
    return {
        "createdAt": clock.rfc3339_micro(resource.created_at),
        "createdBy": resource.created_by,
        "createdByType": "User",
        "lastModifiedAt": clock.rfc3339_micro(resource.modified_at),
        "lastModifiedBy": resource.modified_by,
        "lastModifiedByType": "User",
    }


def found(resource: Resource, properties: Manifest | None = None, *, created: bool = False, location: str | None = None) -> Answer:
    """200 (201 when `created`) with the resource and its ETag."""
    return Answer(envelope(resource, properties, location=location), 201 if created else 200, {"ETag": resource.etag})


def check_preconditions(call: Call, current: Resource | None) -> None:
    """Honour If-Match and If-None-Match of a write; Conflict with ConditionNotMet (412)."""
    wanted, unwanted = call.request.headers.get("if-match"), call.request.headers.get("if-none-match")
    matches = current is not None and wanted in ("*", current.etag)
    if (wanted and not matches) or (unwanted == "*" and current is not None):
        raise Invalid("The resource is not in the state that If-Match or If-None-Match asks for. Read it again.", code="ConditionNotMet")


def put(tx: Transaction, key: ResourceKey, body: Manifest) -> tuple[Resource, bool]:
    """Create or replace a resource's body; the resource and whether it is new. `id`, `name`, `type` and `systemData` are ours and dropped."""
    sent = {name: value for name, value in body.items() if name not in ("id", "name", "type", "systemData")}
    current = tx.resources.find(key)
    if current is None:
        return tx.resources.create(key, sent), True
    return tx.resources.update(current, body=sent), False
