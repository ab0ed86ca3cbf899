"""OnlineDeployment -> Deployment, Service, ConfigMap and status.

`Succeeded` is about the roll-out and stays until the spec changes; whether replicas are ready now is the condition `Ready`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from moorage.errors import Invalid
from moorage.inference import status as pods_status
from moorage.inference.manifests import Rendered, desired
from moorage.inference.status import Finding
from moorage.kube.metadata import written
from moorage.kube.reconcile import Observed, Plan
from moorage.specs import pod_status, refusal, security, workload
from moorage.specs.condition import Condition, merge
from moorage.specs.manifest import Manifest

_MESSAGE_LIMIT = 8192
# The environment has another Python than it was made for; the code with which `podside` says so.
SUBSTITUTED = "EnvironmentSubstituted"
_ANYWHERE: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class _State:
    phase: str
    reason: str
    message: str


def reconcile(seen: Observed, pinned: Mapping[str, str] = _ANYWHERE) -> Plan:
    """The whole decision about one OnlineDeployment. `pinned`: labels of the nodes that the extension's settings allow."""
    if seen.parent["metadata"].get("deletionTimestamp"):
        return Plan(status=None)
    try:
        restricted = security.enforced(seen.parent["metadata"]["namespace"], seen.related.get("Namespace", ()))
        rendered = desired(seen.parent, list(seen.related.get("InstanceType", ())), pinned, restricted=restricted)
    except Invalid as error:
        # What serves now goes on serving; only the wish cannot be met.
        return _plan(seen, _kept(seen), _State("Failed", error.code, error.message))
    pods = pods_status.current(seen.children.get("Pod", ()), rendered.revision)
    shared = [workload.environments_claim(seen.parent["metadata"]["namespace"])] if _prepared(seen) else []
    return _plan(seen, rendered.children, _state(seen, rendered, pods), shared, pods)


def _prepared(seen: Observed) -> bool:
    return bool(workload.prepared(seen.parent["spec"].get("environment") or {}))


def _state(seen: Observed, rendered: Rendered, pods: Sequence[Manifest]) -> _State:
    earlier: Manifest = seen.parent.get("status") or {}
    deployment = _deployment(seen)
    applied = deployment is not None and _revision(deployment) == rendered.revision
    if deployment is not None and applied and pods_status.rolled_out(deployment, rendered.replicas):
        return _State("Succeeded", "Ready", _served(rendered.replicas, pods_status.timings(pods)))
    if earlier.get("phase") == "Succeeded" and earlier.get("observedGeneration") == _generation(seen):
        return _State("Succeeded", *_unready(pods, deployment))
    if found := pods_status.failure(pods):
        return _State("Failed", found.reason, found.message)
    step = _step(pods, deployment if applied else None)
    if deployment is not None and applied and pods_status.deadline_exceeded(deployment):
        limit = seen.parent["spec"].get("progressDeadlineSeconds", 1200)
        return _State("Failed", "DeadlineExceeded", f"The deployment was not ready within {limit} s. {step.message}")
    phase = "Updating" if earlier.get("phase") in ("Succeeded", "Updating") else "Creating"
    return _State(phase, step.reason, step.message)


def _step(pods: Sequence[Manifest], deployment: Manifest | None) -> Finding:
    """What is being waited for: a pod that the cluster refuses keeps more from coming up than one that is on its way."""
    refused = refusal.of_deployment(deployment) if deployment else None
    return Finding(refused.reason, refused.message) if refused else pods_status.progress(pods)


def _unready(pods: Sequence[Manifest], deployment: Manifest | None) -> tuple[str, str]:
    found = pods_status.failure(pods) or _step(pods, deployment)
    return found.reason, found.message


def _served(replicas: int, timings: str) -> str:
    if replicas == 0:
        return "The deployment has no replicas, as asked for."
    return f"{replicas} of {replicas} replicas are ready{f' ({timings})' if timings else ''}."


def _deployment(seen: Observed) -> Manifest | None:
    name = seen.parent["metadata"]["name"]
    return next((found for found in seen.children.get("Deployment", ()) if found["metadata"]["name"] == name), None)


def _revision(deployment: Manifest) -> str:
    metadata = deployment["spec"]["template"].get("metadata") or {}
    return str((metadata.get("annotations") or {}).get("moorage.dev/revision") or "")


def _kept(seen: Observed) -> list[Manifest]:
    """The living children as they are."""
    kinds = (("ConfigMap", "v1", ("data",)), ("Deployment", "apps/v1", ("spec",)), ("Service", "v1", ("spec",)))
    return [
        {
            "apiVersion": version,
            "kind": kind,
            "metadata": written(child),
            **{part: child[part] for part in parts if part in child},
        }
        for kind, version, parts in kinds
        for child in seen.children.get(kind, ())
    ]


def _generation(seen: Observed) -> int:
    return int(seen.parent["metadata"].get("generation", 1))


def _plan(
    seen: Observed, children: Sequence[Manifest], state: _State, shared: Sequence[Manifest] = (), pods: Sequence[Manifest] = ()
) -> Plan:
    earlier: Manifest = seen.parent.get("status") or {}
    generation = _generation(seen)
    live = [pod for pod in seen.children.get("Pod", ()) if not pod["metadata"].get("deletionTimestamp")]
    ready = sum(1 for pod in live if pod_status.ready(pod))
    # What a replica was told holds for all of them, and while none is there.
    kept = (earlier.get("notices") or ()) if earlier.get("observedGeneration") == generation else ()
    notices = pods_status.notices(pods) or list(kept)
    message = state.message if len(state.message) <= _MESSAGE_LIMIT else f"... {state.message[-_MESSAGE_LIMIT:]}"
    wanted_none = state.phase == "Succeeded" and not live and state.reason == "Ready"
    condition = Condition("Ready", "True" if ready or wanted_none else "False", state.reason, message)
    status: Manifest = {
        "phase": state.phase,
        "reason": state.reason,
        "message": message,
        "observedGeneration": generation,
        "replicas": len(live),
        "readyReplicas": ready,
        "notices": notices,
        "conditions": merge(earlier.get("conditions") or (), [condition], now=seen.now, generation=generation),
    }
    new = (state.phase == "Failed" and earlier.get("phase") != "Failed") or (
        state.reason in refusal.REASONS and state.reason != earlier.get("reason")
    )
    events = [("Warning", state.reason, message[:1000])] if new else []
    events += [("Warning", SUBSTITUTED, each[:1000]) for each in notices if each not in (earlier.get("notices") or ())]
    return Plan(children=tuple(children), status=status, shared=tuple(shared), events=events)
