"""Wires the workload controllers to the informers: what wakes which Deployment, ReplicaSet, Job and Service, and what its decision gets to see."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence

from moorage.embedded.control import deployment, endpoints, job, replicaset
from moorage.embedded.control.loop import Loop
from moorage.embedded.control.objects import selects
from moorage.embedded.control.steps import NOTHING, Decision
from moorage.embedded.control.world import World
from moorage.embedded.selectors import from_label_selector
from moorage.kube.informer import Informer
from moorage.kube.kinds import DEPLOYMENT, ENDPOINT_SLICE, JOB, POD, REPLICA_SET, SERVICE, Kind
from moorage.kube.metadata import Key, controller_of, key_of, labels_of, namespace_of, uid_of
from moorage.specs.manifest import Manifest

NAMESPACE = "namespace"
_ORPHANS = "orphans of namespace"
_OWNER_KEY = "owner by name"
_SERVICE = "service"


def replica_sets(world: World) -> Loop:
    sets, pods = world.informer(REPLICA_SET), world.informer(POD)
    index_children(pods)

    def decide(key: Key) -> Decision:
        found = sets.get(key[1], key[0])
        return NOTHING if found is None else replicaset.decide(found, children(pods, found), world.clock())

    loop = Loop(world, replicaset.COMPONENT, decide)
    sets.subscribe(wake_self(loop))
    pods.subscribe(wake_owner(loop, REPLICA_SET, sets))
    return loop


def deployments(world: World) -> Loop:
    owners, sets, pods = world.informer(DEPLOYMENT), world.informer(REPLICA_SET), world.informer(POD)
    index_children(sets)

    def decide(key: Key) -> Decision:
        found = owners.get(key[1], key[0])
        if found is None:
            return NOTHING
        candidates = children(sets, found)
        below = [pod for one in candidates for pod in pods.controlled_by(uid_of(one))]
        return deployment.decide(found, candidates, below, world.clock())

    loop = Loop(world, deployment.COMPONENT, decide)

    def pod_gone(old: Manifest | None, new: Manifest | None) -> None:
        # Recreate waits for the last old pod; everything else a Deployment wants to know stands in its ReplicaSets.
        reference = controller_of(old) if old is not None and new is None else None
        owner = sets.with_uid(reference["uid"]) if reference else None
        if owner is not None and (above := controller_of(owner)):
            loop.queue.add((namespace_of(owner), above["name"]))

    owners.subscribe(wake_self(loop))
    sets.subscribe(wake_owner(loop, DEPLOYMENT, owners))
    pods.subscribe(pod_gone)
    return loop


def jobs(world: World) -> Loop:
    owners, pods = world.informer(JOB), world.informer(POD)
    pods.add_index(_OWNER_KEY, _owner_key)

    def decide(key: Key) -> Decision:
        found = owners.get(key[1], key[0])
        claimed = pods.find(_OWNER_KEY, (JOB.kind, *key))
        uid = uid_of(found) if found is not None else None
        strays = [pod for pod in claimed if (controller_of(pod) or {}).get("uid") != uid]
        freed = job.release(strays).steps
        if found is None:
            return Decision(freed)
        decision = job.decide(found, pods.controlled_by(uid_of(found)), world.clock())
        return Decision([*freed, *decision.steps], decision.requeue_after)

    loop = Loop(world, job.COMPONENT, decide)

    def pod_changed(old: Manifest | None, new: Manifest | None) -> None:
        for pod in (old, new):
            reference = controller_of(pod) if pod is not None else None
            if pod is not None and reference is not None and reference.get("kind") == JOB.kind:
                loop.queue.add((namespace_of(pod), reference["name"]))

    owners.subscribe(wake_self(loop))
    pods.subscribe(pod_changed)
    return loop


def endpoint_slices(world: World) -> Loop:
    services, pods, slices = world.informer(SERVICE), world.informer(POD), world.informer(ENDPOINT_SLICE)
    index_namespace(pods)
    index_namespace(services)
    slices.add_index(_SERVICE, lambda one: ((namespace_of(one), labels_of(one).get(endpoints.SERVICE_NAME)),))

    def decide(key: Key) -> Decision:
        found = services.get(key[1], key[0])
        if found is None:
            return NOTHING  # its slices go with it: they name it as owner
        return endpoints.decide(found, pods.find(NAMESPACE, key[0]), slices.find(_SERVICE, key))

    loop = Loop(world, "endpoint-slice-controller", decide)

    def pod_changed(old: Manifest | None, new: Manifest | None) -> None:
        if old is not None and new is not None and not _matters(old, new):
            return
        for pod in (old, new):
            for service in services.find(NAMESPACE, namespace_of(pod)) if pod is not None else ():
                selector = (service.get("spec") or {}).get("selector")
                if pod is not None and selector and selector.items() <= labels_of(pod).items():
                    loop.queue.add(key_of(service))

    def slice_changed(old: Manifest | None, new: Manifest | None) -> None:
        for one in (old, new):
            if one is not None and (name := labels_of(one).get(endpoints.SERVICE_NAME)):
                loop.queue.add((namespace_of(one), name))

    services.subscribe(wake_self(loop))
    pods.subscribe(pod_changed)
    slices.subscribe(slice_changed)
    return loop


def _matters(old: Manifest, new: Manifest) -> bool:
    """Whether a change of a pod can change an endpoint."""

    def facts(pod: Manifest) -> tuple[object, ...]:
        status, metadata = pod.get("status") or {}, pod["metadata"]
        ready = [one.get("status") for one in status.get("conditions") or () if one.get("type") == "Ready"]
        return status.get("podIP"), status.get("phase"), ready, metadata.get("labels"), "deletionTimestamp" in metadata, uid_of(pod)

    return facts(old) != facts(new) or (old.get("spec") or {}).get("nodeName") != (new.get("spec") or {}).get("nodeName")


Changed = Callable[[Manifest | None, Manifest | None], None]


def wake_self(loop: Loop) -> Changed:
    """Wake an object of its own changes."""

    def changed(old: Manifest | None, new: Manifest | None) -> None:
        one = new or old
        if one is not None:
            loop.queue.add(key_of(one))

    return changed


def wake_owner(loop: Loop, kind: Kind, owners: Informer) -> Changed:
    """Wake the controller of a child; an orphan wakes every owner of its namespace that selects it."""

    def changed(old: Manifest | None, new: Manifest | None) -> None:
        for child in (old, new):
            if child is None:
                continue
            reference = controller_of(child)
            if reference is None:
                for owner in owners.find(NAMESPACE, namespace_of(child)):
                    terms = from_label_selector((owner.get("spec") or {}).get("selector"))
                    if terms and selects(terms, labels_of(child)):
                        loop.queue.add(key_of(owner))
            elif reference.get("kind") == kind.kind:
                loop.queue.add((namespace_of(child), reference["name"]))

    index_namespace(owners)
    return changed


def index_namespace(informer: Informer) -> None:
    """Let `informer.find(NAMESPACE, name)` tell a namespace's objects."""
    informer.add_index(NAMESPACE, lambda one: (namespace_of(one),))


def index_children(informer: Informer) -> None:
    """Let `children` find what nobody controls."""

    def orphans(one: Manifest) -> Iterable[Hashable]:
        return (namespace_of(one),) if controller_of(one) is None else ()

    informer.add_index(_ORPHANS, orphans)


def children(informer: Informer, owner: Manifest) -> Sequence[Manifest]:
    """What the owner controls, and what nobody controls in its namespace."""
    return [*informer.controlled_by(uid_of(owner)), *informer.find(_ORPHANS, namespace_of(owner))]


def _owner_key(pod: Manifest) -> Iterable[Hashable]:
    reference = controller_of(pod)
    return ((reference.get("kind"), namespace_of(pod), reference["name"]),) if reference else ()
