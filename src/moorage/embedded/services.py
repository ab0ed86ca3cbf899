"""Addresses and node ports of Services, from the ranges of the embedded cluster."""

from __future__ import annotations

import ipaddress
import secrets
from typing import Any

from moorage.embedded.objects import ObjectStore
from moorage.errors import Invalid, Unavailable
from moorage.specs.manifest import Manifest

ADDRESSES = ipaddress.ip_network("127.96.0.0/12")
NODE_PORTS = range(30000, 32768)
# The first addresses of the range stay free for the system's own Services.
_RESERVED = 256
_ATTEMPTS = 4096


def allocate(service: Manifest, before: Manifest | None, store: ObjectStore) -> None:
    """Give a Service its address and node ports in place; Invalid when it asks for ones that are taken or out of range."""
    spec = service["spec"]
    old = (before or {}).get("spec") or {}
    if spec.get("type") == "ExternalName":
        spec.pop("clusterIP", None)
        spec.pop("clusterIPs", None)
        return
    others = [
        m["spec"]
        for entry in store.latest_all(("", "services"))
        if (m := entry.manifest())["metadata"]["uid"] != service["metadata"]["uid"]
    ]
    if not spec.get("clusterIP") and old.get("clusterIP"):
        spec["clusterIP"] = old["clusterIP"]
    if spec.get("clusterIP") != "None":
        taken = {other.get("clusterIP") for other in others}
        spec["clusterIP"] = _address(spec.get("clusterIP"), taken)
    spec["clusterIPs"] = [spec["clusterIP"]]
    if spec["type"] in ("NodePort", "LoadBalancer"):
        _node_ports(spec, old, {port.get("nodePort") for other in others for port in other.get("ports") or ()})


def _address(asked: str | None, taken: set[str | None]) -> str:
    if asked:
        try:
            inside = ipaddress.ip_address(asked) in ADDRESSES
        except ValueError:
            inside = False
        if not inside:
            raise _refused(
                "spec.clusterIPs", asked, f"failed to allocate IP {asked}: the provided IP is not in the valid range {ADDRESSES}"
            )
        if asked in taken:
            raise _refused("spec.clusterIPs", asked, f"failed to allocate IP {asked}: provided IP is already allocated")
        return asked
    for _ in range(_ATTEMPTS):
        found = str(ADDRESSES[_RESERVED + secrets.randbelow(ADDRESSES.num_addresses - _RESERVED - 1)])
        if found not in taken:
            return found
    raise Unavailable(f"no free address in {ADDRESSES}")


def _node_ports(spec: dict[str, Any], old: dict[str, Any], taken: set[int | None]) -> None:
    earlier = {(port.get("port"), port.get("protocol")): port.get("nodePort") for port in old.get("ports") or ()}
    for index, port in enumerate(spec.get("ports") or ()):
        asked = port.get("nodePort") or earlier.get((port.get("port"), port.get("protocol")))
        if asked:
            if asked not in NODE_PORTS:
                raise _refused(
                    f"spec.ports[{index}].nodePort",
                    asked,
                    "provided port is not in the valid range. The range of valid ports is 30000-32767",
                )
            if asked in taken:
                raise _refused(f"spec.ports[{index}].nodePort", asked, "provided port is already allocated")
            port["nodePort"] = asked
        else:
            free = [number for number in NODE_PORTS if number not in taken]
            if not free:
                raise Unavailable("no free node port in 30000-32767")
            port["nodePort"] = secrets.choice(free)
        taken.add(port["nodePort"])


def _refused(path: str, value: object, reason: str) -> Invalid:
    shown = f'"{value}"' if isinstance(value, str) else str(value)
    cause = Invalid(f"Invalid value: {shown}: {reason}", code="FieldValueInvalid", target=path)
    return Invalid(f"Service is invalid: {path}: {cause.message}", code="Invalid", target=path, details=(cause,))
