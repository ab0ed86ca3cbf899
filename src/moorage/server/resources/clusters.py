"""Registered clusters, `Microsoft.Kubernetes/connectedClusters`: made when the extension is installed, heard through the gateway."""

from __future__ import annotations

from uuid import uuid4

from moorage.clock import rfc3339_micro
from moorage.errors import Conflict, Invalid, NotFound
from moorage.identity.roles import Action
from moorage.identity.tokens import digest, new_secret
from moorage.ids import ClusterId, is_dns_label, parse_cluster_id
from moorage.server.arm import Answer, Call, G, Route, S
from moorage.specs.computes import connectivity, known_instance_types
from moorage.specs.manifest import Manifest
from moorage.store import Cluster, Transaction

_TYPE = "Microsoft.Kubernetes/connectedClusters"
_ALL = f"/providers/{_TYPE}"
_ONE = f"{G}{_ALL}/{{name}}"


def cluster_named(tx: Transaction, arm_id: str) -> Cluster:
    """The registration of a cluster's resource id; NotFound with the remedy."""
    found = tx.clusters.find(arm_id)
    if found is None:
        name = arm_id.rpartition("/")[2]
        known = ", ".join(sorted(each.arm_id.rpartition("/")[2] for each in tx.clusters.list())) or "none yet"
        raise NotFound(
            f"Cluster '{name}' is not registered with this service (registered: {known}). "
            "Install the extension into it first (moorage extension create), or correct the resource id.",
            code="ClusterNotFound",
            target=arm_id,
        )
    return found


async def _put(call: Call) -> Answer:
    name = call.names["name"]
    if not is_dns_label(name.lower()):
        raise Invalid(f"'{name}' is not a cluster name. Use up to 63 letters, digits and '-'.", target="name")
    arm_id = _arm_id(call)
    if not isinstance(call.body.get("properties") or {}, dict):
        raise Invalid("properties must be an object.", target="properties")
    body: Manifest = {key: call.body[key] for key in ("location", "tags", "identity", "properties") if key in call.body}

    def write(tx: Transaction) -> tuple[Cluster, bool]:
        known = tx.clusters.find(arm_id)
        return tx.clusters.put(str(uuid4()), arm_id, body), known is None

    cluster, created = await call.services.store.write(write, actor=call.user.name)
    return Answer(_render(call, cluster), 201 if created else 200)


async def _get(call: Call) -> Answer:
    cluster = await call.services.store.read(lambda tx: cluster_named(tx, _arm_id(call)))
    return Answer(_render(call, cluster))


async def _list(call: Call) -> Answer:
    scope = f"/subscriptions/{call.names['subscription']}/"
    if "group" in call.names:
        scope += f"resourceGroups/{call.names['group']}/"
    clusters = await call.services.store.read(lambda tx: tx.clusters.list())
    return Answer({"value": [_render(call, each) for each in clusters if each.arm_id.lower().startswith(scope.lower())], "nextLink": None})


async def _delete(call: Call) -> Answer:
    def write(tx: Transaction) -> bool:
        cluster = tx.clusters.find(_arm_id(call))
        if cluster is None:
            return False
        computes = tx.resources.all_with("computes", cluster.id)
        if computes:
            names = ", ".join(f"{each.name} (workspace {each.key.workspace.name})" for each in computes)
            raise Conflict(
                f"Cluster '{call.names['name']}' is still attached as compute {names}. Detach it there first.", code="ClusterInUse"
            )
        return tx.clusters.delete(cluster.id)

    deleted = await call.services.store.write(write, actor=call.user.name)
    return Answer(None, 200 if deleted else 204)


async def _issue_token(call: Call) -> Answer:
    token = new_secret()

    def write(tx: Transaction) -> str:
        cluster = cluster_named(tx, _arm_id(call))
        tx.clusters.set_token_digest(cluster.id, digest(token))
        return cluster.id

    registration = await call.services.store.write(write, actor=call.user.name)
    return Answer({"registration": registration, "token": token}, 200, {"Cache-Control": "no-store"})


def _arm_id(call: Call) -> str:
    return str(ClusterId(call.names["subscription"], call.names["group"], call.names["name"]))


def _render(call: Call, cluster: Cluster) -> Manifest:
    inventory = cluster.inventory
    id = parse_cluster_id(cluster.arm_id)
    given = cluster.body.get("properties") or {}
    return {
        "location": call.services.settings.location,
        **cluster.body,
        "id": cluster.arm_id,
        "name": id.name,
        "type": _TYPE,
        "properties": {
            **given,
            "registration": cluster.id,
            "connectivityStatus": connectivity(cluster.last_seen, call.services.now(), call.services.settings.agent_timeout).value,
            "lastConnectivityTime": rfc3339_micro(cluster.last_seen) if cluster.last_seen else None,
            "kubernetesVersion": inventory.get("kubernetesVersion"),
            "distribution": inventory.get("distribution"),
            "agentVersion": inventory.get("agentVersion"),
            "nodes": inventory.get("nodes") or [],
            "totalNodeCount": len(inventory.get("nodes") or []),
            "instanceTypes": sorted(known_instance_types(inventory.get("instanceTypes") or [])),
            "routerUrl": inventory.get("routerUrl") or None,
            "extensions": inventory.get("extensions") or [],
            "provisioningState": "Succeeded",
        },
        "systemData": {"createdAt": rfc3339_micro(cluster.created_at)},
    }


ROUTES = (
    Route("PUT", _ONE, _put, action=Action.MANAGE),
    Route("GET", _ONE, _get),
    Route("DELETE", _ONE, _delete, action=Action.MANAGE),
    Route("GET", G + _ALL, _list),
    Route("GET", S + _ALL, _list),
    Route("POST", _ONE + "/issueAgentToken", _issue_token, action=Action.MANAGE),
)
