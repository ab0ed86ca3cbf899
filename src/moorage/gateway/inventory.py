"""What the cluster is and has, as the workspace shows it: nodes, instance types, the router's address. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import moorage
from moorage.kube.metadata import labels_of, name_of
from moorage.specs.manifest import Manifest
from moorage.wire.gateway import InventoryReport, NodeInfo

# Parts of a gitVersion that name who built it, e.g. v1.33.2+k3s1.
_DISTRIBUTIONS = ("k3s", "rke2", "eks", "gke", "moorage", "vmware")
# Where the embedded cluster listens for a Service when its own port is refused to this user (docs/internals/seams.md).
_ADDRESS = "moorage.dev/address"
_LABELS = {"kubernetes.azure.com/cluster": "aks", "node.openshift.io/os_id": "openshift", "microk8s.io/cluster": "microk8s"}


def inventory(version: str, nodes: Iterable[Manifest], instance_types: Iterable[Manifest], router: Manifest | None) -> InventoryReport:
    """The report; equal for an unchanged cluster, however often nodes tell that they live."""
    ordered = sorted(nodes, key=name_of)
    return InventoryReport(
        kubernetes_version=version,
        distribution=distribution(version, ordered),
        agent_version=moorage.__version__,
        nodes=[node_info(node) for node in ordered],
        instance_types=[instance_type(found) for found in sorted(instance_types, key=name_of)],
        router_url=router_url(router, ordered),
    )


def node_info(node: Manifest) -> NodeInfo:
    status = node.get("status") or {}
    return NodeInfo(
        name=name_of(node),
        ready=any(each["type"] == "Ready" and each["status"] == "True" for each in status.get("conditions") or ()),
        schedulable=not (node.get("spec") or {}).get("unschedulable"),
        labels=dict(labels_of(node)),
        allocatable={name: str(amount) for name, amount in (status.get("allocatable") or {}).items()},
    )


def instance_type(manifest: Manifest) -> Manifest:
    """The manifest without what only the cluster cares for."""
    return {
        "apiVersion": manifest["apiVersion"],
        "kind": manifest["kind"],
        "metadata": {"name": name_of(manifest)},
        "spec": manifest.get("spec") or {},
    }


def distribution(version: str, nodes: Sequence[Manifest]) -> str:
    """Who made this Kubernetes, empty when nothing gives it away."""
    for name in _DISTRIBUTIONS:
        if name in version:
            return name
    for node in nodes:
        for label, name in _LABELS.items():
            if label in labels_of(node):
                return name
    return ""


def router_url(service: Manifest | None, nodes: Sequence[Manifest]) -> str:
    """The router's base address as clients outside reach it: the load balancer's, else a node's port, else inside the cluster. Empty: none yet."""
    if service is None:
        return ""
    spec = service.get("spec") or {}
    ports = spec.get("ports") or ()
    if not ports:
        return ""
    port = ports[0]
    scheme = "https" if port.get("port") == 443 else "http"
    match spec.get("type") or "ClusterIP":
        case "LoadBalancer":
            for ingress in ((service.get("status") or {}).get("loadBalancer") or {}).get("ingress") or ():
                if host := ingress.get("hostname") or ingress.get("ip"):
                    return f"{scheme}://{_bracketed(host)}:{port['port']}"
            return ""
        case "NodePort":
            host = _node_address(nodes)
            return f"{scheme}://{_bracketed(host)}:{port['nodePort']}" if host and port.get("nodePort") else ""
        case _:
            if address := (service["metadata"].get("annotations") or {}).get(_ADDRESS):
                return f"{scheme}://{address}"
            host = spec.get("clusterIP") or ""
            return f"{scheme}://{_bracketed(host)}:{port['port']}" if host and host != "None" else ""


def _node_address(nodes: Sequence[Manifest]) -> str:
    for wanted in ("ExternalIP", "InternalIP"):
        for node in nodes:
            for address in (node.get("status") or {}).get("addresses") or ():
                if address.get("type") == wanted and node_info(node).ready:
                    return str(address["address"])
    return ""


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
