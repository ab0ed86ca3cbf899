"""ARM templates: a template and its parameters become the resources to put, in the order of what depends on what. Pure.

Only what `az deployment group create` needs for resources of a workspace: parameters, variables, `copy`, `condition`, `dependsOn`, outputs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from moorage.cli.az.expressions import evaluate
from moorage.errors import Invalid
from moorage.specs.manifest import Manifest

_TYPES: Mapping[str, tuple[type, ...]] = {
    "string": (str,),
    "securestring": (str,),
    "int": (int,),
    "bool": (bool,),
    "object": (dict,),
    "secureobject": (dict,),
    "array": (list,),
}
# Fields of a resource in a template that are about the deployment, not about the resource.
_OF_TEMPLATE = frozenset({"type", "apiVersion", "name", "dependsOn", "condition", "copy", "comments", "scope", "resources"})
_MOST_COPIES = 800  # ARM's own limit of resources in a template


@dataclass(frozen=True, slots=True)
class Scope:
    """Where a deployment goes."""

    subscription: str
    resource_group: str

    @property
    def id(self) -> str:
        return f"/subscriptions/{self.subscription}/resourceGroups/{self.resource_group}"


@dataclass(frozen=True, slots=True)
class Planned:
    """One resource to put.

    Attributes:
        id: its ARM path.
        body: what is sent.
        needs: paths of resources of the same template that come first.
    """

    id: str
    type: str
    name: str
    body: Manifest
    needs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """What a deployment does.

    Attributes:
        parameters: those in force, with the secure ones left out of `shown`.
        resources: in the order in which they are put.
        outputs: gives the outputs once the resources are there; its argument answers `reference(id)` with a resource's properties.
    """

    parameters: Manifest
    shown: Manifest
    resources: tuple[Planned, ...]
    outputs: Callable[[Callable[[str], Manifest]], Manifest]


def plan(template: Manifest, given: Manifest, scope: Scope, deployment: str) -> Plan:
    """What a template asks for.

    Args:
        template: the template's JSON document.
        given: parameter values by name.
        deployment: the deployment's name, for `deployment().name`.

    Raises:
        Invalid: a parameter is missing, unknown or of another type; an expression is wrong; a resource is of a kind that is not served.
    """
    if not isinstance(template, dict) or not isinstance(template.get("resources"), list | dict):
        raise Invalid("the template has no list of 'resources'; is it an ARM template?", code="InvalidTemplate", target="resources")
    _check_shape(template)
    functions = _surroundings(scope, deployment)
    declared = template.get("parameters") or {}
    parameters = _parameters(declared, given, functions)
    functions["parameters"] = _lookup(parameters, "parameter")
    variables = template.get("variables") or {}
    functions["variables"] = _variables(variables, functions)
    entries = template["resources"]
    resources: list[Planned] = []
    for entry in entries.values() if isinstance(entries, dict) else entries:
        resources.extend(_resource(entry, scope, functions))
    secure = {name for name, told in declared.items() if _is_secure(told)}
    shown = {
        name: {"type": str(declared[name].get("type")), **({} if name in secure else {"value": value})}
        for name, value in parameters.items()
    }
    return Plan(parameters, shown, _ordered(resources), _outputs(template.get("outputs") or {}, functions))


def _check_shape(template: Manifest) -> None:
    """Invalid, with the place, where something is no object or list that must be one."""
    wanted: list[tuple[str, Any, type]] = []
    for part in ("parameters", "variables", "outputs"):
        wanted.append((part, template.get(part) or {}, dict))
    for part in ("parameters", "outputs"):
        declared = template.get(part) or {}
        for name, each in declared.items() if isinstance(declared, dict) else ():
            allowed = each.get("allowedValues") if isinstance(each, dict) else None
            wanted += [(f"{part}.{name}", each, dict), (f"{part}.{name}.allowedValues", allowed or [], list)]
    entries = template["resources"]
    for index, entry in entries.items() if isinstance(entries, dict) else enumerate(entries):
        where = f"resources[{index}]"
        wanted.append((where, entry, dict))
        if isinstance(entry, dict):
            wanted += [(f"{where}.copy", entry.get("copy") or {}, dict), (f"{where}.dependsOn", entry.get("dependsOn") or [], list)]
    for where, found, type_ in wanted:
        if not isinstance(found, type_):
            what = "an object" if type_ is dict else "a list"
            raise Invalid(f"the template's {where} must be {what}.", code="InvalidTemplate", target=where)


def _is_secure(told: Manifest) -> bool:
    """Whether its value is shown and kept nowhere."""
    return str(told.get("type", "")).lower().startswith("secure")


def _surroundings(scope: Scope, deployment: str) -> dict[str, Callable[..., Any]]:
    group = {"id": scope.id, "name": scope.resource_group, "location": "local", "tags": {}}
    return {
        "subscription": lambda: {"id": f"/subscriptions/{scope.subscription}", "subscriptionId": scope.subscription, "tenantId": "moorage"},
        "resourcegroup": lambda: group,
        "deployment": lambda: {"name": deployment},
        "resourceid": lambda *parts: _resource_id(scope, parts),
    }


def _lookup(values: Manifest, what: str) -> Callable[[str], Any]:
    def find(name: str) -> Any:
        for each, value in values.items():
            if each.lower() == name.lower():
                return value
        raise Invalid(f"the template has no {what} '{name}'; there are {', '.join(values) or 'none'}.", code="InvalidTemplate", target=name)

    return find


def _variables(declared: Manifest, functions: dict[str, Callable[..., Any]]) -> Callable[[str], Any]:
    """Variables may speak of one another: each is evaluated when asked for, once; a circle is refused."""
    found: Manifest = {}
    open_: list[str] = []
    by_lower = {name.lower(): name for name in declared}

    def value(name: str) -> Any:
        known = by_lower.get(name.lower())
        if known is None:
            return _lookup(declared, "variable")(name)
        if known not in found:
            if known in open_:
                raise Invalid(f"the template's variable '{known}' is defined by itself.", code="InvalidTemplate", target=known)
            open_.append(known)
            found[known] = evaluate(declared[known], functions)
            open_.pop()
        return found[known]

    functions["variables"] = value
    return value


def _parameters(declared: Manifest, given: Manifest, functions: dict[str, Callable[..., Any]]) -> Manifest:
    by_lower = {name.lower(): name for name in declared}
    for name in given:
        if name.lower() not in by_lower:
            raise Invalid(
                f"the template has no parameter '{name}'; there are {', '.join(declared) or 'none'}.", code="InvalidTemplate", target=name
            )
    values = {by_lower[name.lower()]: value for name, value in given.items()}
    missing = [name for name, told in declared.items() if name not in values and "defaultValue" not in told]
    if missing:
        raise Invalid(
            f"the parameter '{missing[0]}' has no value; give it with --parameters {missing[0]}=VALUE.",
            code="InvalidTemplate",
            target=missing[0],
        )
    found: Manifest = {}
    for name, told in declared.items():
        if name in values:
            found[name] = _typed(name, values[name], told)
        else:
            found[name] = evaluate(told["defaultValue"], {**functions, "parameters": _lookup(found, "parameter")})
    return found


def _typed(name: str, value: Any, told: Manifest) -> Any:
    kind = str(told.get("type", "string")).lower()
    if kind not in _TYPES:
        raise Invalid(f"the parameter '{name}' is of the unknown type '{told.get('type')}'.", code="InvalidTemplate", target=name)
    if isinstance(value, str) and kind not in ("string", "securestring"):
        value = _from_text(value, kind)
    if kind in ("string", "securestring") and isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, _TYPES[kind]) or (kind == "int" and isinstance(value, bool)):
        raise Invalid(f"the parameter '{name}' must be of the type {kind}, and what was given is not.", code="InvalidTemplate", target=name)
    allowed = told.get("allowedValues")
    if allowed and value not in allowed:
        raise Invalid(f"the parameter '{name}' must be one of {', '.join(map(str, allowed))}.", code="InvalidTemplate", target=name)
    return value


def _from_text(text: str, kind: str) -> Any:
    import json

    if kind == "bool" and text.lower() in ("true", "false"):
        return text.lower() == "true"
    if kind == "int" and re.fullmatch(r"-?\d+", text):
        return int(text)
    try:
        return json.loads(text)
    except ValueError:
        return text


def _resource_id(scope: Scope, parts: tuple[Any, ...]) -> str:
    words = [str(part) for part in parts]
    place = scope.id
    while words and "/" not in words[0]:
        # One word before the type is a resource group, two are a subscription and a resource group.
        rest = words[1:]
        if rest and "/" not in rest[0]:
            place = f"/subscriptions/{words[0]}/resourceGroups/{rest[0]}"
            words = rest[1:]
        else:
            place = f"/subscriptions/{scope.subscription}/resourceGroups/{words[0]}"
            words = rest
    if not words:
        raise Invalid("resourceId() needs a type and names.", code="InvalidTemplate", target="resourceId")
    return f"{place}/{_path(words[0], words[1:])}"


def _path(type_: str, names: list[str]) -> str:
    provider, *kinds = type_.split("/")
    if len(kinds) != len(names) or not all(names):
        raise Invalid(
            f"a resource of type {type_} is named by {len(kinds)} parts, and '{'/'.join(names)}' has {len(names)}.",
            code="InvalidTemplate",
            target="name",
        )
    return "/".join(["providers", provider, *(word for pair in zip(kinds, names, strict=True) for word in pair)])


def _resource(entry: Manifest, scope: Scope, functions: dict[str, Callable[..., Any]]) -> list[Planned]:
    loop = entry.get("copy")
    if loop is None:
        return _one(entry, scope, functions)
    count = evaluate(loop.get("count"), functions)
    if not isinstance(count, int) or isinstance(count, bool) or not 0 <= count <= _MOST_COPIES:
        raise Invalid(f"copy.count must be a number from 0 to {_MOST_COPIES}.", code="InvalidTemplate", target="copy.count")
    found = []
    for index in range(count):
        own = {**functions, "copyindex": lambda *given, index=index: index + next((each for each in given if isinstance(each, int)), 0)}
        found.extend(_one(entry, scope, own))
    return found


def _one(entry: Manifest, scope: Scope, functions: dict[str, Callable[..., Any]]) -> list[Planned]:
    type_ = str(entry.get("type", ""))
    if "condition" in entry and not evaluate(entry["condition"], functions):
        return []
    provider = type_.partition("/")[0].lower()
    if provider != "microsoft.machinelearningservices":
        raise Invalid(
            f"resources of type '{type_}' are not served here: templates may hold resources of Microsoft.MachineLearningServices.",
            code="InvalidTemplate",
            target="type",
        )
    if entry.get("resources"):
        raise Invalid(
            "resources within a resource are not supported; list them beside it, with their full names.",
            code="InvalidTemplate",
            target="resources",
        )
    name = str(evaluate(entry.get("name", ""), functions))
    body = evaluate({key: value for key, value in entry.items() if key not in _OF_TEMPLATE}, functions)
    needs = tuple(str(evaluate(each, functions)) for each in entry.get("dependsOn") or ())
    return [Planned(f"{scope.id}/{_path(type_, name.split('/'))}", type_, name, body, needs)]


def _ordered(resources: list[Planned]) -> tuple[Planned, ...]:
    """Each after what it depends on and after the resource it lies in; otherwise in the template's order."""
    by_id = {each.id.lower(): each for each in resources}
    if len(by_id) != len(resources):
        raise Invalid("two resources of the template have the same type and name.", code="InvalidTemplate", target="resources")

    def needed(each: Planned) -> tuple[str, ...]:
        own = each.id.lower()
        named = [other.id for need in each.needs for other in resources if need.lower() in (other.id.lower(), other.name.lower())]
        return tuple(dict.fromkeys([*named, *(other.id for id, other in by_id.items() if own.startswith(f"{id}/"))]))

    found: dict[str, Planned] = {}
    open_: set[str] = set()

    def place(each: Planned) -> None:
        if each.id in found:
            return
        if each.id in open_:
            raise Invalid(f"the resource {each.name} depends on itself.", code="InvalidTemplate", target="dependsOn")
        open_.add(each.id)
        needs = needed(each)
        for id in needs:
            place(by_id[id.lower()])
        found[each.id] = replace(each, needs=needs)

    for each in resources:
        place(each)
    return tuple(found.values())


def _outputs(declared: Manifest, functions: Mapping[str, Callable[..., Any]]) -> Callable[[Callable[[str], Manifest]], Manifest]:
    def give(reference: Callable[[str], Manifest]) -> Manifest:
        known = {**functions, "reference": lambda id, *versions: reference(str(id))}
        return {
            name: {"type": told.get("type", "string"), **({} if _is_secure(told) else {"value": evaluate(told.get("value"), known)})}
            for name, told in declared.items()
        }

    return give
