"""A container's environment and command: references resolved and `$(VAR)` expanded by Kubernetes' rules. Pure."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from moorage.errors import Invalid, NotFound
from moorage.specs.manifest import Manifest
from moorage.specs.quantities import parse_quantity

Find = Callable[[str, str], Manifest | None]


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What references of a pod can point at.

    Args:
        pod: the pod, its status carrying the addresses.
        find: `find("ConfigMap" | "Secret", name)` in the pod's namespace; None when it does not exist.
        allocatable: the node's, which stands in for a missing limit.
    """

    pod: Manifest
    find: Find
    allocatable: Mapping[str, str]


def expand(text: str, known: Mapping[str, str]) -> str:
    """`$(NAME)` replaced where NAME is known, kept where not; `$$` is a literal `$` (k8s.io/kubernetes third_party/forked/golang/expansion)."""
    out, position = [], 0
    while (dollar := text.find("$", position)) >= 0 and dollar + 1 < len(text):
        out.append(text[position:dollar])
        position = dollar + 2
        follower = text[dollar + 1]
        if follower == "$":
            out.append("$")
        elif follower == "(" and (end := text.find(")", position)) >= 0:
            name = text[position:end]
            out.append(known.get(name, f"$({name})"))
            position = end + 1
        else:
            out.append(text[dollar:position])
    out.append(text[position:])
    return "".join(out)


def command(container: Manifest, env: Mapping[str, str]) -> list[str]:
    """command + args. There is no image to take an entry point from, so that a command is required."""
    words = [*(container.get("command") or ()), *(container.get("args") or ())]
    if not container.get("command"):
        raise Invalid(
            f"container {container['name']!r} has no command. Images are not pulled on the embedded cluster, so that there is no entry point: set command.",
            target="command",
        )
    return [expand(word, env) for word in words]


def resolve(container: Manifest, around: Surroundings, base: Mapping[str, str]) -> dict[str, str]:
    """The whole environment: `base`, then envFrom, then env in order, each able to refer to what came before.

    Raises NotFound, in the kubelet's words, when a required ConfigMap, Secret or key is missing (CreateContainerConfigError).
    """
    env = dict(base)
    for source in container.get("envFrom") or ():
        env.update(_from_source(source, around))
    for item in container.get("env") or ():
        if (reference := item.get("valueFrom")) is None:
            env[item["name"]] = expand(item.get("value") or "", env)
        elif (value := _reference(reference, container, around)) is not None:
            env[item["name"]] = value
    return env


def _from_source(source: Manifest, around: Surroundings) -> dict[str, str]:
    kind, reference = ("ConfigMap", source["configMapRef"]) if "configMapRef" in source else ("Secret", source["secretRef"])
    found = around.find(kind, reference["name"])
    if found is None:
        if reference.get("optional"):
            return {}
        raise _missing(kind, reference["name"])
    prefix = source.get("prefix") or ""
    return {f"{prefix}{key}": value.decode(errors="replace") for key, value in data_of(found).items()}


def data_of(found: Manifest) -> dict[str, bytes]:
    """A ConfigMap's or Secret's content as bytes."""
    if found.get("kind") == "Secret":
        return {key: base64.b64decode(value) for key, value in (found.get("data") or {}).items()}
    plain = {key: str(value).encode() for key, value in (found.get("data") or {}).items()}
    return {**plain, **{key: base64.b64decode(value) for key, value in (found.get("binaryData") or {}).items()}}


def _reference(reference: Manifest, container: Manifest, around: Surroundings) -> str | None:
    if "fieldRef" in reference:
        return field_value(around.pod, reference["fieldRef"]["fieldPath"])
    if "resourceFieldRef" in reference:
        return resource_value(around.pod, reference["resourceFieldRef"], around.allocatable, default=container["name"])
    kind, selector = (
        ("ConfigMap", reference["configMapKeyRef"]) if "configMapKeyRef" in reference else ("Secret", reference["secretKeyRef"])
    )
    found = around.find(kind, selector["name"])
    if found is not None and (value := data_of(found).get(selector["key"])) is not None:
        return value.decode(errors="replace")
    if selector.get("optional"):
        return None
    if found is None:
        raise _missing(kind, selector["name"])
    namespace = around.pod["metadata"]["namespace"]
    raise NotFound(f"couldn't find key {selector['key']} in {kind} {namespace}/{selector['name']}", target=selector["name"])


def _missing(kind: str, name: str) -> NotFound:
    return NotFound(f'{kind.lower()} "{name}" not found', target=name)


def field_value(pod: Manifest, path: str) -> str:
    """The downward API's value of a pod field; labels and annotations whole, or one by `metadata.labels['KEY']`."""
    metadata, status = pod["metadata"], pod.get("status") or {}
    for name in ("labels", "annotations"):
        if path == f"metadata.{name}":
            return "\n".join(f'{key}="{_escaped(value)}"' for key, value in sorted((metadata.get(name) or {}).items()))
        if path.startswith(f"metadata.{name}['"):
            return str((metadata.get(name) or {}).get(path[len(name) + 11 : -2], ""))
    plain = {
        "metadata.name": metadata["name"],
        "metadata.namespace": metadata["namespace"],
        "metadata.uid": metadata.get("uid"),
        "spec.nodeName": pod["spec"].get("nodeName"),
        "spec.serviceAccountName": pod["spec"].get("serviceAccountName"),
        "status.hostIP": status.get("hostIP"),
        "status.hostIPs": ",".join(item["ip"] for item in status.get("hostIPs") or ()),
        "status.podIP": status.get("podIP"),
        "status.podIPs": ",".join(item["ip"] for item in status.get("podIPs") or ()),
    }
    if path not in plain:
        raise Invalid(f"unsupported fieldPath: {path}", target="fieldPath")
    return plain[path] or ""


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def resource_value(pod: Manifest, selector: Manifest, allocatable: Mapping[str, str], *, default: str = "") -> str:
    """`limits.memory` and its kin in whole divisors, rounded up; a limit that is not set is the node's allocatable."""
    wanted = selector.get("containerName") or default
    containers: Sequence[Manifest] = [*(pod["spec"].get("containers") or ()), *(pod["spec"].get("initContainers") or ())]
    container = next((item for item in containers if item["name"] == wanted), None)
    if container is None:
        raise Invalid(f"container {wanted} not found", target="resourceFieldRef")
    kind, _, resource = selector["resource"].partition(".")
    resources = container.get("resources") or {}
    amount = (resources.get(kind) or {}).get(resource)
    if amount is None and kind == "limits":
        amount = allocatable.get(resource)
    divisor = parse_quantity(selector.get("divisor") or "1", target="divisor") or Decimal(1)
    return str(math.ceil(parse_quantity(amount or "0", target=selector["resource"]) / divisor))
