"""The routing table as a pure function of OnlineEndpoints, OnlineDeployments and EndpointSlices."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from datetime import timedelta

from moorage.specs.endpoints import MIRROR_LIMIT
from moorage.specs.manifest import Manifest
from moorage.specs.routing import Address, DeploymentRoute, EndpointRoute, RoutingTable, TokenTerms

# Set by the EndpointSlice controller: the Service a slice belongs to. A deployment's Service bears the OnlineDeployment's name.
SERVICE_LABEL = "kubernetes.io/service-name"
# The original's defaults for Kubernetes deployments (contract/router.md).
_TIMEOUT_MS = 5000
_QUEUE_WAIT_MS = 500
_CONCURRENCY = 1
_Owner = tuple[str, str, str, str]


def render(endpoints: Iterable[Manifest], deployments: Iterable[Manifest], slices: Iterable[Manifest]) -> RoutingTable:
    """Everything the router needs, in an order that depends on the objects alone.

    Two endpoints of one name (two workspaces on one cluster) cannot both be reached by a path that holds the name only: the older one
    is served. Objects that are being deleted are left out, so that their traffic stops before their pods do.
    """
    addresses = _addresses(slices)
    by_endpoint: dict[_Owner, dict[str, DeploymentRoute]] = {}
    for each in sorted(deployments, key=_age):
        if not _leaving(each):
            by_endpoint.setdefault(_owner(each), {})[each["spec"]["deployment"].lower()] = _deployment(each, addresses)
    table: dict[str, EndpointRoute] = {}
    for each in sorted(endpoints, key=_age):
        name = each["spec"]["endpoint"]
        if not _leaving(each) and name not in table:
            table[name] = _endpoint(each, by_endpoint.get(_owner(each), {}))
    return RoutingTable(table)


def _endpoint(manifest: Manifest, deployments: Mapping[str, DeploymentRoute]) -> EndpointRoute:
    spec = manifest["spec"]
    traffic = {name.lower(): share for name, share in (spec.get("traffic") or {}).items() if share > 0 and name.lower() in deployments}
    mirrored = _mirrored(spec.get("mirrorTraffic") or {}, deployments.keys() - traffic.keys())
    digests = tuple(bytes.fromhex(text) for text in spec.get("keySha256") or ())
    mode = spec["authMode"]
    tokens = _terms(spec.get("auth")) if mode == "AMLToken" else None
    return EndpointRoute(spec["endpoint"], digests if mode == "Key" else (), deployments, traffic, mirrored, tokens=tokens)


def _mirrored(shares: Mapping[str, int], silent: Collection[str]) -> dict[str, int]:
    """The one deployment that gets copies, of those without traffic. Of several, which definitions of earlier versions allow, the first by name."""
    named = {name.lower(): min(share, MIRROR_LIMIT) for name, share in sorted(shares.items()) if share > 0 and name.lower() in silent}
    return dict(list(named.items())[:1])


def _terms(auth: Manifest | None) -> TokenTerms | None:
    """None where it is missing, as in an object that nobody but a user can have written: then nobody is let in."""
    return TokenTerms(auth["audience"], auth["generation"], tuple(auth["publicKeys"])) if auth else None


def _deployment(manifest: Manifest, addresses: Mapping[tuple[str, str], tuple[Address, ...]]) -> DeploymentRoute:
    spec, metadata = manifest["spec"], manifest["metadata"]
    limits = spec.get("requests") or {}
    return DeploymentRoute(
        name=spec["deployment"].lower(),
        replicas=addresses.get((metadata["namespace"], metadata["name"]), ()),
        concurrency=limits.get("concurrencyPerInstance", _CONCURRENCY),
        queue_wait=timedelta(milliseconds=limits.get("queueWaitMilliseconds", _QUEUE_WAIT_MS)),
        timeout=timedelta(milliseconds=limits.get("timeoutMilliseconds", _TIMEOUT_MS)),
    )


def _addresses(slices: Iterable[Manifest]) -> dict[tuple[str, str], tuple[Address, ...]]:
    """Ready addresses by (namespace, Service). A condition that is absent means ready (EndpointSlice API)."""
    found: dict[tuple[str, str], set[Address]] = {}
    for each in slices:
        service = (each["metadata"].get("labels") or {}).get(SERVICE_LABEL)
        ports = each.get("ports") or []
        if not service or not ports or _leaving(each):
            continue
        for endpoint in each.get("endpoints") or []:
            conditions = endpoint.get("conditions") or {}
            if conditions.get("ready") is not False and endpoint.get("addresses"):
                found.setdefault((each["metadata"]["namespace"], service), set()).add((endpoint["addresses"][0], ports[0]["port"]))
    return {key: tuple(sorted(value)) for key, value in found.items()}


def _owner(manifest: Manifest) -> _Owner:
    spec = manifest["spec"]
    return manifest["metadata"]["namespace"], spec["resourceGroup"], spec["workspace"], spec["endpoint"]


def _age(manifest: Manifest) -> tuple[str, str, str]:
    metadata = manifest["metadata"]
    return metadata.get("creationTimestamp") or "", metadata["namespace"], metadata["name"]


def _leaving(manifest: Manifest) -> bool:
    return bool(manifest["metadata"].get("deletionTimestamp"))
