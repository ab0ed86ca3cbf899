"""Where a URL path leads: group, version, resource, namespace, name and subresource."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import unquote


@dataclass(frozen=True, slots=True)
class Route:
    """An address under /api/V or /apis/G/V. `namespace` None spans all of them."""

    group: str
    version: str
    plural: str
    namespace: str | None = None
    name: str = ""
    subresource: str = ""


def parse(path: str) -> Route | None:
    """The route of a resource path; None when the path is none (`/version`, `/apis/apps`)."""
    parts = [unquote(part) for part in path.split("/") if part]
    match parts:
        case ["api", version, *rest]:
            return _within("", version, rest)
        case ["apis", group, version, *rest]:
            return _within(group, version, rest)
        case _:
            return None


def _within(group: str, version: str, rest: list[str]) -> Route | None:
    match rest:
        case []:
            return None
        case ["namespaces", namespace, plural, *more] if plural not in ("status", "finalize") or more:
            return _object(Route(group, version, plural, namespace), more)
        case _:
            return _object(Route(group, version, rest[0]), rest[1:])


def _object(route: Route, more: list[str]) -> Route | None:
    match more:
        case []:
            return route
        case [name]:
            return Route(route.group, route.version, route.plural, route.namespace, name)
        case [name, subresource] | [name, "proxy" as subresource, *_]:
            return Route(route.group, route.version, route.plural, route.namespace, name, subresource)
        case _:
            return None
