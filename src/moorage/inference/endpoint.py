"""OnlineEndpoint -> status only: which deployments it has, and whether a request would find one. The router reads the rest itself."""

from __future__ import annotations

from moorage.kube.reconcile import Observed, Plan
from moorage.specs.condition import Condition, merge
from moorage.specs.manifest import Manifest


def reconcile(seen: Observed) -> Plan:
    """The status of one OnlineEndpoint."""
    if seen.parent["metadata"].get("deletionTimestamp"):
        return Plan(status=None)
    spec, metadata = seen.parent["spec"], seen.parent["metadata"]
    earlier: Manifest = seen.parent.get("status") or {}
    deployments = {found["spec"]["deployment"]: found for found in seen.related.get("OnlineDeployment", ()) if belongs(seen.parent, found)}
    condition = _ready(spec.get("traffic") or {}, deployments)
    generation = metadata.get("generation", 1)
    status: Manifest = {
        "observedGeneration": generation,
        "deployments": sorted(deployments),
        "message": condition.message,
        "conditions": merge(earlier.get("conditions") or (), [condition], now=seen.now, generation=generation),
    }
    return Plan(status=status)


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
