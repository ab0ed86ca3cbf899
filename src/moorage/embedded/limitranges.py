"""LimitRanges: the defaults they give to containers and the bounds they hold pods and claims to (plugin/pkg/admission/limitranger). Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any

from moorage.embedded.quantities import canonical
from moorage.errors import Forbidden, Invalid
from moorage.specs.manifest import Manifest
from moorage.specs.quantities import parse_quantity

_ANNOTATION = "kubernetes.io/limit-ranger"
_TYPES = ("Pod", "Container", "PersistentVolumeClaim")
Quantities = Mapping[str, Any]


def default(pod: Manifest, ranges: Sequence[Manifest]) -> None:
    """Give containers without them the requests and limits of the namespace's ranges, in place, and note in an annotation which."""
    notes: list[str] = []
    spec = pod["spec"]
    for limits, requests in (_defaults(one) for one in ranges):
        for place, words in (("containers", "container"), ("initContainers", "init container")):
            for container in spec.get(place) or ():
                notes += _complete(container, words, limits, requests)
    if notes:
        annotations = pod["metadata"].get("annotations") or {}
        pod["metadata"]["annotations"] = {**annotations, _ANNOTATION: f"LimitRanger plugin set: {'; '.join(notes)}"}


def _defaults(found: Manifest) -> tuple[Quantities, Quantities]:
    limits: dict[str, Any] = {}
    requests: dict[str, Any] = {}
    for item in _items(found, "Container"):
        limits |= item.get("default") or {}
        requests |= item.get("defaultRequest") or {}
    return limits, requests


def _complete(container: dict[str, Any], words: str, limits: Quantities, requests: Quantities) -> list[str]:
    notes = []
    resources = container.setdefault("resources", {})
    for place, singular, wanted in (("limits", "limit", limits), ("requests", "request", requests)):
        present = resources.get(place) or {}
        missing = {name: value for name, value in wanted.items() if name not in present}
        if missing:
            resources[place] = {**present, **missing}
            notes.append((singular, f"{', '.join(sorted(missing))} {singular} for {words} {container['name']}"))
    # Requests are told first.
    return [note for _, note in sorted(notes, key=lambda one: one[0] != "request")]


def check(kind: str, name: str, manifest: Manifest, ranges: Sequence[Manifest]) -> None:
    """Forbidden, with everything that a Pod's or PersistentVolumeClaim's resources violate."""
    found: list[str] = []
    for one in ranges:
        if kind == "Pod":
            found += _pod(manifest["spec"], one)
        else:
            asked = (manifest["spec"].get("resources") or {}).get("requests") or {}
            for item in _items(one, "PersistentVolumeClaim"):
                found += _bounds(item, "PersistentVolumeClaim", asked, {}, only_requests=True)
    if found:
        plural = "pods" if kind == "Pod" else "persistentvolumeclaims"
        text = found[0] if len(found) == 1 else f"[{', '.join(found)}]"
        raise Forbidden(f'{plural} "{name}" is forbidden: {text}', target=name)


def _pod(spec: Mapping[str, Any], found: Manifest) -> list[str]:
    messages: list[str] = []
    for item in (found.get("spec") or {}).get("limits") or ():
        if item.get("type") == "Container":
            for container in (*(spec.get("containers") or ()), *(spec.get("initContainers") or ())):
                resources = container.get("resources") or {}
                messages += _bounds(item, "Container", resources.get("requests") or {}, resources.get("limits") or {})
        elif item.get("type") == "Pod":
            messages += _bounds(item, "Pod", _total(spec, "requests"), _total(spec, "limits"))
    return messages


def _total(spec: Mapping[str, Any], place: str) -> Quantities:
    """The pod's sum; an init container counts where it asks for more than all others together. A resource counts when every container names it."""
    containers = [(c.get("resources") or {}).get(place) or {} for c in spec.get("containers") or ()]
    total = {
        name: sum((_amount(one[name]) for one in containers), Decimal(0))
        for name in (containers[0] if containers else {})
        if all(name in one for one in containers)
    }
    for container in spec.get("initContainers") or ():
        for name, value in ((container.get("resources") or {}).get(place) or {}).items():
            total[name] = max(total.get(name, Decimal(0)), _amount(value))
    return {name: canonical(_plain(value)) for name, value in total.items()}


def _bounds(item: Manifest, type_: str, requests: Quantities, limits: Quantities, *, only_requests: bool = False) -> list[str]:
    found: list[str] = []
    for name, least in sorted((item.get("min") or {}).items()):
        found += _least(name, least, type_, requests, limits)
    for name, most in sorted((item.get("max") or {}).items()):
        found += _most(name, most, type_, requests, limits, only_requests=only_requests)
    for name, ratio in sorted((item.get("maxLimitRequestRatio") or {}).items()):
        found += _ratio(name, ratio, type_, requests, limits)
    return found


def _least(name: str, least: Any, type_: str, requests: Quantities, limits: Quantities) -> list[str]:
    head = f"minimum {name} usage per {type_} is {least}"
    if name not in requests:
        return [f"{head}.  No request is specified"]
    if _amount(requests[name]) < _amount(least):
        return [f"{head}, but request is {requests[name]}"]
    if name in limits and _amount(limits[name]) < _amount(least):
        return [f"{head}, but limit is {limits[name]}"]
    return []


def _most(name: str, most: Any, type_: str, requests: Quantities, limits: Quantities, *, only_requests: bool) -> list[str]:
    head = f"maximum {name} usage per {type_} is {most}"
    if only_requests:
        asked = requests.get(name)
        return [f"{head}, but request is {asked}"] if asked is not None and _amount(asked) > _amount(most) else []
    if name not in limits:
        return [f"{head}.  No limit is specified"]
    if _amount(limits[name]) > _amount(most):
        return [f"{head}, but limit is {limits[name]}"]
    if name in requests and _amount(requests[name]) > _amount(most):
        return [f"{head}, but request is {requests[name]}"]
    return []


def _ratio(name: str, ratio: Any, type_: str, requests: Quantities, limits: Quantities) -> list[str]:
    head = f"{name} max limit to request ratio per {type_} is {ratio}"
    request, limit = _amount(requests.get(name, 0)), _amount(limits.get(name, 0))
    if not request or name not in requests:
        return [f"{head}, but no request is specified or request is 0"]
    if not limit or name not in limits:
        return [f"{head}, but no limit is specified or limit is 0"]
    found = limit / request
    return [f"{head}, but provided ratio is {found:.6f}"] if found > _amount(ratio) else []


def complete(found: Manifest) -> None:
    """Defaults of a Container item, in place: what is not said follows from what is (pkg/apis/core/v1/defaults.go)."""
    for item in _items(found, "Container"):
        limits, requests = dict(item.get("default") or {}), dict(item.get("defaultRequest") or {})
        for name, value in (item.get("max") or {}).items():
            limits.setdefault(name, value)
        for name, value in limits.items():
            requests.setdefault(name, value)
        for name, value in (item.get("min") or {}).items():
            requests.setdefault(name, value)
        for place, values in (("default", limits), ("defaultRequest", requests)):
            if values:
                item[place] = values


def invalid_fields(found: Manifest) -> Iterable[Invalid]:
    """What is wrong with a LimitRange."""
    seen: set[str] = set()
    for index, item in enumerate((found.get("spec") or {}).get("limits") or ()):
        path, type_ = f"spec.limits[{index}]", str(item.get("type") or "")
        if type_ in seen:
            yield Invalid(f'Duplicate value: "{type_}"', code="FieldValueDuplicate", target=f"{path}.type")
        seen.add(type_)
        if type_ not in _TYPES and "/" not in type_:
            words = "must be a standard limit type or fully qualified"
            yield Invalid(f'Invalid value: "{type_}": {words}', code="FieldValueInvalid", target=f"{path}.type")
        if type_ == "Pod":
            for place in ("default", "defaultRequest"):
                if item.get(place):
                    yield Invalid(
                        "Forbidden: may not be specified when `type` is 'Pod'", code="FieldValueForbidden", target=f"{path}.{place}"
                    )
        if type_ == "PersistentVolumeClaim" and "storage" not in {**(item.get("min") or {}), **(item.get("max") or {})}:
            words = "Required value: either minimum or maximum storage value is required, but neither was provided"
            yield Invalid(words, code="FieldValueRequired", target=f"{path}.limits")
        yield from _order(item, path)


def _order(item: Manifest, path: str) -> Iterable[Invalid]:
    names = {name for place in ("min", "max", "default", "defaultRequest", "maxLimitRequestRatio") for name in item.get(place) or ()}
    for name in sorted(names):
        values = {place: (item.get(place) or {}).get(name) for place in ("min", "max", "default", "defaultRequest", "maxLimitRequestRatio")}
        least, most, limit, request, ratio = values.values()

        def wrong(place: str, value: Any, words: str, name: str = name) -> Invalid:
            return Invalid(f'Invalid value: "{value}": {words}', code="FieldValueInvalid", target=f"{path}.{place}[{name}]")

        if _more(least, most):
            yield wrong("min", least, f"min value {least} is greater than max value {most}")
        if _more(least, request):
            yield wrong("defaultRequest", request, f"min value {least} is greater than default request value {request}")
        if _more(request, most):
            yield wrong("defaultRequest", request, f"default request value {request} is greater than max value {most}")
        if _more(request, limit):
            yield wrong("defaultRequest", request, f"default request value {request} is greater than default limit value {limit}")
        if _more(least, limit):
            yield wrong("default", least, f"min value {least} is greater than default value {limit}")
        if _more(limit, most):
            yield wrong("default", most, f"default value {limit} is greater than max value {most}")
        if ratio is not None and _amount(ratio) < 1:
            yield wrong("maxLimitRequestRatio", ratio, f"ratio {ratio} is less than 1")
        if (
            ratio is not None
            and least is not None
            and most is not None
            and _amount(least)
            and _amount(ratio) > _amount(most) / _amount(least)
        ):
            found = _amount(most) / _amount(least)
            yield wrong("maxLimitRequestRatio", ratio, f"ratio {ratio} is greater than max/min = {found:.6f}")


def _more(one: Any, other: Any) -> bool:
    return one is not None and other is not None and _amount(one) > _amount(other)


def _items(found: Manifest, type_: str) -> list[Manifest]:
    return [item for item in (found.get("spec") or {}).get("limits") or () if item.get("type") == type_]


def _amount(value: Any) -> Decimal:
    return parse_quantity(value, target="limits")


def _plain(value: Decimal) -> str:
    return format(value, "f")
