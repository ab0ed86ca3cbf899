"""An informer whose watch dies and whose past is forgotten meanwhile misses nothing of what is still true."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

from moorage.errors import Unavailable
from moorage.kube.cluster import Cluster
from moorage.kube.informer import Informer
from moorage.kube.kinds import CONFIG_MAP
from moorage.kube.metadata import name_of
from moorage.specs.manifest import Manifest
from moorage.testing.builders import a_config_map
from moorage.testing.faults import Request, WiredCluster

_PATIENCE_SECONDS = 90.0
_LABELS = "told=yes"


class InformerConformance:
    """Needs, besides `cluster` and `namespace`, `compact`, as in `WatchConformance`."""

    async def compact(self, cluster: Cluster) -> bool:
        """Make the cluster forget the past of ConfigMaps; False where a test has no means to."""
        return False

    async def test_an_informer_lists_again_after_a_compaction_and_tells_what_it_missed(self, cluster: Cluster, namespace: str) -> None:
        def write(name: str, v: str) -> Manifest:
            return a_config_map(name, {"v": v}, namespace=namespace, labels={"told": "yes"})

        for name in ("changed", "deleted", "kept", "replaced"):
            await cluster.create(CONFIG_MAP, write(name, "1"))
        broken = asyncio.Event()
        wired = WiredCluster(cluster)
        informer = Informer(wired, CONFIG_MAP, namespace, labels=_LABELS)
        told: list[tuple[str, str | None, str | None]] = []
        stirred = asyncio.Event()

        def tell(old: Manifest | None, new: Manifest | None) -> None:
            told.append((name_of(new or old or {}), _v(old), _v(new)))
            stirred.set()

        async def until(holds: Callable[[], bool]) -> None:
            while not holds():
                stirred.clear()
                await stirred.wait()

        informer.subscribe(tell)
        running = asyncio.create_task(informer.run())
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                await informer.synced.wait()

                def cut(request: Request) -> None:
                    broken.set()
                    raise Unavailable("the connection was cut")

                # The next event ends the watch before it is told, and no new one comes about until the past is forgotten.
                wired.during = cut
                wired.before = lambda request: cut(request) if request.verb in ("watch", "list") else None
                told.clear()
                await cluster.patch(CONFIG_MAP, "changed", namespace, {"data": {"v": "2"}})
                await broken.wait()
                await cluster.delete(CONFIG_MAP, "deleted", namespace)
                await cluster.delete(CONFIG_MAP, "replaced", namespace)
                await cluster.create(CONFIG_MAP, write("replaced", "2"))
                await cluster.create(CONFIG_MAP, write("new", "1"))
                if not await self.compact(cluster):
                    return
                lists = informer.lists
                wired.during = wired.before = None
                expected = {"changed": "2", "kept": "1", "new": "1", "replaced": "2"}
                await until(lambda: {name_of(one): _v(one) for one in informer} == expected)
                assert informer.lists == lists + 1, "the watch was taken up where it was, so nothing had been forgotten"
                await cluster.create(CONFIG_MAP, write("after", "1"))
                await until(lambda: ("after", None, "1") in told)
        finally:
            running.cancel()
            with suppress(asyncio.CancelledError):
                await running
        replaced = [change[1:] for change in told if change[0] == "replaced"]
        # One object that went and one that came, or, to those who look at names, one that changed.
        assert replaced in ([("1", None), (None, "2")], [("1", "2")]), replaced
        rest = sorted((change for change in told if change[0] != "replaced"), key=lambda change: change[0])
        assert rest == [("after", None, "1"), ("changed", "1", "2"), ("deleted", "1", None), ("new", None, "1")], told


def _v(manifest: Manifest | None) -> str | None:
    return None if manifest is None else str(manifest["data"]["v"])
