"""What the five asset types share: containers and versions, latest and next, archiving, and versions that never change once they are made.

A type is described by an `AssetType`; `routes` makes its table. A container comes into being with its first version. Sending a version again with the
same content is a success, with other content a conflict: the SDK relies on both when it numbers versions by itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from moorage.errors import Conflict, Invalid
from moorage.ids import Workspace
from moorage.server.arm import Answer, Call, Route, W, check_preconditions, envelope, found
from moorage.server.paging import page_of, paged
from moorage.specs.manifest import Manifest
from moorage.specs.uris import bare_name
from moorage.store import Resource, ResourceKey, Transaction

_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,254}$")
# Second key of containers whose versions are all anonymous: lists leave them out, as Azure's do.
_ANONYMOUS = "anonymous"


@dataclass(frozen=True, slots=True)
class Asset:
    """A version being written: where, and its `properties`, to be checked and completed by its type."""

    workspace: Workspace
    name: str
    version: str
    properties: Manifest


@dataclass(frozen=True, slots=True)
class AssetType:
    """One of environments, codes, models, data, components.

    Attributes:
        name: as in the URL.
        complete: checks an asset and returns its properties with references resolved and defaults filled in.
        content: what of the properties is the content, in a form that equals itself after a round trip through the SDK.
        lookup: the version's second key.
        container: further properties of the container, from its newest version.
        shown: what the service itself has to say of a version, as its `properties.moorage`; None: nothing.
    """

    name: str
    complete: Callable[[Transaction, Asset], Manifest]
    content: Callable[[Manifest], object]
    lookup: Callable[[Manifest], str] = lambda _: ""
    container: Callable[[Manifest], Manifest] = lambda _: {}
    shown: Callable[[Transaction, Resource], Manifest | None] = lambda _tx, _resource: None

    @property
    def versions(self) -> str:
        return f"{self.name}/versions"


def routes(asset: AssetType) -> tuple[Route, ...]:
    """The type's table: containers and versions."""
    one = f"{W}/{asset.name}/{{name}}"
    version = f"{W}/{asset.name}/{{parent}}/versions/{{name}}"
    return (
        Route("GET", f"{W}/{asset.name}", partial(_list_containers, asset)),
        Route("GET", one, partial(_get_container, asset)),
        Route("PUT", one, partial(_put_container, asset)),
        Route("DELETE", one, partial(_delete_container, asset)),
        Route("GET", f"{W}/{asset.name}/{{parent}}/versions", partial(list_versions, asset)),
        Route("GET", version, partial(_get_version, asset)),
        Route("PUT", version, partial(_put_version, asset)),
        Route("DELETE", version, partial(_delete_version, asset)),
    )


def put_version(tx: Transaction, asset: AssetType, key: ResourceKey, body: Manifest) -> tuple[Resource, bool]:
    """Create a version, or update what may change of it (description, tags, archived); the version and whether it is new."""
    sent = {name: value for name, value in body.items() if name not in ("id", "name", "type", "systemData")}
    properties = sent.get("properties")
    if not isinstance(properties, dict):
        raise Invalid("The body needs an object 'properties'.", target="properties")
    for name in ("tags", "properties"):
        # One that the SDK cannot read would break every list it stands in.
        if not isinstance(properties.get(name) or {}, dict):
            raise Invalid(f"properties.{name} must be an object of texts.", target=f"properties.{name}")
    archived = _flag(properties, "isArchived")
    anonymous = _flag(properties, "isAnonymous")
    current = tx.resources.find(key)
    if current is not None and current.archived != archived:
        # Archiving sends the whole version as the SDK understood it; only the flag is meant.
        properties = {**current.properties, "isArchived": archived}
    else:
        properties = asset.complete(tx, Asset(key.workspace, key.parent, key.name, dict(properties)))
        properties = {**properties, "isArchived": archived, "isAnonymous": anonymous}
        if current is not None and asset.content(properties) != asset.content(current.properties):
            raise Conflict(
                f"{asset.name} '{key.parent}' has a version '{key.name}' already, with other content. A version never changes: use a new one.",
                code="ImmutableVersion",
                target=key.id,
            )
    sent["properties"] = properties
    if current is None:
        written = tx.resources.create(key, sent, lookup=asset.lookup(properties), archived=archived)
    else:
        written = tx.resources.update(current, body=sent, archived=archived)
    _refresh(tx, asset, ResourceKey(key.workspace, asset.name, key.parent), anonymous=anonymous)
    return written, current is None


def _refresh(tx: Transaction, asset: AssetType, key: ResourceKey, *, anonymous: bool = False) -> Resource:
    """Bring the container's latest and next version up to date; make the container if need be."""
    names = tx.resources.names(key.workspace, asset.versions, parent=key.name)
    newest = tx.resources.list(key.workspace, asset.versions, parent=key.name, archived=False, newest_first=True, limit=1)
    latest = newest[0].name if newest else names[-1] if names else None
    following = str(max((int(name) for name in names if name.isdecimal()), default=0) + 1)
    state = {"latestVersion": latest, "nextVersion": following, **asset.container(newest[0].properties if newest else {})}
    container = tx.resources.find(key)
    if container is None:
        return tx.resources.create(key, {"properties": {}}, state=state, lookup=_ANONYMOUS if anonymous else "")
    return tx.resources.update(container, state=state, lookup=container.lookup if anonymous else "")


async def _list_containers(asset: AssetType, call: Call) -> Answer:
    page = page_of(call)
    resources = await call.services.store.read(
        lambda tx: tx.resources.list(
            call.workspace,
            asset.name,
            lookup="",
            archived=page.archived,
            newest_first=page.newest_first,
            after=page.after,
            limit=page.limit + 1,
        )
    )
    return paged(call, page, resources, lambda each: envelope(each, _container(each)))


async def _get_container(asset: AssetType, call: Call) -> Answer:
    key = ResourceKey(call.workspace, asset.name, bare_name(call.names["name"]))
    resource = await call.services.store.read(lambda tx: tx.resources.get(key))
    return found(resource, _container(resource))


async def _put_container(asset: AssetType, call: Call) -> Answer:
    key = call.key(asset.name)
    check_name(key.name, "name")
    properties = {name: value for name, value in call.properties().items() if name not in ("latestVersion", "nextVersion")}
    archived = _flag(properties, "isArchived")

    def write(tx: Transaction) -> tuple[Resource, bool]:
        current = tx.resources.find(key)
        check_preconditions(call, current)
        container = current or _refresh(tx, asset, key)
        return tx.resources.update(container, body={"properties": properties}, archived=archived, lookup=""), current is None

    resource, created = await call.services.store.write(write, actor=call.user.name)
    return found(resource, _container(resource), created=created)


async def _delete_container(asset: AssetType, call: Call) -> Answer:
    key = call.key(asset.name)

    def write(tx: Transaction) -> bool:
        for version in tx.resources.names(call.workspace, asset.versions, parent=key.name):
            tx.resources.delete(ResourceKey(call.workspace, asset.versions, version, key.name))
        return tx.resources.delete(key)

    return Answer(None, 200 if await call.services.store.write(write, actor=call.user.name) else 204)


async def list_versions(asset: AssetType, call: Call) -> Answer:
    """The versions of the container in the path, newest first unless the query asks otherwise."""
    page = page_of(call, newest_first=True)
    resources = await call.services.store.read(
        lambda tx: tx.resources.list(
            call.workspace,
            asset.versions,
            parent=bare_name(call.names["parent"]),
            archived=page.archived,
            newest_first=page.newest_first,
            after=page.after,
            limit=page.limit + 1,
        )
    )
    return paged(call, page, resources, envelope)


async def _get_version(asset: AssetType, call: Call) -> Answer:
    key = ResourceKey(call.workspace, asset.versions, call.names["name"], bare_name(call.names["parent"]))

    def read(tx: Transaction) -> tuple[Resource, Manifest | None]:
        version = tx.resources.get(key)
        return version, asset.shown(tx, version)

    version, own = await call.services.store.read(read)
    return found(version, {**version.properties, "moorage": own} if own else None)


async def _put_version(asset: AssetType, call: Call) -> Answer:
    key = call.key(asset.versions)
    check_name(key.parent, "name")
    check_name(key.name, "version")

    def write(tx: Transaction) -> tuple[Resource, bool]:
        check_preconditions(call, tx.resources.find(key))
        return put_version(tx, asset, key, call.body)

    resource, created = await call.services.store.write(write, actor=call.user.name)
    return found(resource, created=created)


async def _delete_version(asset: AssetType, call: Call) -> Answer:
    key = call.key(asset.versions)

    def write(tx: Transaction) -> bool:
        gone = tx.resources.delete(key)
        container = ResourceKey(call.workspace, asset.name, key.parent)
        if tx.resources.names(call.workspace, asset.versions, parent=key.parent):
            _refresh(tx, asset, container)
        else:
            tx.resources.delete(container)
        return gone

    return Answer(None, 200 if await call.services.store.write(write, actor=call.user.name) else 204)


def check_name(name: str, field: str) -> None:
    """Invalid unless it can be an asset's name or version."""
    if not _NAME.match(name):
        raise Invalid(
            f"{field} '{name}' must be 1 to 255 letters, digits, '.', '_' and '-', and begin with a letter or digit.", target=field
        )


def text_field(properties: Manifest, field: str, *, needed: bool = True) -> str:
    """A string among the properties; Invalid when it is something else, or missing though needed."""
    value = properties.get(field)
    if value is None and not needed:
        return ""
    if not isinstance(value, str) or not value.strip():
        raise Invalid(f"properties.{field} must be a text and not empty.", target=f"properties.{field}")
    return value


def _container(resource: Resource) -> Manifest:
    # `latestVersion` must be there: the SDK asks for it again and again otherwise. An empty container's is the one to make first.
    known = {**resource.state, "latestVersion": resource.state.get("latestVersion") or "1"}
    return {"description": None, "tags": {}, "properties": {}, **resource.properties, **known, "isArchived": resource.archived}


def _flag(properties: Manifest, field: str) -> bool:
    value = properties.get(field)
    if value is not None and not isinstance(value, bool):
        raise Invalid(f"properties.{field} must be true or false.", target=f"properties.{field}")
    return bool(value)
