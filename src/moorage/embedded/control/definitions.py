"""The end of a CustomResourceDefinition: its objects go first, then it does. The API begins with that when it is asked; whatever kept it from the
end, be it a kill, a full disk or a webhook's refusal, this goes on."""

from __future__ import annotations

from collections.abc import Sequence

from moorage.embedded.control.garbage import LISTING, Everything
from moorage.embedded.control.loop import Loop
from moorage.embedded.control.objects import finalizers_of
from moorage.embedded.control.steps import NOTHING, Decision, Delete, Patch
from moorage.embedded.control.world import World
from moorage.embedded.registry import DEFINITION_FINALIZER
from moorage.kube.informer import Informer
from moorage.kube.kinds import CRD, Kind
from moorage.kube.metadata import Key, is_deleting, name_of
from moorage.specs.manifest import Manifest


def end(definition: Manifest, kind: Kind, instances: Sequence[Manifest]) -> Decision:
    """Delete what is left of a kind whose definition is being deleted; let the definition go once nothing is."""
    if not is_deleting(definition) or DEFINITION_FINALIZER not in finalizers_of(definition):
        return NOTHING
    if instances:
        return Decision(apart=[[Delete(kind, one)] for one in instances if not is_deleting(one)])
    left = [one for one in finalizers_of(definition) if one != DEFINITION_FINALIZER]
    return Decision([Patch(CRD, definition, {"metadata": {"finalizers": left or None}})])


def finisher(world: World, everything: Everything) -> Loop:
    definitions = world.informer(CRD)

    def informer_of(definition: Manifest) -> Informer | None:
        names, group = definition["spec"]["names"], definition["spec"]["group"]
        return everything.informer_of(f"{group}/v1", names["kind"])

    def decide(key: Key) -> Decision:
        found = definitions.get(key[1])
        if found is None or not is_deleting(found) or (informer := informer_of(found)) is None:
            return NOTHING
        return end(found, informer.kind, tuple(informer)) if informer.synced.is_set() else Decision(requeue_after=LISTING)

    async def confirm(key: Key, decision: Decision) -> bool:
        """Ask the API itself whether nothing is left: the informer may be behind."""
        found = definitions.get(key[1])
        informer = informer_of(found) if found is not None else None
        return informer is None or not (await world.cluster.list(informer.kind)).items

    loop = Loop(world, "customresourcedefinition-finalizer", decide, workers=1, confirm=confirm)

    def changed(old: Manifest | None, new: Manifest | None) -> None:
        if new is not None and is_deleting(new):
            loop.queue.add(("", name_of(new)))

    def watch(informer: Informer) -> None:
        name = f"{informer.kind.plural}.{informer.kind.group}"

        def gone(old: Manifest | None, new: Manifest | None) -> None:
            if new is None and (found := definitions.get(name)) is not None and is_deleting(found):
                loop.queue.add(("", name))

        informer.subscribe(gone)
        # It may have been asked for before its kind was known here.
        loop.queue.add(("", name))

    definitions.subscribe(changed)
    everything.on_kind(watch)
    return loop
