"""The `eviction` subresource: a pod is deleted as far as its PodDisruptionBudget allows it (pkg/registry/core/pod/storage/eviction.go)."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

from moorage.clock import rfc3339
from moorage.embedded import deletion, fieldcheck
from moorage.embedded.disruptions import SYNC_FAILED, budgets_for, condition, condition_of
from moorage.embedded.registry import Registry, Target, Writer, not_found
from moorage.errors import Conflict, Forbidden, Invalid, MoorageError, Throttled
from moorage.kube.kinds import DISRUPTION_BUDGET, POD
from moorage.kube.metadata import is_deleting, name_of
from moorage.specs.manifest import Manifest

_CAUSE = "DisruptionBudget"
_NO = "Cannot evict pod as it would violate the pod's disruption budget."
_TOO_MANY = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support."
# Evictions that the controller has not yet seen; beyond it is down (MaxDisruptedPodSize).
_MOST_PENDING = 2000


async def evict(registry: Registry, namespace: str, name: str, body: Manifest, writer: Writer) -> None:
    """Evict a pod as an Eviction asks for.

    Raises:
        Throttled: its budget does not allow it now; try again.
        Conflict: it is not the pod that the preconditions name.
        MoorageError: several budgets speak of it (500).
    """
    fieldcheck.check("policy", "Eviction", body)
    asked = (body.get("metadata") or {}).get("name")
    if asked and asked != name:
        raise Invalid("name in URL does not match name in Eviction object", code="BadRequest")
    target = Target(registry.catalog.of(POD), namespace, name)
    found = registry.store.latest(target.key)
    if found is None:
        raise not_found(target)
    pod = found.manifest()
    given: Manifest = body.get("deleteOptions") or {}
    options = deletion.read_options(given)
    writer = replace(writer, dry_run=writer.dry_run or given.get("dryRun") == ["All"])
    if (pod.get("status") or {}).get("phase") not in ("Succeeded", "Failed", "Pending") and not is_deleting(pod):
        await _spend(registry, pod, writer)
    await _mark(registry, target, options, writer)
    await deletion.delete(registry, target, options, writer)


async def _spend(registry: Registry, pod: Manifest, writer: Writer) -> None:
    """Take one disruption out of the pod's budget, if it has one and needs it."""
    resource = registry.catalog.of(DISRUPTION_BUDGET)
    listed = (entry.manifest() for entry in registry.store.latest_all(resource.storage))
    budgets = budgets_for(pod, listed)
    if len(budgets) > 1:
        raise MoorageError(_TOO_MANY)
    if not budgets:
        return
    (budget,) = budgets
    status = budget.get("status") or {}
    if not _is_ready(pod):
        healthy, desired = status.get("currentHealthy", 0), status.get("desiredHealthy", 0)
        if budget["spec"].get("unhealthyPodEvictionPolicy") == "AlwaysAllow" or healthy >= desired > 0:
            return
    _check(budget)
    left = status["disruptionsAllowed"] - 1
    pending = {**(status.get("disruptedPods") or {}), name_of(pod): rfc3339(registry.clock())}
    after = {**status, "disruptionsAllowed": left, "disruptedPods": pending}
    if not left:
        after["conditions"] = [condition(budget, left, status.get("observedGeneration", 0), registry.clock())]
    target = Target(resource, budget["metadata"]["namespace"], name_of(budget), "status")
    await registry.replace(target, {**budget, "status": after}, writer)


def _is_ready(pod: Manifest) -> bool:
    conditions = (pod.get("status") or {}).get("conditions") or ()
    return any(one.get("type") == "Ready" and one.get("status") == "True" for one in conditions)


def _check(budget: Manifest) -> None:
    status, name = budget.get("status") or {}, name_of(budget)
    if status.get("observedGeneration", 0) < budget["metadata"].get("generation", 1):
        raise _refused(f"The disruption budget {name} is still being processed by the server.", wait=timedelta(seconds=10))
    allowed = status.get("disruptionsAllowed", 0)
    if len(status.get("disruptedPods") or {}) > _MOST_PENDING:
        words = "DisruptedPods map too big - too many evictions not confirmed by PDB controller"
        raise Forbidden(f'poddisruptionbudget.policy "{name}" is forbidden: {words}', target=name)
    if allowed > 0:
        return
    seen = condition_of(budget)
    if seen.get("status") == "False" and seen.get("message") and seen.get("reason") == SYNC_FAILED:
        raise _refused(f"The disruption budget {name} does not allow evicting pods currently because it failed sync: {seen['message']}")
    healthy, desired = status.get("currentHealthy", 0), status.get("desiredHealthy", 0)
    if healthy <= desired:
        raise _refused(f"The disruption budget {name} needs {desired} healthy pods and has {healthy} currently")
    raise _refused(f"The disruption budget {name} does not allow evicting pods currently")


def _refused(why: str, *, wait: timedelta = timedelta(0)) -> Throttled:
    return Throttled(_NO, retry_after=wait, details=(Invalid(why, code=_CAUSE),))


async def _mark(registry: Registry, target: Target, options: deletion.DeleteOptions, writer: Writer) -> None:
    """Say on the pod that it goes because somebody asked, which a Job's failure policy can tell from a failure of its own."""
    found = registry.store.latest(target.key)
    if found is None:
        raise not_found(target)
    pod = found.manifest()
    if options.uid and pod["metadata"]["uid"] != options.uid:
        raise Conflict(
            f'Operation cannot be fulfilled on Pod "{target.name}": the UID in the precondition ({options.uid}) does not match the UID in record '
            f"({pod['metadata']['uid']}). The object might have been deleted and then recreated",
            target=target.name,
        )
    status: dict[str, Any] = pod.get("status") or {}
    made = {"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI", "message": "Eviction API: evicting"}
    made["lastTransitionTime"] = rfc3339(registry.clock())
    before: Manifest = next((one for one in status.get("conditions") or () if one.get("type") == made["type"]), {})
    if all(before.get(name) == made[name] for name in ("status", "reason", "message")):
        return
    others = [one for one in status.get("conditions") or () if one.get("type") != made["type"]]
    changed = {**pod, "status": {**status, "conditions": [*others, made]}}
    await registry.replace(Target(target.resource, target.namespace, target.name, "status"), changed, writer)
