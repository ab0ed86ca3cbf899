"""Callers of the API as everything behind the door sees them."""

from __future__ import annotations

from dataclasses import dataclass

MASTERS = "system:masters"
AUTHENTICATED = "system:authenticated"
UNAUTHENTICATED = "system:unauthenticated"
ANONYMOUS_NAME = "system:anonymous"
ACCOUNT_PREFIX = "system:serviceaccount:"


@dataclass(frozen=True, slots=True)
class User:
    """A caller. `extra` holds what the authenticator knows beyond name and groups, such as the pod that a token is bound to."""

    name: str
    groups: tuple[str, ...] = ()
    uid: str = ""
    extra: tuple[tuple[str, tuple[str, ...]], ...] = ()

    @property
    def all_powerful(self) -> bool:
        """Members of system:masters are asked nothing: the way in that no role can close."""
        return MASTERS in self.groups


ANONYMOUS = User(ANONYMOUS_NAME, (UNAUTHENTICATED,))


def account_name(user_name: str) -> tuple[str, str] | None:
    """Namespace and name of the service account that a user name stands for; None for other users."""
    if not user_name.startswith(ACCOUNT_PREFIX):
        return None
    namespace, colon, name = user_name.removeprefix(ACCOUNT_PREFIX).partition(":")
    return (namespace, name) if colon and namespace and name and ":" not in name else None


def account_groups(namespace: str) -> tuple[str, ...]:
    return "system:serviceaccounts", f"system:serviceaccounts:{namespace}"
