"""What rules of roles say: whether one allows a request, whether some cover others, and how Kubernetes words a refusal. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from moorage.embedded.users import User


@dataclass(frozen=True, slots=True)
class Rule:
    """A PolicyRule."""

    verbs: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    resources: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    urls: tuple[str, ...] = ()


# What cluster-admin may do.
EVERYTHING = (Rule(("*",), ("*",), ("*",)), Rule(("*",), urls=("*",)))


@dataclass(frozen=True, slots=True)
class Attributes:
    """What a request wants to do. `path` is set for what is no resource (`/version`), and then only it and `verb` count."""

    verb: str
    group: str = ""
    resource: str = ""
    subresource: str = ""
    namespace: str = ""
    name: str = ""
    path: str = ""

    @property
    def combined(self) -> str:
        return f"{self.resource}/{self.subresource}" if self.subresource else self.resource


def parse_rules(rules: Sequence[Mapping[str, Any]] | None) -> tuple[Rule, ...]:
    """The rules of a stored role."""
    return tuple(
        Rule(
            tuple(rule.get("verbs") or ()),
            tuple(rule.get("apiGroups") or ()),
            tuple(rule.get("resources") or ()),
            tuple(rule.get("resourceNames") or ()),
            tuple(rule.get("nonResourceURLs") or ()),
        )
        for rule in rules or ()
    )


def allows(rule: Rule, asked: Attributes) -> bool:
    """Whether the rule allows it (kubernetes/pkg/apis/rbac/v1/evaluation_helpers.go)."""
    if "*" not in rule.verbs and asked.verb not in rule.verbs:
        return False
    if asked.path:
        return any(url in ("*", asked.path) or (url.endswith("*") and asked.path.startswith(url.rstrip("*"))) for url in rule.urls)
    if "*" not in rule.groups and asked.group not in rule.groups:
        return False
    named = "*" in rule.resources or asked.combined in rule.resources
    if not named and not (asked.subresource and f"*/{asked.subresource}" in rule.resources):
        return False
    return not rule.names or asked.name in rule.names


def uncovered(owned: Sequence[Rule], wanted: Iterable[Rule]) -> list[Rule]:
    """The parts of `wanted` that no rule of `owned` covers, each with one verb, one resource and one name at most."""
    return [part for rule in wanted for part in _parts(rule) if not any(_covers(own, part) for own in owned)]


def _parts(rule: Rule) -> Iterator[Rule]:
    for group in rule.groups:
        for resource in rule.resources:
            for verb in rule.verbs:
                whole = Rule((verb,), (group,), (resource,))
                yield from (replace(whole, names=(name,)) for name in rule.names) if rule.names else (whole,)
    for url in rule.urls:
        yield from (Rule((verb,), urls=(url,)) for verb in rule.verbs)


def _covers(own: Rule, part: Rule) -> bool:
    if "*" not in own.verbs and part.verbs[0] not in own.verbs:
        return False
    if part.urls:
        url = part.urls[0]
        return not own.names and any(had == url or (had.endswith("*") and url.startswith(had.rstrip("*"))) for had in own.urls)
    if "*" not in own.groups and part.groups[0] not in own.groups:
        return False
    if own.names and (not part.names or part.names[0] not in own.names):
        return False
    resource = part.resources[0]
    _, slash, subresource = resource.partition("/")
    return "*" in own.resources or resource in own.resources or bool(slash and f"*/{subresource}" in own.resources)


def describe(parts: Iterable[Rule]) -> list[str]:
    """Rules as Kubernetes lists them in a refusal to grant them, verbs of one resource together, sorted."""
    merged: dict[tuple[Any, ...], tuple[str, ...]] = {}
    lines = []
    for part in parts:
        if part.urls:
            lines.append(_line(part))
        else:
            place = (part.groups, part.resources, part.names)
            merged[place] = merged.get(place, ()) + part.verbs
    lines += [_line(Rule(verbs, *place)) for place, verbs in merged.items()]
    return sorted(set(lines))


def _line(rule: Rule) -> str:
    shown = (
        ("APIGroups", rule.groups),
        ("Resources", rule.resources),
        ("NonResourceURLs", rule.urls),
        ("ResourceNames", rule.names),
        ("Verbs", rule.verbs),
    )
    return "{" + ", ".join(f"{name}:{quoted(values)}" for name, values in shown if values) + "}"


def quoted(words: Iterable[str]) -> str:
    """Words as Go prints them with %q."""
    return "[" + " ".join(f'"{word}"' for word in words) + "]"


def refusal(user: User, asked: Attributes, reason: str = "") -> str:
    """The message of a 403 (apiserver/pkg/endpoints/handlers/responsewriters/errors.go)."""
    if asked.path:
        text = f'forbidden: User "{user.name}" cannot {asked.verb} path "{asked.path}"'
    else:
        place = f'in the namespace "{asked.namespace}"' if asked.namespace else "at the cluster scope"
        what = f"{asked.resource}.{asked.group}" if asked.group else asked.resource
        named = f'{what} "{asked.name}"' if asked.name else what
        text = (
            f'{named} is forbidden: User "{user.name}" cannot {asked.verb} resource "{asked.combined}" in API group "{asked.group}" {place}'
        )
    # Kubernetes escapes what a browser might take for HTML.
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return f"{text}: {reason}" if reason else text
