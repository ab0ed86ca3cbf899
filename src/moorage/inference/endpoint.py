"""OnlineEndpoint -> status only: which deployments it has, and whether a request would find one. The router reads the rest itself.

`observedGeneration` says that router and operator both have seen a generation: whoever waits for it meets the traffic and the keys he asked for.
"""

from __future__ import annotations

from datetime import timedelta

from moorage.kube.reconcile import Observed, Plan
from moorage.specs.condition import Condition, find, merge, moment
from moorage.specs.manifest import Manifest

# A router that is away for longer holds nobody up: its endpoint is as wanted, and in force once the router is back.
ROUTED_WITHIN = timedelta(seconds=30)


def reconcile(seen: Observed) -> Plan:
    """The status of one OnlineEndpoint."""
    if seen.parent["metadata"].get("deletionTimestamp"):
        return Plan(status=None)
    spec, metadata = seen.parent["spec"], seen.parent["metadata"]
    earlier: Manifest = seen.parent.get("status") or {}
    deployments = {found["spec"]["deployment"]: found for found in seen.related.get("OnlineDeployment", ()) if belongs(seen.parent, found)}
    condition = _ready(spec.get("traffic") or {}, deployments)
    generation = metadata.get("generation", 1)
    routed = int(earlier.get("routedGeneration") or 0)
    conditions = merge(earlier.get("conditions") or (), [condition, _routed(routed >= generation)], now=seen.now, generation=generation)
    since = moment((find(conditions, "Routed") or {})["lastTransitionTime"])
    left = timedelta(0) if routed >= generation else since + ROUTED_WITHIN - seen.now
    waiting = left > timedelta(0)
    status: Manifest = {
        "observedGeneration": int(earlier.get("observedGeneration") or 0) if waiting else generation,
        "deployments": sorted(deployments),
        "message": condition.message,
        "conditions": conditions,
    }
    if routed:
        # The router's own; what a plan leaves out is removed.
        status["routedGeneration"] = routed
    return Plan(status=status, requeue_after=left if waiting else None)


def _routed(done: bool) -> Condition:
    if done:
        return Condition("Routed", "True", "InForce", "The router serves it as it is wanted.")
    return Condition("Routed", "False", "Pending", "The router has not taken it in yet.")


def belongs(endpoint: Manifest, deployment: Manifest) -> bool:
    """Whether the deployment is one of the endpoint's."""
    keys = ("endpoint", "workspace", "resourceGroup", "compute")
    same = all(endpoint["spec"].get(key) == deployment["spec"].get(key) for key in keys)
    return same and endpoint["metadata"].get("namespace") == deployment["metadata"].get("namespace")


def _ready(traffic: Manifest, deployments: dict[str, Manifest]) -> Condition:
    shares = {name: share for name, share in sorted(traffic.items()) if share > 0}
    if not shares:
        return Condition(
            "Ready", "False", "NoTraffic", "No deployment gets traffic; a request can still name one in azureml-model-deployment."
        )
    if absent := [name for name in shares if name not in deployments]:
        return Condition("Ready", "False", "DeploymentMissing", f"Traffic goes to deployments that do not exist: {', '.join(absent)}.")
    unready = [name for name in shares if not (deployments[name].get("status") or {}).get("readyReplicas")]
    if len(unready) == len(shares):
        return Condition("Ready", "False", "NoReplicaReady", f"No replica is ready of: {', '.join(unready)}.")
    if unready:
        return Condition("Ready", "True", "PartlyReady", f"No replica is ready of: {', '.join(unready)}.")
    return Condition("Ready", "True", "Ready", "Every deployment with traffic has a ready replica.")
