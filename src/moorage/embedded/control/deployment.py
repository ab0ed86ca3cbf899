"""Deployment: ReplicaSets by revision of the pod template, rolled over without losing availability, and a status that tells how it goes."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from moorage.embedded.control import rollout
from moorage.embedded.control.deployment_status import conditions, totals
from moorage.embedded.control.objects import (
    annotations_of,
    canonical,
    is_controlled_by,
    selector_of,
    short_hash,
)
from moorage.embedded.control.pods import claim, is_finished
from moorage.embedded.control.steps import NOTHING, Create, Decision, Delete, Patch, Record, Step, set_status
from moorage.kube.kinds import DEPLOYMENT, REPLICA_SET
from moorage.kube.metadata import is_deleting, owner_reference
from moorage.specs.manifest import Manifest

COMPONENT = "deployment-controller"
HASH_LABEL = "pod-template-hash"
REVISION = "deployment.kubernetes.io/revision"
_HISTORY = "deployment.kubernetes.io/revision-history"
_NOT_INHERITED = frozenset(
    {
        "kubectl.kubernetes.io/last-applied-configuration",
        REVISION,
        _HISTORY,
        rollout.DESIRED,
        rollout.MAXIMUM,
        "deprecated.deployment.rollback.to",
    }
)


@dataclass(frozen=True, slots=True)
class _Rollout:
    """A Deployment's ReplicaSets sorted out: the one of today's template, those before it, and what the next revision is called."""

    deployment: Manifest
    new: Manifest | None
    old: Sequence[Manifest]
    now: datetime

    @property
    def sets(self) -> list[Manifest]:
        return [*self.old, *([self.new] if self.new else [])]

    @property
    def revision(self) -> int:
        return max((_revision(one) for one in self.old), default=0) + 1


def decide(deployment: Manifest, candidates: Sequence[Manifest], pods: Sequence[Manifest], now: datetime) -> Decision:
    """One turn for a Deployment; `candidates` are its namespace's ReplicaSets that it owns or nobody does, `pods` those of its ReplicaSets."""
    selector = selector_of(deployment)
    if not selector:
        return NOTHING
    claimed = claim(deployment, candidates, selector, child=REPLICA_SET)
    adopted = [step for step in claimed.steps if isinstance(step, Patch)]
    if adopted:
        return Decision(adopted)
    new = _matching(deployment, claimed.owned, now)
    plan = _Rollout(deployment, new, [one for one in claimed.owned if one is not new], now)
    if is_deleting(deployment):
        return Decision(_status(plan).steps)
    status = _status(plan)
    writes = _move(plan, candidates, pods)
    collided = [step for step in writes if isinstance(step, Patch) and step.kind is DEPLOYMENT and step.subresource == "status"]
    if collided:
        return Decision(collided)
    steps = [*status.steps, *writes]
    if not any(isinstance(step, Create | Patch) for step in writes):
        steps += _forget(plan)
    return Decision(steps, status.requeue_after)


def _status(plan: _Rollout) -> Decision:
    deployment = plan.deployment
    counted = totals(deployment, plan.new, plan.old)
    listed, wait = conditions(deployment, counted, plan.new, plan.sets, plan.now)
    if listed:
        counted["conditions"] = listed
    if "collisionCount" in (deployment.get("status") or {}):
        counted["collisionCount"] = deployment["status"]["collisionCount"]
    return Decision(set_status(DEPLOYMENT, deployment, counted), wait)


def _move(plan: _Rollout, candidates: Sequence[Manifest], pods: Sequence[Manifest]) -> list[Step]:
    """The writes on ReplicaSets (and the Deployment's revision) that this turn makes: one stage at a time, as Kubernetes does."""
    deployment, new = plan.deployment, plan.new
    if new is not None and (renamed := _inherit(plan, new)):
        return renamed
    if deployment["spec"].get("paused") or _was_rescaled(plan):
        return _resize(plan, rollout.rescale(deployment, new, plan.old, plan.now), annotate=True)
    if not rollout.is_rolling(deployment):
        if any(rollout.size(one) for one in plan.old):
            return _resize(plan, {one["metadata"]["name"]: 0 for one in plan.old if rollout.size(one)})
        if any(not is_finished(pod) and any(is_controlled_by(pod, one) for one in plan.old) for pod in pods):
            return []
    if new is None:
        return _first(plan, candidates)
    grown = rollout.grow_new(deployment, new, plan.sets)
    if grown != rollout.size(new):
        return _resize(plan, {new["metadata"]["name"]: grown})
    return _resize(plan, rollout.shrink_old(deployment, new, plan.old, plan.now))


def _first(plan: _Rollout, candidates: Sequence[Manifest]) -> list[Step]:
    """Create today's ReplicaSet; a name that another template already has moves the collision count on."""
    deployment = plan.deployment
    made = replica_set(deployment, plan.revision, rollout.grow_new(deployment, None, plan.old))
    taken = next((one for one in candidates if one["metadata"]["name"] == made["metadata"]["name"]), None)
    if taken is not None:
        count = (deployment.get("status") or {}).get("collisionCount", 0) + 1
        return [Patch(DEPLOYMENT, deployment, {"status": {"collisionCount": count}}, "status")]
    steps: list[Step] = [Create(REPLICA_SET, made)]
    if made["spec"]["replicas"]:
        steps.append(_scaled(deployment, made["metadata"]["name"], 0, made["spec"]["replicas"]))
    return [*steps, *_note_revision(deployment, str(plan.revision))]


def replica_set(deployment: Manifest, revision: int, replicas: int) -> Manifest:
    """The whole ReplicaSet of the Deployment's template."""
    spec = deployment["spec"]
    collisions = (deployment.get("status") or {}).get("collisionCount", 0)
    mark = short_hash(canonical(spec["template"]), *([str(collisions)] if collisions else []))
    template = copy.deepcopy(spec["template"])
    labels = {**(template.setdefault("metadata", {}).get("labels") or {}), HASH_LABEL: mark}
    template["metadata"]["labels"] = labels
    selector = copy.deepcopy(spec["selector"])
    selector["matchLabels"] = {**(selector.get("matchLabels") or {}), HASH_LABEL: mark}
    made: Manifest = {
        "apiVersion": REPLICA_SET.api_version,
        "kind": "ReplicaSet",
        "metadata": {
            "name": f"{deployment['metadata']['name']}-{mark}",
            "namespace": deployment["metadata"]["namespace"],
            "labels": dict(labels),
            "annotations": {**_inherited(deployment), **_size_annotations(deployment), REVISION: str(revision)},
            "ownerReferences": [owner_reference(deployment)],
        },
        "spec": {"replicas": replicas, "selector": selector, "template": template},
    }
    if spec.get("minReadySeconds"):
        made["spec"]["minReadySeconds"] = spec["minReadySeconds"]
    return made


def _matching(deployment: Manifest, sets: Sequence[Manifest], now: datetime) -> Manifest | None:
    """The oldest ReplicaSet with the Deployment's template, the hash label aside."""
    template = canonical(deployment["spec"]["template"])
    for one in rollout.by_age(sets, now):
        bare = copy.deepcopy(one["spec"].get("template") or {})
        labels = (bare.get("metadata") or {}).get("labels") or {}
        labels.pop(HASH_LABEL, None)
        if not labels and "metadata" in bare and "labels" not in (deployment["spec"]["template"].get("metadata") or {}):
            bare["metadata"].pop("labels", None)
        if canonical(bare) == template:
            return one
    return None


def _inherit(plan: _Rollout, new: Manifest) -> list[Step]:
    """Bring a found ReplicaSet's revision and annotations up to date (it may be one of earlier that is rolled back to)."""
    deployment = plan.deployment
    has = annotations_of(new)
    want: dict[str, str] = {**_inherited(deployment)}
    if _revision(new) < plan.revision:
        want[REVISION] = str(plan.revision)
        if has.get(REVISION):
            want[_HISTORY] = ",".join(part for part in (has.get(_HISTORY, ""), has[REVISION]) if part)
    revision = want.get(REVISION, has.get(REVISION, str(plan.revision)))
    patch: dict[str, Any] = {}
    if missing := {name: value for name, value in want.items() if has.get(name) != value}:
        patch["metadata"] = {"annotations": missing}
    if (deployment["spec"].get("minReadySeconds") or 0) != (new["spec"].get("minReadySeconds") or 0):
        patch["spec"] = {"minReadySeconds": deployment["spec"].get("minReadySeconds") or 0}
    steps: list[Step] = [Patch(REPLICA_SET, new, patch)] if patch else []
    return [*steps, *_note_revision(deployment, revision)]


def _note_revision(deployment: Manifest, revision: str) -> list[Step]:
    if annotations_of(deployment).get(REVISION) == revision:
        return []
    return [Patch(DEPLOYMENT, deployment, {"metadata": {"annotations": {REVISION: revision}}})]


def _was_rescaled(plan: _Rollout) -> bool:
    """Whether the Deployment's size changed since its live ReplicaSets were last sized."""
    text = str(rollout.wanted(plan.deployment))
    return any(rollout.size(one) and annotations_of(one).get(rollout.DESIRED, text) != text for one in plan.sets)


def _resize(plan: _Rollout, sizes: Mapping[str, int], *, annotate: bool = False) -> list[Step]:
    steps: list[Step] = []
    marks = _size_annotations(plan.deployment)
    for one in plan.sets:
        name = one["metadata"]["name"]
        replicas = sizes.get(name, rollout.size(one))
        stale = any(annotations_of(one).get(key) != value for key, value in marks.items())
        if replicas == rollout.size(one) and not (annotate and stale and replicas):
            continue
        steps.append(Patch(REPLICA_SET, one, {"metadata": {"annotations": marks}, "spec": {"replicas": replicas}}))
        if replicas != rollout.size(one):
            steps.append(_scaled(plan.deployment, name, rollout.size(one), replicas))
    return steps


def _scaled(deployment: Manifest, name: str, before: int, after: int) -> Record:
    direction = "up" if after > before else "down"
    return Record(deployment, "Normal", "ScalingReplicaSet", f"Scaled {direction} replica set {name} from {before} to {after}", COMPONENT)


def _forget(plan: _Rollout) -> list[Step]:
    """Delete ReplicaSets beyond the revision history, once the rollout is complete."""
    limit = plan.deployment["spec"].get("revisionHistoryLimit", 10)
    status = (plan.new or {}).get("status") or {}
    if plan.new is None or status.get("availableReplicas", 0) < rollout.wanted(plan.deployment):
        return []
    old = sorted((one for one in plan.old if not is_deleting(one)), key=lambda one: (_revision(one), one["metadata"]["name"]))
    idle = [one for one in old[: max(0, len(old) - limit)] if _is_idle(one)]
    return [Delete(REPLICA_SET, one) for one in idle]


def _is_idle(replica_set: Manifest) -> bool:
    status = replica_set.get("status") or {}
    seen = status.get("observedGeneration", 0) >= replica_set["metadata"].get("generation", 1)
    return seen and not rollout.size(replica_set) and not status.get("replicas")


def _revision(replica_set: Manifest) -> int:
    text = annotations_of(replica_set).get(REVISION, "0")
    return int(text) if text.isdigit() else 0


def _inherited(deployment: Manifest) -> dict[str, str]:
    return {name: value for name, value in annotations_of(deployment).items() if name not in _NOT_INHERITED}


def _size_annotations(deployment: Manifest) -> dict[str, str]:
    replicas = rollout.wanted(deployment)
    return {rollout.DESIRED: str(replicas), rollout.MAXIMUM: str(replicas + rollout.fences(deployment).surge)}
