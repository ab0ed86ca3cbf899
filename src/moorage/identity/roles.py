"""Roles: what a user may do below a scope. Minimal on purpose: three roles, scopes are prefixes of ARM ids."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum


class Role(StrEnum):
    READER = "Reader"
    CONTRIBUTOR = "Contributor"
    OWNER = "Owner"


class Action(StrEnum):
    """What a request does. SECRETS reads credentials, MANAGE changes workspaces, clusters and their credentials."""

    READ = "read"
    WRITE = "write"
    SECRETS = "secrets"
    MANAGE = "manage"


_ALLOWED: Mapping[Role, frozenset[Action]] = {
    Role.READER: frozenset({Action.READ}),
    Role.CONTRIBUTOR: frozenset({Action.READ, Action.WRITE, Action.SECRETS}),
    Role.OWNER: frozenset(Action),
}


def decide(roles: Mapping[str, Role], action: Action, scope: str) -> bool:
    """Whether any of the roles allows the action on `scope` (an ARM id), because it was granted on it or on something above it."""
    below = _segments(scope)
    return any(
        action in _ALLOWED[role] and below[: len(above)] == above for granted, role in roles.items() for above in [_segments(granted)]
    )


def _segments(scope: str) -> tuple[str, ...]:
    return tuple(part for part in scope.lower().split("/") if part)
