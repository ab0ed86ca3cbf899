"""Endpoints and deployments in line with what clusters report: their provisioning state and the operations that wait for it."""

from __future__ import annotations

from collections.abc import Sequence

from moorage.errors import MoorageError
from moorage.server.engine.objects import forget_gone, is_news, lingering, unwant
from moorage.specs.endpoints import ProvisioningState
from moorage.specs.manifest import Manifest
from moorage.store import DesiredObject, Resource, ResourceKey, Transaction
from moorage.wire.gateway import NOT_APPLIED

ENDPOINTS = "onlineEndpoints"
DEPLOYMENTS = "onlineEndpoints/deployments"
# Kubernetes' words for a field that a definition does not have (structured-merge-diff, typed).
_UNDECLARED = "field not declared in schema"
_OLDER = (
    "The extension in the cluster is older than this service. Bring it up to date there (moorage extension create with its settings, or moorage up); "
    "what was asked for is then carried out."
)


def settle_endpoint(tx: Transaction, object: DesiredObject) -> None:
    """An endpoint is provisioned once its operator has seen it, who waits for the router (`inference.endpoint`)."""
    endpoint = tx.resources.find(object.owner.key)
    if endpoint is None:
        return
    if endpoint.state.get("deleting"):
        finish_deletion(tx, endpoint)
        return
    report = tx.reports.status(object.cluster, object.name)
    # A status without the generation that was seen is from before anybody has seen the endpoint.
    if report is not None and "observedGeneration" in report.status and is_news(report, endpoint.state.get("sent") or {}):
        conclude(tx, endpoint, ProvisioningState.SUCCEEDED)
    elif report is None and (refusal := _refusal(tx, object)):
        conclude(tx, endpoint, ProvisioningState.FAILED, MoorageError(refusal, code=NOT_APPLIED))


def _refusal(tx: Transaction, object: DesiredObject) -> str:
    """Why the cluster would not take the object, in the agent's words; empty when it said nothing of the kind since it was sent."""
    said = last_words(tx, object, NOT_APPLIED)
    return f"{said} {_OLDER}" if _UNDECLARED in said else said


def last_words(tx: Transaction, object: DesiredObject, reason: str) -> str:
    """What the cluster last said of the object for this reason; empty when nothing."""
    return next((each.message for each in reversed(tx.reports.events(object.cluster, object.name)) if each.reason == reason), "")


def settle_deployment(tx: Transaction, object: DesiredObject) -> None:
    """A deployment is provisioned when its OnlineDeployment says so; a failure carries its message, traceback included."""
    deployment = tx.resources.find(object.owner.key)
    if deployment is None:
        return
    if deployment.state.get("deleting"):
        finish_deletion(tx, deployment)
        return
    if "imageBuild" in deployment.state or deployment.state.get("unsent"):
        # What was last asked for has no image (yet), and so was not sent: reports are of what ran before it (images.release).
        return
    report = tx.reports.status(object.cluster, object.name)
    if report is None or not is_news(report, deployment.state.get("sent") or {}):
        return
    status = report.status
    match status.get("phase"):
        case "Succeeded":
            conclude(tx, deployment, ProvisioningState.SUCCEEDED, seen=status)
        case "Failed":
            message = str(status.get("message") or "The deployment failed. Read its log: moorage online-deployment get-logs.")
            conclude(
                tx,
                deployment,
                ProvisioningState.FAILED,
                MoorageError(message, code=str(status.get("reason") or "DeploymentFailed")),
                seen=status,
            )
        case _:
            note(tx, deployment, status)


def note(tx: Transaction, resource: Resource, status: Manifest) -> None:
    """Keep what the cluster last said, for whoever looks while it lasts."""
    tx.resources.update(resource, state={**resource.state, "seen": _seen(status)})


def conclude(
    tx: Transaction, resource: Resource, state: ProvisioningState, error: MoorageError | None = None, *, seen: Manifest | None = None
) -> None:
    """End the provisioning of a resource, well or badly, with every operation that waits for it."""
    failure = {"code": error.code, "message": error.message} if error else None
    kept = {key: value for key, value in resource.state.items() if key not in ("deadline", "imageBuild")}
    news = {"provisioningState": state.value, "error": failure}
    if seen is not None:
        news["seen"] = _seen(seen)
    tx.resources.update(resource, state={**kept, **news})
    if error is None:
        tx.operations.succeed(resource.id)
    else:
        tx.operations.fail(resource.id, error.code, error.message)


def _seen(status: Manifest) -> Manifest:
    return {key: status[key] for key in ("phase", "reason", "message", "replicas", "readyReplicas", "notices") if key in status}


def begin_deletion(tx: Transaction, resource: Resource) -> Resource:
    """Mark a resource, and all below it, as going and want nothing for it any more; its operation ends when its objects are gone."""
    for each in _below(tx, resource):
        begin_deletion(tx, each)
    marked = tx.resources.update(
        resource, state={**resource.state, "deleting": True, "provisioningState": ProvisioningState.DELETING.value, "deadline": None}
    )
    tx.operations.cancel(resource.id)
    unwant(tx, resource.key)
    return marked


def finish_deletion(tx: Transaction, resource: Resource) -> bool:
    """Remove a resource that is going, and all below it, once its cluster holds nothing of them; whether that is so."""
    family = [*_below(tx, resource), resource]
    if any(lingering(tx, each.key) for each in family):
        return False
    for each in family:
        forget_gone(tx, tx.desired.of_owner(each.key))
        tx.secrets.delete(each.id)
        tx.resources.delete(each.key)
        tx.operations.succeed(each.id)
    if resource.key.type == DEPLOYMENTS:
        endpoint = tx.resources.find(ResourceKey(resource.key.workspace, ENDPOINTS, resource.key.parent))
        if endpoint is not None and endpoint.state.get("deleting"):
            finish_deletion(tx, endpoint)
    return True


def _below(tx: Transaction, resource: Resource) -> Sequence[Resource]:
    return tx.resources.list(resource.key.workspace, DEPLOYMENTS, parent=resource.name) if resource.key.type == ENDPOINTS else ()
