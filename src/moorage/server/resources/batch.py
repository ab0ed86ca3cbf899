"""Batch endpoints and their deployments: stored and answered; invoking one is refused until batch scoring is there (`wire.later`)."""

from __future__ import annotations

from moorage.errors import Conflict
from moorage.server.arm import Answer, Call, Route, W, check_preconditions, found, put
from moorage.server.arm import envelope as enveloped
from moorage.server.paging import page_of, paged
from moorage.server.resources.placement import find_place
from moorage.server.sdk import conclude, through
from moorage.specs.endpoints import check_deployment_name, check_endpoint_name
from moorage.specs.manifest import Manifest
from moorage.store import Operation, Resource, ResourceKey, Transaction
from moorage.wire import kept, later
from moorage.wire.bodies import read

ENDPOINTS = "batchEndpoints"
DEPLOYMENTS = "batchEndpoints/deployments"
# The header by which a request names a deployment.
_PIN = "azureml-model-deployment"
_ENDPOINT = W + "/batchEndpoints/{name}"
_DEPLOYMENT = W + "/batchEndpoints/{parent}/deployments/{name}"
# What batch clients ask for the jobs of an endpoint (contract 6).
_DATA_PLANE = "/mferp/managementfrontend" + W + "/batchEndpoints/{name}"


async def _put_endpoint(call: Call) -> Answer:
    check_endpoint_name(call.names["name"])
    raw = call.properties()
    endpoint = read(kept.BatchEndpointProperties, raw)

    def write(tx: Transaction) -> tuple[Resource, bool]:
        key = call.key(ENDPOINTS)
        check_preconditions(call, tx.resources.find(key))
        default = endpoint.defaults.deployment_name if endpoint.defaults else None
        known = tx.resources.names(call.workspace, DEPLOYMENTS, parent=key.name)
        if default and default not in known:
            raise Conflict(
                f"properties.defaults.deploymentName: the endpoint has no deployment '{default}' (it has: {', '.join(known) or 'none yet'}).",
                code="DeploymentNotFound",
                target="properties.defaults.deploymentName",
            )
        return put(tx, key, {**call.body, "properties": {**raw, "properties": raw.get("properties") or {}}})

    resource, created = await call.services.store.write(write, actor=call.user.name)
    return found(resource, _endpoint(call, resource), created=created, location=call.services.settings.location)


async def _get_endpoint(call: Call) -> Answer:
    resource = await call.services.store.read(lambda tx: tx.resources.get(call.key(ENDPOINTS)))
    return found(resource, _endpoint(call, resource), location=call.services.settings.location)


async def _list_endpoints(call: Call) -> Answer:
    page = page_of(call)
    resources = await call.services.store.read(
        lambda tx: tx.resources.list(call.workspace, ENDPOINTS, after=page.after, limit=page.limit + 1, newest_first=page.newest_first)
    )
    return paged(call, page, resources, lambda each: enveloped(each, _endpoint(call, each), location=call.services.settings.location))


async def _delete_endpoint(call: Call) -> Answer:
    def write(tx: Transaction) -> bool:
        key = call.key(ENDPOINTS)
        for name in tx.resources.names(call.workspace, DEPLOYMENTS, parent=key.name):
            tx.resources.delete(ResourceKey(call.workspace, DEPLOYMENTS, name, key.name))
        return tx.resources.delete(key)

    return Answer(None, 200 if await call.services.store.write(write, actor=call.user.name) else 204)


async def _invoke(call: Call) -> Answer:
    """Refused, once what is sent has been found to be an invocation of something that is there."""
    if call.body:
        read(kept.BatchJobProperties, call.properties())
    pinned = call.request.headers.get(_PIN, "")

    def look(tx: Transaction) -> None:
        endpoint = tx.resources.get(call.key(ENDPOINTS))
        if pinned:
            tx.resources.get(ResourceKey(call.workspace, DEPLOYMENTS, pinned, endpoint.name))

    await call.services.store.read(look)
    raise later.refusal(later.BATCH_INVOKE, target=call.names["name"])


async def _jobs(call: Call) -> Answer:
    await call.services.store.read(lambda tx: tx.resources.get(call.key(ENDPOINTS)))
    return Answer({"value": [], "nextLink": None})


def _endpoint(call: Call, resource: Resource) -> Manifest:
    return {
        "authMode": "AADToken",
        **resource.properties,
        # Published notebooks set a field of it on what they fetched.
        "defaults": resource.properties.get("defaults") or {"deploymentName": None},
        "scoringUri": call.absolute(f"{resource.id}/jobs"),
        "swaggerUri": None,
        "provisioningState": "Succeeded",
    }


async def _put_deployment(call: Call) -> Answer:
    check_deployment_name(call.names["name"])
    raw = call.properties()
    deployment = read(kept.BatchDeploymentProperties, raw)

    def write(tx: Transaction) -> tuple[Resource, bool, Operation | None]:
        key = call.key(DEPLOYMENTS)
        tx.resources.get(ResourceKey(call.workspace, ENDPOINTS, key.parent))
        check_preconditions(call, tx.resources.find(key))
        if deployment.compute:
            find_place(tx, call.workspace, deployment.compute, target="properties.compute")
        resource, created = put(tx, key, {**call.body, "properties": {**raw, "properties": raw.get("properties") or {}}})
        return resource, created, conclude(tx, call, resource)

    resource, created, operation = await call.services.store.write(write, actor=call.user.name)
    answer = found(resource, _deployment(resource), created=created, location=call.services.settings.location)
    return through(call, operation, answer)


async def _get_deployment(call: Call) -> Answer:
    resource = await call.services.store.read(lambda tx: tx.resources.get(call.key(DEPLOYMENTS)))
    return found(resource, _deployment(resource), location=call.services.settings.location)


async def _list_deployments(call: Call) -> Answer:
    page = page_of(call)
    parent = call.names["parent"]

    def read_page(tx: Transaction) -> list[Resource]:
        tx.resources.get(ResourceKey(call.workspace, ENDPOINTS, parent))
        return list(tx.resources.list(call.workspace, DEPLOYMENTS, parent=parent, after=page.after, limit=page.limit + 1))

    resources = await call.services.store.read(read_page)
    return paged(call, page, resources, lambda each: enveloped(each, _deployment(each), location=call.services.settings.location))


async def _delete_deployment(call: Call) -> Answer:
    def write(tx: Transaction) -> bool:
        key = call.key(DEPLOYMENTS)
        endpoint = tx.resources.find(ResourceKey(call.workspace, ENDPOINTS, key.parent))
        if endpoint is not None and (endpoint.properties.get("defaults") or {}).get("deploymentName") == key.name:
            raise Conflict(
                f"Deployment '{key.name}' is the default of endpoint '{key.parent}'. Name another default first.",
                code="DeploymentIsDefault",
                target=key.name,
            )
        return tx.resources.delete(key)

    return Answer(None, 200 if await call.services.store.write(write, actor=call.user.name) else 204)


def _deployment(resource: Resource) -> Manifest:
    return {**resource.properties, "provisioningState": "Succeeded"}


ROUTES = (
    Route("PUT", _ENDPOINT, _put_endpoint),
    Route("GET", _ENDPOINT, _get_endpoint),
    Route("GET", W + "/batchEndpoints", _list_endpoints),
    Route("DELETE", _ENDPOINT, _delete_endpoint),
    Route("POST", _ENDPOINT + "/jobs", _invoke),
    Route("GET", _DATA_PLANE + "/jobs", _jobs),
    Route("GET", _DATA_PLANE + "/deployments/{deployment}/jobs", _jobs),
    Route("PUT", _DEPLOYMENT, _put_deployment),
    Route("GET", _DEPLOYMENT, _get_deployment),
    Route("GET", W + "/batchEndpoints/{parent}/deployments", _list_deployments),
    Route("DELETE", _DEPLOYMENT, _delete_deployment),
)
