"""`metrics.k8s.io/v1beta1`: what nodes and pods use now, as metrics-server serves it (`kubectl top`). Measured when asked for, stored nowhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from moorage.clock import rfc3339
from moorage.embedded import selectors
from moorage.embedded.backend import Measured, NodeBackend, Usage
from moorage.embedded.http import Request, Response, answer
from moorage.embedded.quantities import canonical
from moorage.embedded.registry import Registry, Target
from moorage.embedded.routes import Route
from moorage.errors import Invalid, NotFound
from moorage.kube.kinds import NODE, POD, Kind
from moorage.specs.manifest import Manifest

GROUP, VERSION = "metrics.k8s.io", "v1beta1"
# Plural, kind, whether it is namespaced.
KINDS = (("nodes", "NodeMetrics", False), ("pods", "PodMetrics", True))
VERBS = ("get", "list")


class MetricsReader:
    """Get and list of both kinds."""

    def __init__(self, registry: Registry, backend: Callable[[], NodeBackend]) -> None:
        self._registry = registry
        self._backend = backend

    async def respond(self, request: Request, route: Route) -> Response:
        """The answer to a request of the group. NotFound for a path that is none, and for what has not been measured yet."""
        found = next((each for each in KINDS if each[0] == route.plural and route.version == VERSION), None)
        if found is None or route.subresource or (route.namespace is not None and not found[2]):
            raise NotFound("the server could not find the requested resource", target=route.plural)
        if request.method not in ("GET", "HEAD") or request.flag("watch"):
            raise Invalid("the server does not allow this method on the requested resource", code="MethodNotAllowed")
        shown, of = (pod_metrics, POD) if found[2] else (node_metrics, NODE)
        if route.name:
            return answer(await self._one(shown, of, route))
        resource = self._registry.catalog.of(of)
        chosen = selectors.parse(request.query.get("labelSelector"), request.query.get("fieldSelector"), resource=resource.storage)
        measured = await self._backend().measure()
        entries = self._registry.list(resource, route.namespace, chosen)
        items = [item for entry in entries if (item := shown(entry.manifest(), measured)) is not None]
        head = {"kind": f"{found[1]}List", "apiVersion": f"{GROUP}/{VERSION}", "metadata": {}}
        return answer({**head, "items": items})

    async def _one(self, shown: Callable[[Manifest, Measured], Manifest | None], of: Kind, route: Route) -> Manifest:
        if of.namespaced and route.namespace is None:
            raise NotFound("the server could not find the requested resource", target=route.plural)
        target = Target(self._registry.catalog.of(of), route.namespace or "", route.name)
        manifest = self._registry.get(target).manifest()
        found = shown(manifest, await self._backend().measure())
        if found is None:
            name = f"{route.namespace}/{route.name}" if of.namespaced else route.name
            raise NotFound(f'{of.kind.lower()}metrics.{GROUP} "{name}" not found', target=route.name)
        return found


def pod_metrics(pod: Manifest, measured: Measured) -> Manifest | None:
    """A PodMetrics, None while there is no figure of the pod. Pure."""
    containers = measured.pods.get(pod["metadata"]["uid"])
    if containers is None:
        return None
    shown = [{"name": name, "usage": usage(used)} for name, used in sorted(containers.items())]
    return {**_head("PodMetrics", pod, measured), "containers": shown}


def node_metrics(node: Manifest, measured: Measured) -> Manifest | None:
    """A NodeMetrics, None for a node that nobody measures. Pure."""
    used = measured.nodes.get(node["metadata"]["name"])
    return None if used is None else {**_head("NodeMetrics", node, measured), "usage": usage(used)}


def usage(used: Usage) -> dict[str, str]:
    """CPU in nanocores or whatever greater unit is exact, memory in whole kibibytes."""
    return {"cpu": canonical(f"{used.cpu}n"), "memory": f"{used.memory // 1024}Ki"}


def discovered() -> list[dict[str, Any]]:
    """The resources of an APIResourceList."""
    return [
        {"name": plural, "singularName": "", "namespaced": namespaced, "kind": kind, "verbs": list(VERBS)}
        for plural, kind, namespaced in KINDS
    ]


def aggregated() -> list[dict[str, Any]]:
    """The resources of an aggregated discovery document."""
    return [
        {
            "resource": plural,
            "responseKind": {"group": GROUP, "version": VERSION, "kind": kind},
            "scope": "Namespaced" if namespaced else "Cluster",
            "singularResource": "",
            "verbs": list(VERBS),
        }
        for plural, kind, namespaced in KINDS
    ]


def _head(kind: str, of: Manifest, measured: Measured) -> Manifest:
    named: Mapping[str, Any] = of["metadata"]
    moment = rfc3339(measured.moment)
    meta = {name: named[name] for name in ("name", "namespace", "labels") if named.get(name)}
    window = f"{round(measured.window.total_seconds(), 3)}s"
    return {
        "kind": kind,
        "apiVersion": f"{GROUP}/{VERSION}",
        "metadata": {**meta, "creationTimestamp": moment},
        "timestamp": moment,
        "window": window,
    }
