"""What the API server asks of the nodes: the one call from the API down to where containers run."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol

from moorage.errors import Unavailable
from moorage.kube.cluster import LogOptions
from moorage.specs.manifest import Manifest


class NodeBackend(Protocol):
    """Reaches the kubelet of a pod's node."""

    def logs(self, node: str, namespace: str, pod: Manifest, options: LogOptions) -> AsyncIterator[bytes]:
        """A container's log, `options.container` always set. Raises NotFound or Invalid before the first chunk, never after it.

        With `options.follow` the stream ends when the container has ended and all of its log was given.
        """
        ...


class NoNodes:
    """The backend of a cluster without nodes (tests of the API alone): every log is Unavailable."""

    async def logs(self, node: str, namespace: str, pod: Manifest, options: LogOptions) -> AsyncIterator[bytes]:
        # Under a condition, because a function without a reachable yield would be no async generator to the type checker.
        if pod:
            raise Unavailable(f"node '{node}' runs no node agent, so that there is no log of pod {namespace}/{pod['metadata']['name']}.")
        yield b""
