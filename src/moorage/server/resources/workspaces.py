"""Workspaces, and the two documents by which the SDK finds its way: cloud metadata and discovery."""

from __future__ import annotations

import re
from functools import partial

from starlette.responses import JSONResponse, Response

from moorage import __version__
from moorage.errors import Conflict, Invalid
from moorage.identity.roles import Action
from moorage.ids import Workspace, digest
from moorage.server.arm import PROVIDER, Answer, Call, G, Route, S, W, check_preconditions, envelope, put
from moorage.server.containers import artifact_container, blob_container, code_container
from moorage.server.engine.jobs import state_of
from moorage.server.founding import ensure_workspace, workspace_key
from moorage.server.resources import jobs
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


async def _patch(call: Call) -> Answer:
    """Change what is sent and not null: tags as a whole, properties one by one. What `workspaces.begin_update` of the SDK does."""
    sent = {name: value for name, value in call.body.items() if name in ("tags", "identity", "properties") and value is not None}
    for name, value in sent.items():
        if not isinstance(value, dict):
            raise Invalid(f"'{name}' must be an object.", target=name)

    def write(tx: Transaction) -> Resource:
        current = tx.resources.get(workspace_key(call.workspace))
        check_preconditions(call, current)
        changes = {name: value for name, value in sent.get("properties", {}).items() if value is not None}
        return tx.resources.update(current, body={**current.body, **sent, "properties": {**current.properties, **changes}})

    resource = await call.services.store.write(write, actor=call.user.name)
    return Answer(_render(call, resource), 200, {"ETag": resource.etag})


async def _delete(call: Call) -> Answer:
    """All of a workspace but its files, which `deleteFiles=true` takes as well. Nothing in a cluster is its own once no compute is attached."""
    if call.query.get("deletefiles", "false").lower() == "true":
        await call.services.store.read(lambda tx: _check_detached(tx, call.workspace))
        for container in await call.services.store.read(lambda tx: _containers(tx, call.workspace)):
            while await call.services.store.write(partial(_delete_some, container)):
                pass

    def write(tx: Transaction) -> bool:
        if tx.resources.find(workspace_key(call.workspace)) is None:
            return False
        _check_detached(tx, call.workspace)
        for job in tx.resources.list(call.workspace, jobs.TYPE):
            jobs.delete_logs(tx, job, state_of(job).logs)
        for key in tx.resources.delete_all(call.workspace):
            tx.secrets.delete(key.id)
        return True

    return Answer(None, 200 if await call.services.store.write(write, actor=call.user.name) else 204)


def _check_detached(tx: Transaction, workspace: Workspace) -> None:
    if attached := tx.resources.names(workspace, "computes"):
        raise Conflict(
            f"Workspace '{workspace.name}' has compute targets: {', '.join(attached[:10])}. Detach them first, which ends what runs on them.",
            code="WorkspaceInUse",
            target=workspace.id,
        )


def _containers(tx: Transaction, workspace: Workspace) -> list[str]:
    codes = [code_container(workspace, name) for name in tx.resources.names(workspace, "codes")]
    return [blob_container(workspace), artifact_container(workspace), *codes]


def _delete_some(container: str, tx: Transaction) -> bool:
    """One transaction's share of a container's files; whether there were any."""
    blobs = tx.blobs.list(container, limit=500)
    for blob in blobs:
        tx.blobs.delete(container, blob.name)
    return bool(blobs)


async def _list(call: Call) -> Answer:
    names = call.names
    resources = await call.services.store.read(lambda tx: tx.resources.workspaces(names["subscription"], names.get("group")))
    return Answer({"value": [_render(call, each) for each in resources], "nextLink": None})


def _render(call: Call, resource: Resource) -> Manifest:
    workspace = resource.key.workspace
    properties = {
        "friendlyName": workspace.name,
        "description": "",
        "publicNetworkAccess": "Enabled",
        "hbiWorkspace": False,
        **resource.properties,
        "workspaceId": digest(workspace.id.lower(), length=32),
        "discoveryUrl": call.absolute("/discovery"),
        "provisioningState": "Succeeded",
    }
    made = envelope(resource, properties, location=call.services.settings.location)
    ours = {"name": workspace.name, "type": f"{PROVIDER}/workspaces", "kind": "Default"}
    return {**made, **ours, "identity": made.get("identity") or {"type": "None"}}


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
    Route("PATCH", W, _patch, action=Action.MANAGE),
    Route("DELETE", W, _delete, action=Action.MANAGE, workspace_exists=False),
    Route("GET", G + _ALL, _list),
    Route("GET", S + _ALL, _list),
    Route("GET", "/discovery", _discovery, public=True),
    Route("GET", "/metadata/endpoints", _metadata, public=True),
    Route("GET", f"{S}/providers/{PROVIDER}/locations/{{location}}/vmSizes", _nothing),
    Route("GET", f"{S}/providers/{PROVIDER}/locations/{{location}}/usages", _nothing),
)
