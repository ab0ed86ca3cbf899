"""Datastores: two built-in ones on our blob facade, and whatever else users register, whose secrets are sealed.

A built-in one's accountName is `HOST:PORT/blobstore/#`: the SDK builds `https://{accountName}.blob.{suffix}/{container}`, and everything after
`#` is a fragment, which leaves clean paths on this service's own port.
"""

from __future__ import annotations

import json
import re
from datetime import timedelta
from urllib.parse import urlsplit

from moorage.errors import Forbidden, Invalid
from moorage.identity import links
from moorage.identity.roles import Action, decide
from moorage.server.arm import Answer, Call, Route, W, check_preconditions, envelope, found
from moorage.server.containers import foreign
from moorage.server.paging import page_of, paged
from moorage.specs.manifest import Manifest
from moorage.store import Resource, Transaction

_TYPE = "datastores"
_NAME = re.compile(r"^[A-Za-z0-9_][A-Za-z0-9_-]{0,254}$")
_KINDS = ("AzureBlob", "AzureDataLakeGen1", "AzureDataLakeGen2", "AzureFile", "OneLake")
_CREDENTIALS = ("None", "Sas", "AccountKey", "ServicePrincipal", "Certificate")
_LONGEST_LINK = timedelta(days=7)
_SECRET = "credentials"


async def _list(call: Call) -> Answer:
    page = page_of(call)
    only_default = call.query.get("isdefault", "").lower() == "true"

    def read(tx: Transaction) -> list[Resource]:
        if only_default:
            every = tx.resources.list(call.workspace, _TYPE)
            return [each for each in every if each.properties.get("isDefault")]
        return list(tx.resources.list(call.workspace, _TYPE, after=page.after, limit=page.limit + 1))

    return paged(call, page, await call.services.store.read(read), lambda each: envelope(each, _shown(call, each)))


async def _get(call: Call) -> Answer:
    resource = await call.services.store.read(lambda tx: tx.resources.get(call.key(_TYPE)))
    return found(resource, _shown(call, resource))


async def _put(call: Call) -> Answer:
    key = call.key(_TYPE)
    body, secrets = _read(call)

    def write(tx: Transaction) -> tuple[Resource, bool]:
        current = tx.resources.find(key)
        check_preconditions(call, current)
        if current is not None and current.state.get("builtIn"):
            raise Forbidden(f"Datastore '{key.name}' is built in and cannot be changed. Use another name.", target=key.name)
        if secrets:
            tx.secrets.put(key.id, _SECRET, json.dumps(secrets))
        if current is None:
            return tx.resources.create(key, body), True
        return tx.resources.update(current, body=body), False

    resource, created = await call.services.store.write(write, actor=call.user.name)
    return found(resource, _shown(call, resource), created=created)


async def _delete(call: Call) -> Answer:
    key = call.key(_TYPE)

    def write(tx: Transaction) -> bool:
        current = tx.resources.find(key)
        if current is not None and current.state.get("builtIn"):
            raise Forbidden(f"Datastore '{key.name}' is built in and cannot be deleted.", target=key.name)
        tx.secrets.delete(key.id)
        return tx.resources.delete(key)

    return Answer(None, 200 if await call.services.store.write(write, actor=call.user.name) else 204)


async def _list_secrets(call: Call) -> Answer:
    key = call.key(_TYPE)
    resource, stored = await call.services.store.read(lambda tx: (tx.resources.get(key), tx.secrets.find(key.id, _SECRET)))
    may_write = decide(call.user.roles, Action.SECRETS, call.workspace.id)
    if resource.state.get("builtIn"):
        permissions = links.READ + links.LIST + (links.WRITE if may_write else "")
        token = call.services.links.container(str(resource.properties["containerName"]), permissions, _lifetime(call))
        return Answer({"secretsType": "Sas", "sasToken": token})
    if not may_write:
        raise Forbidden(
            f"'{call.user.name}' may not read the secrets of datastore '{key.name}'.", code="AuthorizationFailed", target=key.name
        )
    return Answer(json.loads(stored) if stored else {"secretsType": "None"})


def _read(call: Call) -> tuple[Manifest, Manifest]:
    """The body without its secrets, and the secrets; Invalid names the field."""
    name = call.names["name"]
    if not _NAME.match(name):
        raise Invalid(f"Datastore name '{name}' must be 1 to 255 letters, digits, underscores and hyphens.", target="name")
    properties = dict(call.properties())
    kind = properties.get("datastoreType")
    if kind not in _KINDS:
        raise Invalid(f"properties.datastoreType must be one of {', '.join(_KINDS)}, not '{kind}'.", target="properties.datastoreType")
    credentials = properties.get("credentials")
    if not isinstance(credentials, dict) or credentials.get("credentialsType") not in _CREDENTIALS:
        raise Invalid(
            f"properties.credentials.credentialsType must be one of {', '.join(_CREDENTIALS)}.",
            target="properties.credentials.credentialsType",
        )
    secrets = credentials.get("secrets")
    if secrets is not None and not isinstance(secrets, dict):
        raise Invalid("properties.credentials.secrets must be an object.", target="properties.credentials.secrets")
    container = str(properties.get("containerName") or "")
    if kind == "AzureBlob" and not container:
        raise Invalid("properties.containerName is missing.", target="properties.containerName")
    if foreign(container, call.workspace):
        raise Forbidden(f"Container '{container}' belongs to another workspace.", target="properties.containerName")
    properties["credentials"] = {field: value for field, value in credentials.items() if field != "secrets"}
    properties["isDefault"] = False
    tags = call.body.get("tags")
    return {**({"tags": tags} if tags else {}), "properties": properties}, secrets or {}


def _shown(call: Call, resource: Resource) -> Manifest:
    if not resource.state.get("builtIn"):
        return resource.properties
    host = urlsplit(call.base_url).netloc
    return {**resource.properties, "accountName": f"{host}/blobstore/#", "endpoint": "core.local", "protocol": "https"}


def _lifetime(call: Call) -> timedelta:
    hours = call.body.get("expireAfterHours", 24)
    if not isinstance(hours, int) or isinstance(hours, bool) or hours < 1:
        raise Invalid("expireAfterHours must be a number above 0.", target="expireAfterHours")
    return min(timedelta(hours=min(hours, 1000)), _LONGEST_LINK)


_ONE = W + "/datastores/{name}"
ROUTES = (
    Route("GET", W + "/datastores", _list),
    Route("GET", _ONE, _get),
    Route("PUT", _ONE, _put),
    Route("DELETE", _ONE, _delete),
    Route("POST", _ONE + "/listSecrets", _list_secrets, action=Action.READ),
)
