"""EndpointSlices: which pods answer for a Service, under which addresses and ports, and in what state."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from moorage.embedded.control.objects import canonical, selects, short_hash
from moorage.embedded.control.pods import is_finished, is_ready
from moorage.embedded.control.steps import Create, Decision, Delete, Patch, Step
from moorage.embedded.selectors import LabelTerm
from moorage.kube.kinds import ENDPOINT_SLICE
from moorage.kube.merge import merge_patch
from moorage.kube.metadata import is_deleting, labels_of, owner_reference, uid_of
from moorage.specs.manifest import Manifest

SERVICE_NAME = "kubernetes.io/service-name"
MANAGED_BY = "endpointslice.kubernetes.io/managed-by"
CONTROLLER = "endpointslice-controller.k8s.io"
_HEADLESS = "service.kubernetes.io/headless"
_FULL = 100  # endpoints a slice (Kubernetes' default of --max-endpoints-per-slice)


def decide(service: Manifest, pods: Sequence[Manifest], slices: Sequence[Manifest]) -> Decision:
    """One turn for a Service; `pods` are its namespace's, `slices` those that carry its name. Slices of other makers are left alone."""
    selector = service["spec"].get("selector")
    ours = [one for one in slices if labels_of(one).get(MANAGED_BY) == CONTROLLER and not is_deleting(one)]
    if not selector or service["spec"].get("type") == "ExternalName" or is_deleting(service):
        return Decision([Delete(ENDPOINT_SLICE, one) for one in ours] if not is_deleting(service) else [])
    terms = tuple(LabelTerm(key, "in", frozenset({value})) for key, value in selector.items())
    groups = _by_ports(service, [pod for pod in pods if selects(terms, labels_of(pod)) and _has_address(pod)])
    wanted: dict[str, Manifest] = {}
    for ports, endpoints in groups.items():
        for one in _fill(service, ports, endpoints, ours):
            wanted[one["metadata"]["name"]] = one
    existing = {one["metadata"]["name"]: one for one in ours}
    steps: list[Step] = [Create(ENDPOINT_SLICE, one) for name, one in wanted.items() if name not in existing]
    for name, one in existing.items():
        if name not in wanted:
            steps.append(Delete(ENDPOINT_SLICE, one))
        elif patch := _difference(one, wanted[name]):
            steps.append(Patch(ENDPOINT_SLICE, one, patch))
    return Decision(steps)


def _has_address(pod: Manifest) -> bool:
    return bool((pod.get("status") or {}).get("podIP")) and not is_finished(pod)


def _by_ports(service: Manifest, pods: Sequence[Manifest]) -> dict[str, dict[str, Manifest]]:
    """Endpoints by pod uid, grouped by the ports they resolve to (named target ports may differ from pod to pod), keyed by the ports' JSON."""
    groups: dict[str, dict[str, Manifest]] = {}
    for pod in pods:
        groups.setdefault(canonical(_ports(service, pod)), {})[uid_of(pod)] = _endpoint(service, pod)
    # A Service without pods still has one slice, so that its absence is never mistaken for not having been looked at.
    return groups or {canonical([]): {}}


def _ports(service: Manifest, pod: Manifest) -> list[Manifest]:
    found = []
    for port in service["spec"].get("ports") or ():
        target = port.get("targetPort") or port["port"]
        protocol = port.get("protocol") or "TCP"
        number = target if isinstance(target, int) else _named_port(pod, target, protocol)
        if number is None:
            continue
        entry = {"name": port.get("name") or "", "port": number, "protocol": protocol}
        if port.get("appProtocol"):
            entry["appProtocol"] = port["appProtocol"]
        found.append(entry)
    return found


def _named_port(pod: Manifest, name: str, protocol: str) -> int | None:
    spec = pod.get("spec") or {}
    sidecars = [one for one in spec.get("initContainers") or () if one.get("restartPolicy") == "Always"]
    for container in (*(spec.get("containers") or ()), *sidecars):
        for port in container.get("ports") or ():
            if port.get("name") == name and (port.get("protocol") or "TCP") == protocol:
                number: int = port["containerPort"]
                return number
    return int(name) if name.isdigit() else None


def _endpoint(service: Manifest, pod: Manifest) -> Manifest:
    serving, terminating = is_ready(pod), is_deleting(pod)
    ready = bool(service["spec"].get("publishNotReadyAddresses")) or (serving and not terminating)
    metadata, spec = pod["metadata"], pod.get("spec") or {}
    made: Manifest = {
        "addresses": [pod["status"]["podIP"]],
        "conditions": {"ready": ready, "serving": serving, "terminating": terminating},
        "targetRef": {"kind": "Pod", "namespace": metadata["namespace"], "name": metadata["name"], "uid": uid_of(pod)},
    }
    if spec.get("nodeName"):
        made["nodeName"] = spec["nodeName"]
    if spec.get("hostname") and spec.get("subdomain") == service["metadata"]["name"]:
        made["hostname"] = spec["hostname"]
    return made


def _fill(service: Manifest, ports: str, endpoints: Mapping[str, Manifest], ours: Sequence[Manifest]) -> list[Manifest]:
    """The slices of one port group. An endpoint stays in the slice it is in, so that one pod's change rewrites one slice."""
    names = [
        f"{service['metadata']['name'][:240]}-{short_hash(uid_of(service), ports, str(number), length=5)}"
        for number in range(len(endpoints) // _FULL + len(ours) + 1)
    ]
    has = {one["metadata"]["name"]: one for one in ours}
    left = dict(endpoints)
    filled: dict[str, dict[str, Manifest]] = {}
    for name in names:
        if name in has:
            kept = [(entry.get("targetRef") or {}).get("uid") for entry in has[name].get("endpoints") or ()]
            filled[name] = {uid: left.pop(uid) for uid in kept if uid in left}
    for name in names:
        if not left and (name in filled or filled):
            break
        room = filled.setdefault(name, {})
        for uid in list(left)[: max(0, _FULL - len(room))]:
            room[uid] = left.pop(uid)
    kept_names = [name for name in filled if filled[name]] or list(filled)[:1]
    return [_slice(service, name, ports, list(filled[name].values())) for name in kept_names]


def _slice(service: Manifest, name: str, ports: str, endpoints: Sequence[Manifest]) -> Manifest:
    labels = {**labels_of(service), SERVICE_NAME: service["metadata"]["name"], MANAGED_BY: CONTROLLER}
    if service["spec"].get("clusterIP") == "None":
        labels[_HEADLESS] = ""
    return {
        "apiVersion": ENDPOINT_SLICE.api_version,
        "kind": "EndpointSlice",
        "metadata": {
            "name": name,
            "namespace": service["metadata"]["namespace"],
            "labels": labels,
            "ownerReferences": [owner_reference(service)],
        },
        "addressType": "IPv4",
        "endpoints": sorted(endpoints, key=lambda one: str(one["targetRef"]["name"])),
        "ports": json.loads(ports),
    }


def _difference(existing: Manifest, wanted: Manifest) -> dict[str, Any]:
    patch: dict[str, Any] = {name: wanted[name] for name in ("endpoints", "ports") if (existing.get(name) or []) != wanted[name]}
    if labels := merge_patch(dict(labels_of(existing)), wanted["metadata"]["labels"]):
        patch["metadata"] = {"labels": labels}
    return patch
