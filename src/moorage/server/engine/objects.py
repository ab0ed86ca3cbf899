"""The custom resources behind a resource: wanting them, no longer wanting them, and telling whether they are really gone."""

from __future__ import annotations

from collections.abc import Sequence

from moorage.specs.manifest import Manifest
from moorage.store import DesiredObject, DesiredOwner, ObjectName, ReportedStatus, ResourceKey, Transaction

# The engine's own bell: rung when a time it should wake at may have come nearer.
TOPIC = "engine"


def name_of(manifest: Manifest) -> ObjectName:
    return ObjectName(manifest["kind"], manifest["metadata"]["namespace"], manifest["metadata"]["name"])


def want(tx: Transaction, cluster: str, manifest: Manifest, key: ResourceKey) -> bool:
    """Want an object for a resource; whether that changes what the cluster was told.

    What was reported of an earlier object of that name is forgotten, so that it is not taken for news of this one.
    """
    name = name_of(manifest)
    before = tx.desired.find(cluster, name)
    if before is None or before.object is None:
        tx.reports.forget(cluster, name)
    revision = tx.desired.apply(cluster, name, manifest, DesiredOwner(key.workspace, key.type, key.name, key.parent))
    return before is None or before.revision != revision


def resend(tx: Transaction, cluster: str, manifest: Manifest, key: ResourceKey) -> Manifest | None:
    """Want an endpoint or deployment as it now is; what tells later news from former ones (see `is_news`), None when nothing changed."""
    name = name_of(manifest)
    seen = generation_seen(tx.reports.status(cluster, name))
    if not want(tx, cluster, manifest, key):
        return None
    # Statuses and refusals of the former spec must not settle this one.
    tx.reports.forget(cluster, name)
    return seen


def unwant(tx: Transaction, key: ResourceKey) -> list[DesiredObject]:
    """Want nothing for a resource any more; what it wanted."""
    held = list(tx.desired.of_owner(key))
    for each in held:
        tx.desired.remove(each.cluster, each.name)
    tx.touch(TOPIC)
    return held


def lingering(tx: Transaction, key: ResourceKey) -> list[DesiredObject]:
    """Objects of a resource that may still exist in a cluster although nobody wants them."""
    return [each for each in tx.desired.of_owner(key) if not is_gone(tx, each)]


def is_gone(tx: Transaction, object: DesiredObject) -> bool:
    """Whether the cluster said so, or never knew it because its agent was never heard."""
    if object.object is not None:
        return False
    report = tx.reports.status(object.cluster, object.name)
    if report is not None:
        return report.gone
    return tx.clusters.get(object.cluster).last_seen is None


def forget_gone(tx: Transaction, objects: Sequence[DesiredObject]) -> None:
    """Drop what is known of objects that a cluster has confirmed to be gone; others stay until it does."""
    for each in objects:
        if is_gone(tx, each):
            tx.reports.forget(each.cluster, each.name)
            tx.desired.forget(each)


def generation_seen(report: ReportedStatus | None) -> Manifest:
    """What to remember when a new spec is sent, to tell its statuses from the former one's."""
    known = report is not None and not report.gone
    return {"uid": report.uid if report and known else "", "generation": report.generation if report and known else 0}


def is_news(report: ReportedStatus, sent: Manifest) -> bool:
    """Whether a report is about the spec sent since `generation_seen`, and its controller has looked at that spec."""
    if report.gone:
        return False
    if not report.uid:
        # The agent's own words: the cluster did not take it.
        return True
    if report.uid == sent.get("uid") and report.generation <= int(sent.get("generation") or 0):
        return False
    observed = report.status.get("observedGeneration")
    return not isinstance(observed, int) or observed >= report.generation
