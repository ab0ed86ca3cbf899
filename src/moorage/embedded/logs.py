"""Which container's log a request means, and whether there is one yet; the bytes come from the node."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta

from moorage.clock import now, parse_rfc3339
from moorage.embedded.backend import NodeBackend
from moorage.embedded.http import Request
from moorage.embedded.registry import Registry, Target
from moorage.errors import Invalid
from moorage.kube.cluster import LogOptions
from moorage.kube.kinds import POD
from moorage.specs.manifest import Manifest

_LISTS = ("initContainers", "containers", "ephemeralContainers")


async def pod_logs(registry: Registry, backend: NodeBackend, namespace: str, name: str, options: LogOptions) -> AsyncIterator[bytes]:
    """The log of a pod's container. Raises before the first chunk: NotFound, or Invalid (400) while there is nothing to read."""
    pod = registry.get(Target(registry.catalog.of(POD), namespace, name)).manifest()
    options = replace(options, container=container_of(pod, options.container))
    node = (pod.get("spec") or {}).get("nodeName")
    if not node:
        raise Invalid(
            f'container "{options.container}" in pod "{name}" is waiting to start: the pod is not scheduled yet', code="BadRequest"
        )
    async for chunk in backend.logs(node, namespace, pod, options):
        yield chunk


def log_options(request: Request) -> LogOptions:
    """A log request's query."""
    tail, seconds, since_time = request.number("tailLines"), request.number("sinceSeconds"), request.query.get("sinceTime")
    if tail is not None and tail < 0:
        raise Invalid(f"tailLines: Invalid value: {tail}: must be greater than or equal to 0", code="Invalid", target="tailLines")
    since = None if seconds is None else timedelta(seconds=seconds)
    if since_time:
        try:
            since = max(timedelta(0), now() - parse_rfc3339(since_time))
        except ValueError as error:
            raise Invalid(f"sinceTime: '{since_time}' is no RFC 3339 time", code="BadRequest", target="sinceTime") from error
    return LogOptions(
        container=request.query.get("container") or None,
        follow=request.flag("follow"),
        previous=request.flag("previous"),
        tail=tail,
        since=since,
        timestamps=request.flag("timestamps"),
    )


def container_of(pod: Manifest, asked: str | None) -> str:
    """The container that is meant: the one asked for, the annotated default, or the only one. Invalid (400) otherwise."""
    name = pod["metadata"]["name"]
    spec = pod["spec"]
    known = [container["name"] for place in _LISTS for container in spec.get(place) or ()]
    if asked:
        if asked not in known:
            raise Invalid(f"container {asked} is not valid for pod {name}", code="BadRequest", target="container")
        return asked
    mains: list[str] = [container["name"] for container in spec.get("containers") or ()]
    annotated = (pod["metadata"].get("annotations") or {}).get("kubectl.kubernetes.io/default-container")
    if annotated in known:
        return str(annotated)
    if len(mains) == 1:
        return mains[0]
    inits = [container["name"] for container in spec.get("initContainers") or ()]
    also = f" or one of the init containers: [{' '.join(inits)}]" if inits else ""
    raise Invalid(
        f"a container name must be specified for pod {name}, choose one of: [{' '.join(mains)}]{also}",
        code="BadRequest",
        target="container",
    )
