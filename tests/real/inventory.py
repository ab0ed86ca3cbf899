"""Every object of a cluster by name: what a test compares to see what something left behind."""

from __future__ import annotations

from collections.abc import Callable

# They come and go by themselves, whoever asks.
_RESTLESS = {"Event", "Lease", "ComponentStatus", "NodeMetrics", "PodMetrics"}


def inventory(kubectl: Callable[..., str]) -> set[tuple[str, str, str]]:
    """(kind, namespace, name) of all that can be listed, the namespace being `<none>` where there is none.

    Args:
        kubectl: runs kubectl with these words and returns what it prints.
    """
    kinds = kubectl("api-resources", "--verbs=list", "-o", "name").split()
    columns = "custom-columns=KIND:.kind,NAMESPACE:.metadata.namespace,NAME:.metadata.name"
    listed = kubectl("get", ",".join(sorted(kinds)), "-A", "--no-headers", "-o", columns)
    found = [line.split() for line in listed.splitlines() if line.strip()]
    return {(kind, namespace, name) for kind, namespace, name in found if kind not in _RESTLESS}
