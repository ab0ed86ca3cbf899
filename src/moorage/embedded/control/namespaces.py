"""Namespaces: what each one holds from its first moment, and how it ends: everything in it goes first. Also the ServiceAccount every pod may use."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from moorage.clock import rfc3339
from moorage.embedded.control.collector import Node
from moorage.embedded.control.garbage import LISTING, Everything
from moorage.embedded.control.loop import Loop
from moorage.embedded.control.objects import condition
from moorage.embedded.control.steps import NOTHING, Create, Decision, Delete, Patch, Step
from moorage.embedded.control.world import World
from moorage.kube.informer import Informer
from moorage.kube.kinds import CONFIG_MAP, NAMESPACE, SERVICE_ACCOUNT
from moorage.kube.merge import merge_patch
from moorage.kube.metadata import Key, is_deleting, name_of, namespace_of
from moorage.specs.manifest import Manifest

ROOT_CA = "kube-root-ca.crt"
_DEFAULT = "default"
_FINALIZER = "kubernetes"


def furnish(namespace: Manifest, account: Manifest | None, bundle: Manifest | None, ca: str | None) -> Decision:
    """The ServiceAccount `default` and, when there is an authority, its certificate for pods to trust the API by."""
    name = name_of(namespace)
    if is_deleting(namespace):
        return NOTHING
    steps: list[Step] = []
    if account is None:
        steps.append(Create(SERVICE_ACCOUNT, {"metadata": {"name": _DEFAULT, "namespace": name}}))
    if ca is not None and bundle is None:
        steps.append(Create(CONFIG_MAP, {"metadata": {"name": ROOT_CA, "namespace": name}, "data": {"ca.crt": ca}}))
    elif ca is not None and bundle is not None and not is_deleting(bundle) and bundle.get("data") != {"ca.crt": ca}:
        steps.append(Patch(CONFIG_MAP, bundle, {"data": merge_patch(bundle.get("data") or {}, {"ca.crt": ca})}))
    return Decision(steps)


def end(namespace: Manifest, contents: Sequence[Node], now: datetime) -> Decision:
    """Delete what is left in a namespace that is being deleted; let it go once nothing is."""
    finalizers = (namespace.get("spec") or {}).get("finalizers") or []
    if not is_deleting(namespace) or _FINALIZER not in finalizers:
        return NOTHING
    if not contents:
        left = [one for one in finalizers if one != _FINALIZER]
        return Decision([Patch(NAMESPACE, namespace, {"spec": {"finalizers": left}}, "finalize")])
    deletions: list[list[Step]] = [[Delete(one.kind, one.object)] for one in contents if not is_deleting(one.object)]
    return Decision(_report(namespace, contents, now), apart=deletions)


def _report(namespace: Manifest, contents: Sequence[Node], now: datetime) -> list[Step]:
    """Conditions that tell what the namespace waits for."""
    counts: dict[str, int] = {}
    held: dict[str, int] = {}
    for one in contents:
        counts[str(one.kind)] = counts.get(str(one.kind), 0) + 1
        for finalizer in one.object["metadata"].get("finalizers") or ():
            held[finalizer] = held.get(finalizer, 0) + 1
    remaining = ", ".join(f"{kind}. has {count} resource instances" for kind, count in sorted(counts.items()))
    waiting = ", ".join(f"{finalizer} in {count} resource instances" for finalizer, count in sorted(held.items()))
    wanted = [
        _condition(namespace, "NamespaceContentRemaining", "SomeResourcesRemain", f"Some resources are remaining: {remaining}", now),
    ]
    if waiting:
        words = f"Some content in the namespace has finalizers remaining: {waiting}"
        wanted.append(_condition(namespace, "NamespaceFinalizersRemaining", "SomeFinalizersRemain", words, now))
    if wanted == (namespace.get("status") or {}).get("conditions"):
        return []
    return [Patch(NAMESPACE, namespace, {"status": {"conditions": wanted}}, "status")]


def _condition(namespace: Manifest, type: str, reason: str, message: str, now: datetime) -> dict[str, Any]:
    before = condition(namespace, type)
    since = (before or {}).get("lastTransitionTime") or rfc3339(now)
    return {"type": type, "status": "True", "lastTransitionTime": since, "reason": reason, "message": message}


def furnisher(world: World, ca: str | None) -> Loop:
    spaces, accounts, bundles = world.informer(NAMESPACE), world.informer(SERVICE_ACCOUNT), world.informer(CONFIG_MAP)

    def decide(key: Key) -> Decision:
        found = spaces.get(key[1])
        if found is None:
            return NOTHING
        return furnish(found, accounts.get(_DEFAULT, key[1]), bundles.get(ROOT_CA, key[1]), ca)

    loop = Loop(world, "serviceaccount-controller", decide)

    def furniture(old: Manifest | None, new: Manifest | None) -> None:
        one = new or old
        if one is not None and name_of(one) in (_DEFAULT, ROOT_CA):
            loop.queue.add(("", namespace_of(one)))

    spaces.subscribe(_wake(loop))
    accounts.subscribe(furniture)
    bundles.subscribe(furniture)
    return loop


def terminator(world: World, everything: Everything) -> Loop:
    spaces = world.informer(NAMESPACE)

    def decide(key: Key) -> Decision:
        found = spaces.get(key[1])
        if found is None or not is_deleting(found):
            return NOTHING
        if not everything.complete:
            return Decision(requeue_after=LISTING)
        return end(found, everything.contents(key[1]), world.clock())

    loop = Loop(world, "namespace-controller", decide, workers=2)

    def watch(informer: Informer) -> None:
        def changed(old: Manifest | None, new: Manifest | None) -> None:
            one = new or old
            if one is not None and (space := spaces.get(namespace_of(one))) is not None and is_deleting(space):
                loop.queue.add(("", name_of(space)))

        if informer.kind.namespaced:
            informer.subscribe(changed)

    spaces.subscribe(_wake(loop))
    everything.on_kind(watch)
    return loop


def _wake(loop: Loop) -> Any:
    def changed(old: Manifest | None, new: Manifest | None) -> None:
        if new is not None:
            loop.queue.add(("", name_of(new)))

    return changed
