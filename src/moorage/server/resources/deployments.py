"""Online deployments: a model with its scoring code behind an endpoint. Creating one lasts until its cluster says that it serves, or why not."""

from __future__ import annotations

from datetime import timedelta

from moorage.clock import rfc3339
from moorage.errors import Conflict, Invalid, NotFound
from moorage.server.arm import Answer, Call, Route, W, check_preconditions, envelope, found
from moorage.server.asks import ask
from moorage.server.engine.objects import name_of
from moorage.server.engine.serving import DEPLOYMENTS, ENDPOINTS, begin_deletion, finish_deletion
from moorage.server.images import builds
from moorage.server.images.release import start_deployment
from moorage.server.operations import accepted
from moorage.server.paging import page_of, paged
from moorage.server.resources.placement import Place, find_place
from moorage.server.resources.references import Resolver
from moorage.specs.computes import Connectivity, choose_instance_type, connectivity
from moorage.specs.durations import parse_duration
from moorage.specs.endpoints import ProvisioningState, check_deployment_name, check_no_traffic
from moorage.specs.instance_type import narrow
from moorage.specs.manifest import Manifest
from moorage.specs.uris import join
from moorage.store import Blob, Cluster, DesiredObject, Operation, Resource, ResourceKey, Transaction
from moorage.wire.access import keeping_access
from moorage.wire.assets import DeploymentAssets
from moorage.wire.bodies import read
from moorage.wire.deployments import DeploymentProperties, Sku, answered, read_deployment, resources
from moorage.wire.gateway import Ask, ObjectKey
from moorage.wire.manifests import PROVISIONED_WITHIN_SECONDS, online_deployment

# The cluster itself gives up at the limit, and says why; this is for when it does not.
_MARGIN = timedelta(minutes=1)
_LOGS_WITHIN = timedelta(seconds=20)
_MOST_LINES = 10_000
_COLLECTION = W + "/onlineEndpoints/{parent}/deployments"
_ONE = _COLLECTION + "/{name}"


async def _put(call: Call) -> Answer:
    check_deployment_name(call.names["name"])
    raw = call.properties()
    wanted = read_deployment(raw)
    sku = read(Sku, call.body.get("sku") or {}, target="sku")
    body: Manifest = {key: call.body[key] for key in ("location", "tags", "identity", "kind") if call.body.get(key) is not None}
    body |= {"sku": {**(call.body.get("sku") or {}), "name": sku.name, "capacity": sku.capacity}, "properties": answered(raw)}

    def write(tx: Transaction) -> tuple[Resource, Operation, bool]:
        key = call.key(DEPLOYMENTS)
        endpoint = tx.resources.get(ResourceKey(call.workspace, ENDPOINTS, key.parent))
        current = tx.resources.find(key)
        check_preconditions(call, current)
        _check_changeable(tx, endpoint, current, key)
        place = find_place(tx, call.workspace, str(endpoint.properties.get("compute")), target="properties.compute")
        sized = _sized(place, wanted)
        assets = resolve(tx, key, wanted)
        manifest = online_deployment(place.placement, key.parent, key.name, sized, assets, replicas=sku.capacity)
        former = tx.desired.find(place.cluster.id, name_of(manifest))
        served = current is not None and current.state.get("provisioningState") == ProvisioningState.SUCCEEDED
        manifest = keeping_access(manifest, former.object if former else None, served=served)
        if current is None:
            state: Manifest = {"provisioningState": ProvisioningState.CREATING.value}
            stored = tx.resources.create(key, body, state=state)
        else:
            stored = tx.resources.update(current, body=body)
        operation = start_deployment(tx, stored, place, manifest, assets.environment, within=_within(wanted))
        stored = tx.resources.get(key)
        builds.require_builder(call.services.settings, stored, target="properties.environmentId")
        return stored, operation, current is None

    stored, operation, created = await call.services.store.write(write, actor=call.user.name)
    return accepted(call, operation, _render(call, stored), created=created)


def _check_changeable(tx: Transaction, endpoint: Resource, current: Resource | None, key: ResourceKey) -> None:
    if endpoint.state.get("deleting"):
        raise Conflict(f"Endpoint '{endpoint.name}' is being deleted.", code="EndpointDeleting")
    if current is not None and current.state.get("deleting"):
        raise Conflict(f"Deployment '{current.name}' is being deleted. Wait for that, then create it again.", code="DeploymentDeleting")
    for name in tx.resources.names(key.workspace, DEPLOYMENTS, parent=key.parent):
        if name != key.name and name.lower() == key.name.lower():
            raise Conflict(
                f"The endpoint has a deployment '{name}'; names that differ only in case would share its traffic.",
                code="DeploymentNameTaken",
            )


def _sized(place: Place, wanted: DeploymentProperties) -> DeploymentProperties:
    """The deployment with its instance type named; Invalid when its own resources exceed that."""
    inner = place.compute.properties.get("properties") or {}
    chosen = choose_instance_type(wanted.instance_type or inner.get("defaultInstanceType"), place.types, target="properties.instanceType")
    narrow(chosen, resources(wanted.container_resource_requirements))
    return wanted.model_copy(update={"instance_type": chosen.name})


def resolve(tx: Transaction, key: ResourceKey, wanted: DeploymentProperties) -> DeploymentAssets:
    """What the deployment's references stand for; Invalid names the field whose reference is wrong."""
    resolver = Resolver(tx, key.workspace)
    code = wanted.code_configuration
    if code is None:
        raise Invalid(
            "properties.codeConfiguration is required: give the code folder and the scoring script. "
            "Deployments without code (MLflow and Triton models) are not available yet.",
            target="properties.codeConfiguration",
        )
    folder = resolver.code(code.code_id, target="properties.codeConfiguration.codeId")
    script = join(folder, code.scoring_script)
    container, _, path = script.partition("/")
    if tx.blobs.find(container, path) is None:
        raise Invalid(
            f"properties.codeConfiguration.scoringScript: the code has no file '{code.scoring_script}'. Give its path below the code folder.",
            target="properties.codeConfiguration.scoringScript",
        )
    return DeploymentAssets(
        environment=resolver.environment(wanted.environment_id, target="properties.environmentId"),
        code=folder,
        model=resolver.model(wanted.model, target="properties.model") if wanted.model else None,
    )


def _within(wanted: DeploymentProperties) -> timedelta:
    """How long it may take from the moment when the cluster is told until it serves."""
    limit = wanted.provisioning_timeout
    span = parse_duration(limit, target="properties.provisioningTimeout") if limit else timedelta(seconds=PROVISIONED_WITHIN_SECONDS)
    return span + _MARGIN


async def _get(call: Call) -> Answer:
    deployment = await call.services.store.read(lambda tx: tx.resources.get(call.key(DEPLOYMENTS)))
    return found(deployment, _properties(call, deployment), location=call.services.settings.location)


async def _list(call: Call) -> Answer:
    page = page_of(call)
    parent = call.names["parent"]

    def read_page(tx: Transaction) -> list[Resource]:
        tx.resources.get(ResourceKey(call.workspace, ENDPOINTS, parent))
        return list(
            tx.resources.list(
                call.workspace, DEPLOYMENTS, parent=parent, after=page.after, limit=page.limit + 1, newest_first=page.newest_first
            )
        )

    return paged(call, page, await call.services.store.read(read_page), lambda each: _render(call, each))


async def _delete(call: Call) -> Answer:
    def write(tx: Transaction) -> Operation | None:
        key = call.key(DEPLOYMENTS)
        deployment = tx.resources.find(key)
        if deployment is None:
            return None
        endpoint = tx.resources.get(ResourceKey(call.workspace, ENDPOINTS, key.parent))
        check_no_traffic(deployment.name, endpoint.properties.get("traffic") or {}, endpoint.properties.get("mirrorTraffic") or {})
        if not deployment.state.get("deleting"):
            deployment = begin_deletion(tx, deployment)
        operation = tx.operations.start(call.workspace, deployment.id, "delete")
        finish_deletion(tx, deployment)
        return operation

    operation = await call.services.store.write(write, actor=call.user.name)
    return Answer(None, 204) if operation is None else accepted(call, operation)


async def _logs(call: Call) -> Answer:
    tail = call.body.get("tail", 100)
    if not isinstance(tail, int) or isinstance(tail, bool) or not 0 < tail <= _MOST_LINES:
        raise Invalid(f"tail must be a number of lines between 1 and {_MOST_LINES}.", target="tail")
    kind = call.body.get("containerType") or "InferenceServer"
    if kind not in ("InferenceServer", "StorageInitializer"):
        raise Invalid(f"containerType '{kind}' is none of InferenceServer, StorageInitializer.", target="containerType")

    def read_place(tx: Transaction) -> tuple[DesiredObject, Cluster, list[str]]:
        deployment = tx.resources.get(call.key(DEPLOYMENTS))
        held = [each for each in tx.desired.of_owner(deployment.key) if each.object is not None]
        if not held:
            raise NotFound(f"Deployment '{deployment.name}' is not on any cluster, so it has no log.", code="DeploymentNotPlaced")
        return held[0], tx.clusters.get(held[0].cluster), (deployment.state.get("seen") or {}).get("notices") or []

    if (building := await call.services.store.read(lambda tx: _build_log(tx, tx.resources.get(call.key(DEPLOYMENTS))))) is not None:
        text = b"".join([piece async for piece in call.services.blobs.stream(building)]).decode("utf-8", "replace")
        return Answer({"content": "".join(text.splitlines(keepends=True)[-tail:])})
    object, cluster, notices = await call.services.store.read(read_place)
    status = connectivity(cluster.last_seen, call.services.now(), call.services.settings.agent_timeout)
    if status is not Connectivity.CONNECTED:
        heard = f"last heard {rfc3339(cluster.last_seen)}" if cluster.last_seen else "never heard"
        raise Invalid(
            f"Cluster '{cluster.arm_id.rpartition('/')[2]}' is away ({heard}), so its logs cannot be read now.", code="ClusterOffline"
        )
    key = ObjectKey(kind=object.name.kind, namespace=object.name.namespace, name=object.name.name)
    question = Ask.model_validate({"id": "", "type": "deploymentLogs", "key": key, "container": kind, "tail": tail})
    content = await ask(call.services, call.workspace, cluster.id, question, timeout=_LOGS_WITHIN)
    return Answer({"content": "".join(f"Warning: {notice}\n" for notice in notices) + content})


def _build_log(tx: Transaction, deployment: Resource) -> Blob | None:
    """The log of the image that a deployment waits for which is on no cluster yet, and so has no other."""
    build = builds.build_behind(tx, deployment)
    if build is None or any(each.object is not None for each in tx.desired.of_owner(deployment.key)):
        return None
    container, _, name = build.log.partition("/")
    return tx.blobs.find(container, name) if name else None


def _render(call: Call, deployment: Resource) -> Manifest:
    return envelope(deployment, _properties(call, deployment), location=call.services.settings.location)


def _properties(call: Call, deployment: Resource) -> Manifest:
    seen = deployment.state.get("seen") or {}
    if why := builds.why(deployment, call.services.settings):
        seen = {**seen, "message": why}
    return {
        **deployment.properties,
        "provisioningState": deployment.state.get("provisioningState"),
        "moorage": {"error": deployment.state.get("error"), **seen},
    }


ROUTES = (
    Route("PUT", _ONE, _put),
    Route("GET", _ONE, _get),
    Route("GET", _COLLECTION, _list),
    Route("DELETE", _ONE, _delete),
    Route("POST", _ONE + "/getLogs", _logs),
)
