"""Workspaces, and the two documents by which the SDK finds its way: cloud metadata and discovery."""

from __future__ import annotations

import re

from starlette.responses import JSONResponse, Response

from moorage import __version__
from moorage.errors import Invalid
from moorage.identity.roles import Action
from moorage.ids import digest
from moorage.server.arm import PROVIDER, Answer, Call, G, Route, S, W, envelope, put
from moorage.server.founding import ensure_workspace, workspace_key
from moorage.specs.manifest import Manifest
from moorage.store import Resource, Transaction

_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_-]{1,32}$")


async def _get(call: Call) -> Answer:
    resource = await call.services.store.read(lambda tx: tx.resources.get(workspace_key(call.workspace)))
    return Answer(_render(call, resource), 200, {"ETag": resource.etag})


async def _put(call: Call) -> Answer:
    name = call.workspace.name
    if not _NAME.match(name):
        raise Invalid(f"Workspace name '{name}' must be 2 to 33 letters, digits, hyphens and underscores.", target="name")
    if not isinstance(call.body.setdefault("properties", {}), dict):
        raise Invalid("'properties' must be an object.", target="properties")

    def write(tx: Transaction) -> tuple[Resource, bool]:
        existing, created = ensure_workspace(tx, call.workspace, call.body)
        return put(tx, existing.key, call.body)[0], created

    resource, created = await call.services.store.write(write, actor=call.user.name)
    return Answer(_render(call, resource), 201 if created else 200, {"ETag": resource.etag})


async def _list(call: Call) -> Answer:
    names = call.names
    resources = await call.services.store.read(lambda tx: tx.resources.workspaces(names["subscription"], names.get("group")))
    return Answer({"value": [_render(call, each) for each in resources], "nextLink": None})


def _render(call: Call, resource: Resource) -> Manifest:
    workspace = resource.key.workspace
    properties = {
        "friendlyName": workspace.name,
        "description": "",
        **resource.properties,
        "workspaceId": digest(workspace.id.lower(), length=32),
        "discoveryUrl": call.absolute("/discovery"),
        "provisioningState": "Succeeded",
        "publicNetworkAccess": "Enabled",
        "hbiWorkspace": False,
    }
    ours = {"name": workspace.name, "type": f"{PROVIDER}/workspaces", "kind": "Default", "identity": {"type": "None"}}
    return {**envelope(resource, properties, location=call.services.settings.location), **ours}


async def _discovery(call: Call) -> Answer:
    base = call.base_url
    # `service` and `version` are ours: by them a client knows whom it found.
    return Answer(
        {"service": "moorage", "version": __version__, "api": base, "history": base, "data": base, "studio": base, "mlflow": base}
    )


async def _metadata(call: Call) -> Response:
    """What `ARM_CLOUD_METADATA_URL` points to: drop any key, and the SDK silently talks to Azure."""
    base = call.base_url + "/"
    entry = {
        "name": "SelfHosted",
        "portal": "https://portal.azure.com",
        "resourceManager": base,
        "authentication": {"loginEndpoint": base, "audiences": [base], "tenant": "moorage"},
        "suffixes": {"storage": "core.local"},
    }
    return JSONResponse([entry])


async def _nothing(_: Call) -> Answer:
    return Answer({"value": [], "nextLink": None})


_ALL = f"/providers/{PROVIDER}/workspaces"
ROUTES = (
    Route("GET", W, _get),
    Route("PUT", W, _put, action=Action.MANAGE, workspace_exists=False),
    Route("GET", G + _ALL, _list),
    Route("GET", S + _ALL, _list),
    Route("GET", "/discovery", _discovery, public=True),
    Route("GET", "/metadata/endpoints", _metadata, public=True),
    Route("GET", f"{S}/providers/{PROVIDER}/locations/{{location}}/vmSizes", _nothing),
    Route("GET", f"{S}/providers/{PROVIDER}/locations/{{location}}/usages", _nothing),
)
