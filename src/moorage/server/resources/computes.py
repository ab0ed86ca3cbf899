"""Compute targets: registered clusters attached to a workspace under a name and a namespace."""

from __future__ import annotations

from datetime import timedelta

from moorage.clock import rfc3339
from moorage.errors import Conflict, Invalid, NotFound
from moorage.ids import parse_cluster_id
from moorage.server.arm import Answer, Call, Route, W, check_preconditions, envelope, found
from moorage.server.engine.computes import begin_detach, endpoints_of, finish_detach, running_jobs, settle_compute
from moorage.server.engine.objects import TOPIC
from moorage.server.operations import accepted
from moorage.server.paging import page_of, paged
from moorage.server.resources.clusters import cluster_named
from moorage.server.resources.placement import known_types
from moorage.specs.computes import check_compute_name, connectivity
from moorage.specs.endpoints import ProvisioningState
from moorage.specs.manifest import Manifest
from moorage.store import Cluster, Operation, Resource, ResourceKey, Transaction
from moorage.wire.computes import read_compute, read_identity, render_properties

TYPE = "computes"
# How long an attach waits for the agent to be heard; installing and starting it takes up to a minute.
_HEARD_WITHIN = timedelta(minutes=2)
_COLLECTION = W + "/computes"
_ONE = _COLLECTION + "/{name}"


async def _put(call: Call) -> Answer:
    check_compute_name(call.names["name"])
    properties = call.properties()
    wanted = read_compute(properties)
    body: Manifest = {key: call.body[key] for key in ("location", "tags", "sku") if key in call.body}
    if (identity := read_identity(call.body.get("identity"))) is not None:
        body["identity"] = identity
    parse_cluster_id(wanted.resource_id)
    body["properties"] = {
        **properties,
        "computeType": "Kubernetes",
        "properties": {**(properties.get("properties") or {}), "namespace": wanted.namespace},
    }
    silence = call.services.settings.agent_timeout

    def write(tx: Transaction) -> tuple[Resource, Cluster, Operation, bool]:
        try:
            cluster = cluster_named(tx, wanted.resource_id)
        except NotFound as error:
            raise Invalid(f"properties.resourceId: {error.message}", code=error.code, target="properties.resourceId") from error
        key = call.key(TYPE)
        current = tx.resources.find(key)
        check_preconditions(call, current)
        if current is not None:
            _check_same_place(current, cluster, wanted.namespace)
        compute = _attach(tx, key, current, body, cluster)
        operation = tx.operations.start(call.workspace, compute.id, "create")
        if compute.state["provisioningState"] == ProvisioningState.SUCCEEDED:
            tx.operations.succeed(compute.id)
        settle_compute(tx, compute, silence)
        tx.touch(TOPIC)
        return tx.resources.get(key), cluster, operation, current is None

    compute, cluster, operation, created = await call.services.store.write(write, actor=call.user.name)
    return accepted(call, operation, _render(call, compute, cluster), created=created)


def _attach(tx: Transaction, key: ResourceKey, current: Resource | None, body: Manifest, cluster: Cluster) -> Resource:
    """Store what is wanted. A compute that works goes on working while its tags change; any other waits for its cluster."""
    waiting: Manifest = {"provisioningState": ProvisioningState.CREATING.value, "error": None, "deadline": rfc3339(tx.now + _HEARD_WITHIN)}
    if current is None:
        return tx.resources.create(key, body, state=waiting, lookup=cluster.id)
    tx.operations.cancel(current.id)
    works = current.state.get("provisioningState") == ProvisioningState.SUCCEEDED
    return tx.resources.update(current, body=body, state=current.state if works else {**current.state, **waiting})


def _check_same_place(current: Resource, cluster: Cluster, namespace: str) -> None:
    if current.state.get("detaching"):
        raise Conflict(f"Compute '{current.name}' is being detached. Wait for that, then attach it again.", code="ComputeDetaching")
    before = read_compute(current.properties)
    if current.lookup != cluster.id or before.namespace != namespace:
        raise Conflict(
            f"Compute '{current.name}' is attached already, to cluster '{before.resource_id.rpartition('/')[2]}' and namespace '{before.namespace}'. "
            "Neither can change: detach it first, or choose another name.",
            code="ComputeExists",
        )


async def _get(call: Call) -> Answer:
    def read(tx: Transaction) -> tuple[Resource, Cluster]:
        compute = tx.resources.get(call.key(TYPE))
        return compute, tx.clusters.get(compute.lookup)

    compute, cluster = await call.services.store.read(read)
    return found(compute, _properties(call, compute, cluster), location=call.services.settings.location)


async def _list(call: Call) -> Answer:
    page = page_of(call)

    def read(tx: Transaction) -> tuple[list[Resource], dict[str, Cluster]]:
        resources = tx.resources.list(call.workspace, TYPE, after=page.after, limit=page.limit + 1, newest_first=page.newest_first)
        return list(resources), {each.id: each for each in tx.clusters.list()}

    resources, clusters = await call.services.store.read(read)
    return paged(call, page, resources, lambda each: _render(call, each, clusters[each.lookup]))


async def _detach(call: Call) -> Answer:
    action = call.query.get("underlyingresourceaction", "Detach")
    if action.lower() != "detach":
        raise Invalid(
            "underlyingResourceAction: an attached cluster is not ours to delete. Use Detach; the cluster itself stays.",
            target="underlyingResourceAction",
        )
    force = call.query.get("force", "false").lower() == "true"
    silence = call.services.settings.agent_timeout

    def write(tx: Transaction) -> Operation | None:
        compute = tx.resources.find(call.key(TYPE))
        if compute is None:
            return None
        if not compute.state.get("detaching") and not force:
            _check_idle(tx, compute)
        if not compute.state.get("detaching") or (force and not compute.state.get("force")):
            compute = begin_detach(tx, compute, force=force)
        operation = tx.operations.start(call.workspace, compute.id, "detach")
        finish_detach(tx, compute, silence)
        tx.touch(TOPIC)
        return tx.operations.get(operation.id)

    operation = await call.services.store.write(write, actor=call.user.name)
    return Answer(None, 204) if operation is None else accepted(call, operation)


def _check_idle(tx: Transaction, compute: Resource) -> None:
    jobs, endpoints = running_jobs(tx, compute), endpoints_of(tx, compute)
    busy = [f"jobs that have not ended: {', '.join(jobs[:10])}"] if jobs else []
    busy += [f"online endpoints: {', '.join(endpoints[:10])}"] if endpoints else []
    if busy:
        raise Conflict(
            f"Compute '{compute.name}' is in use by {'; '.join(busy)}. Cancel or delete them first, or detach by force, which ends them (compute detach --force; force=true).",
            code="ComputeInUse",
            target=compute.id,
        )


async def _nodes(call: Call) -> Answer:
    def read(tx: Transaction) -> Cluster:
        return tx.clusters.get(tx.resources.get(call.key(TYPE)).lookup)

    cluster = await call.services.store.read(read)
    nodes = [
        {
            "nodeId": node["name"],
            "nodeState": "idle" if node.get("ready") else "unusable",
            "privateIpAddress": None,
            "publicIpAddress": None,
            "port": None,
            "runId": None,
            "schedulable": node.get("schedulable", True),
            "labels": node.get("labels") or {},
            "allocatable": node.get("allocatable") or {},
        }
        for node in cluster.inventory.get("nodes") or []
    ]
    return Answer({"nodes": nodes, "nextLink": None})


def _render(call: Call, compute: Resource, cluster: Cluster) -> Manifest:
    return envelope(compute, _properties(call, compute, cluster), location=call.services.settings.location)


def _properties(call: Call, compute: Resource, cluster: Cluster) -> Manifest:
    error = compute.state.get("error")
    status = connectivity(cluster.last_seen, call.services.now(), call.services.settings.agent_timeout)
    facts = {key: cluster.inventory.get(key) for key in ("kubernetesVersion", "distribution", "agentVersion")}
    return {
        "computeLocation": call.services.settings.location,
        **compute.properties,
        "isAttachedCompute": True,
        "provisioningState": compute.state.get("provisioningState"),
        "provisioningErrors": [{"error": {**error, "details": []}}] if error else None,
        "createdOn": rfc3339(compute.created_at),
        "modifiedOn": rfc3339(compute.modified_at),
        "properties": render_properties(
            compute.properties.get("properties") or {},
            known_types(cluster),
            connectivity=status.value,
            last_heard=cluster.last_seen,
            cluster={key: value for key, value in facts.items() if value},
        ),
    }


ROUTES = (
    Route("PUT", _ONE, _put),
    Route("GET", _ONE, _get),
    Route("GET", _COLLECTION, _list),
    Route("DELETE", _ONE, _detach),
    Route("POST", _ONE + "/listNodes", _nodes),
)
