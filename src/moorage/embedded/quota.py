"""ResourceQuotas: what an object uses, which quotas it counts for, and whether it still fits (pkg/quota/v1, admission plugin resourcequota). Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any

from moorage.embedded.quantities import canonical
from moorage.errors import Forbidden, Invalid
from moorage.specs.manifest import Manifest
from moorage.specs.quantities import parse_quantity

Usage = dict[str, Decimal]

_COMPUTE = ("cpu", "memory", "ephemeral-storage")
_POD_RESOURCES = frozenset({"pods", *_COMPUTE, *(f"requests.{name}" for name in _COMPUTE), *(f"limits.{name}" for name in _COMPUTE)})
# What every container has to name when a quota counts it; Kubernetes regrets the rule and keeps it to these.
_REQUIRED = ("cpu", "limits.cpu", "limits.memory", "memory", "requests.cpu", "requests.memory")
_COUNTED = {
    ("", "configmaps"), ("", "secrets"), ("", "services"), ("", "replicationcontrollers"), ("", "resourcequotas"), ("", "persistentvolumeclaims"),
}  # fmt: skip
_STANDARD = _POD_RESOURCES | {plural for _, plural in _COUNTED} | {"requests.storage", "services.nodeports", "services.loadbalancers"}
_CLASS = ".storageclass.storage.k8s.io/"
SCOPES = ("Terminating", "NotTerminating", "BestEffort", "NotBestEffort", "PriorityClass", "CrossNamespacePodAffinity")


# Using.


def usage(group: str, plural: str, manifest: Manifest) -> Usage:
    """What one object counts for, by the names that quotas use."""
    found: Usage = {f"count/{plural}.{group}" if group else f"count/{plural}": Decimal(1)}
    match (group, plural):
        case ("", "pods"):
            if (manifest.get("status") or {}).get("phase") not in ("Succeeded", "Failed"):
                found |= _pod(manifest)
        case ("", "services"):
            found |= {"services": Decimal(1), **_service(manifest.get("spec") or {})}
        case ("", "persistentvolumeclaims"):
            found |= _claim(manifest)
        case place if place in _COUNTED:
            found[plural] = Decimal(1)
    return found


def _pod(pod: Manifest) -> Usage:
    found = {"pods": Decimal(1)}
    for name, amount in _pod_total(pod, "requests").items():
        found[f"requests.{name}"] = amount
        if name in _COMPUTE or name.startswith("hugepages-"):
            found[name] = amount
    found |= {f"limits.{name}": amount for name, amount in _pod_total(pod, "limits").items()}
    return found


def _pod_total(pod: Manifest, place: str) -> Usage:
    """Containers and sidecars together, or an init container with the sidecars before it, whichever is more; and the overhead."""
    spec = pod.get("spec") or {}
    total: Usage = {}
    for container in spec.get("containers") or ():
        _add(total, _amounts(container, place))
    sidecars: Usage = {}
    peak: Usage = {}
    for container in spec.get("initContainers") or ():
        asked = _amounts(container, place)
        if container.get("restartPolicy") == "Always":
            _add(sidecars, asked)
            _add(total, asked)
            asked = {}
        for name in {**sidecars, **asked}:
            peak[name] = max(peak.get(name, Decimal(0)), sidecars.get(name, Decimal(0)) + asked.get(name, Decimal(0)))
    for name, amount in peak.items():
        total[name] = max(total.get(name, Decimal(0)), amount)
    if place == "requests" or total:
        _add(total, {name: _amount(value) for name, value in (spec.get("overhead") or {}).items()})
    return total


def _amounts(container: Mapping[str, Any], place: str) -> Usage:
    return {name: _amount(value) for name, value in ((container.get("resources") or {}).get(place) or {}).items()}


def _service(spec: Mapping[str, Any]) -> Usage:
    ports = Decimal(len(spec.get("ports") or ()))
    match spec.get("type"):
        case "NodePort":
            return {"services.nodeports": ports}
        case "LoadBalancer":
            without = spec.get("allocateLoadBalancerNodePorts") is False
            return {"services.loadbalancers": Decimal(1), "services.nodeports": Decimal(0) if without else ports}
    return {}


def _claim(claim: Manifest) -> Usage:
    spec = claim.get("spec") or {}
    found = {"persistentvolumeclaims": Decimal(1)}
    storage = _amount(((spec.get("resources") or {}).get("requests") or {}).get("storage", "0"))
    found["requests.storage"] = storage
    if class_ := spec.get("storageClassName"):
        found[f"{class_}{_CLASS}persistentvolumeclaims"] = Decimal(1)
        found[f"{class_}{_CLASS}requests.storage"] = storage
    return found


def total(usages: Iterable[Usage]) -> Usage:
    found: Usage = {}
    for one in usages:
        _add(found, one)
    return found


def _add(into: Usage, amounts: Mapping[str, Decimal]) -> None:
    for name, amount in amounts.items():
        into[name] = into.get(name, Decimal(0)) + amount


# Matching.


def counts(quota: Manifest, group: str, plural: str, manifest: Manifest) -> bool:
    """Whether an object falls under a quota's scopes. Only pods have scopes: a quota with some counts nothing else."""
    spec = quota.get("spec") or {}
    wanted = [(scope, "Exists", ()) for scope in spec.get("scopes") or ()]
    for term in (spec.get("scopeSelector") or {}).get("matchExpressions") or ():
        wanted.append((term.get("scopeName"), term.get("operator"), tuple(term.get("values") or ())))
    if not wanted:
        return True
    return (group, plural) == ("", "pods") and all(_in_scope(*one, manifest) for one in wanted)


def _in_scope(scope: str, operator: str, values: Sequence[str], pod: Manifest) -> bool:
    spec = pod.get("spec") or {}
    match scope:
        case "Terminating":
            return spec.get("activeDeadlineSeconds") is not None
        case "NotTerminating":
            return spec.get("activeDeadlineSeconds") is None
        case "BestEffort":
            return _best_effort(spec)
        case "NotBestEffort":
            return not _best_effort(spec)
        case "PriorityClass":
            name = spec.get("priorityClassName") or ""
            return {"In": name in values, "NotIn": name not in values, "Exists": bool(name), "DoesNotExist": not name}.get(operator, False)
        case "CrossNamespacePodAffinity":
            return _across(spec)
    return False


def _best_effort(spec: Mapping[str, Any]) -> bool:
    for place in ("containers", "initContainers"):
        for container in spec.get(place) or ():
            resources = container.get("resources") or {}
            if any(name in (resources.get(where) or {}) for where in ("limits", "requests") for name in ("cpu", "memory")):
                return False
    return True


def _across(spec: Mapping[str, Any]) -> bool:
    affinity = spec.get("affinity") or {}
    terms: list[Mapping[str, Any]] = []
    for kind in ("podAffinity", "podAntiAffinity"):
        found = affinity.get(kind) or {}
        terms += found.get("requiredDuringSchedulingIgnoredDuringExecution") or ()
        terms += [one.get("podAffinityTerm") or {} for one in found.get("preferredDuringSchedulingIgnoredDuringExecution") or ()]
    return any(term.get("namespaces") or term.get("namespaceSelector") is not None for term in terms)


# Holding to it.


def check(
    group: str, plural: str, before: Manifest | None, after: Manifest, quotas: Sequence[Manifest], used: Callable[[Manifest], Usage]
) -> None:
    """Forbidden when what the object adds does not fit a quota; `used` tells what a quota's other objects use now."""
    name = after["metadata"]["name"]
    head = f'{plural}{f".{group}" if group else ""} "{name}" is forbidden'
    wanted = usage(group, plural, after)
    if before is not None:
        if (group, plural) == ("", "pods"):
            return
        wanted = {name: amount - usage(group, plural, before).get(name, Decimal(0)) for name, amount in wanted.items()}
    added = {name: amount for name, amount in wanted.items() if amount > 0}
    for quota in quotas:
        hard = hard_of(quota)
        if not counts(quota, group, plural, after):
            continue
        if (group, plural) == ("", "pods"):
            _require(head, quota, hard, after)
        if not any(name in hard for name in added):
            continue
        now = used(quota)
        over = sorted(name for name in added if name in hard and now.get(name, Decimal(0)) + added[name] > _amount(hard[name]))
        if over:
            asked, present = ({n: _shown(values.get(n, Decimal(0)), hard[n]) for n in over} for values in (added, now))
            told = [",".join(f"{n}={values[n]}" for n in over) for values in (asked, present, hard)]
            raise Forbidden(
                f"{head}: exceeded quota: {quota['metadata']['name']}, requested: {told[0]}, used: {told[1]}, limited: {told[2]}",
                target=name,
            )


def _require(head: str, quota: Manifest, hard: Mapping[str, Any], pod: Manifest) -> None:
    spec = pod["spec"]
    if spec.get("resources"):
        return
    missing = []
    for wanted in _REQUIRED:
        if wanted not in hard:
            continue
        place, resource = ("limits", wanted[7:]) if wanted.startswith("limits.") else ("requests", wanted.removeprefix("requests."))
        without = [
            container["name"]
            for container in (*(spec.get("containers") or ()), *(spec.get("initContainers") or ()))
            if resource not in ((container.get("resources") or {}).get(place) or {})
        ]
        if without:
            missing.append(f"{wanted} for: {','.join(sorted(without))}")
    if missing:
        raise Forbidden(
            f"{head}: failed quota: {quota['metadata']['name']}: must specify {'; '.join(missing)}", target=pod["metadata"]["name"]
        )


def hard_of(quota: Manifest) -> Mapping[str, Any]:
    return (quota.get("spec") or {}).get("hard") or {}


def status(quota: Manifest, used: Usage) -> Manifest:
    """A quota's status: its limits, and how much of each is used."""
    hard = hard_of(quota)
    return {"hard": dict(hard), "used": {name: _shown(used.get(name, Decimal(0)), hard[name]) for name in hard}}


def places(quota: Manifest) -> set[tuple[str, str]]:
    """The (group, plural) of everything a quota counts."""
    found: set[tuple[str, str]] = set()
    for name in hard_of(quota):
        if name.startswith("count/"):
            plural, _, group = name.removeprefix("count/").partition(".")
            found.add((group, plural))
        elif name.startswith("services"):
            found.add(("", "services"))
        elif name == "requests.storage" or _CLASS in name:
            found.add(("", "persistentvolumeclaims"))
        elif ("", name) in _COUNTED:
            found.add(("", name))
        else:
            found.add(("", "pods"))
    return found


def invalid_fields(quota: Manifest) -> Iterable[Invalid]:
    """What is wrong with a ResourceQuota."""
    for name, value in hard_of(quota).items():
        path = f"spec.hard[{name}]"
        if "/" not in name and name not in _STANDARD and not name.startswith(("requests.", "hugepages-")):
            for words in ("must be a standard resource type or fully qualified", "must be a standard resource for quota"):
                yield Invalid(f'Invalid value: "{name}": {words}', code="FieldValueInvalid", target=path)
        if _amount(value) < 0:
            yield Invalid(f'Invalid value: "{value}": must be greater than or equal to 0', code="FieldValueInvalid", target=path)
    scopes = (quota.get("spec") or {}).get("scopes") or []
    if any(scope not in SCOPES for scope in scopes):
        shown = "[" + ",".join(f'"{scope}"' for scope in scopes) + "]"
        yield Invalid(f"Invalid value: {shown}: unsupported scope", code="FieldValueInvalid", target="spec.scopes")


def _amount(value: Any) -> Decimal:
    return parse_quantity(value, target="quota")


def _shown(amount: Decimal, like: Any) -> str:
    """A sum in the form of the limit it is held against: binary suffixes where that has one."""
    if str(like).endswith("i") and amount and amount % 1024 == 0:
        return canonical(f"{format(amount / 1024, 'f')}Ki")
    return canonical(format(amount, "f"))
