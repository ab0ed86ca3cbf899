"""What an authenticated caller may do. Every authenticated caller may do everything: RBAC objects are stored and not evaluated yet."""

from __future__ import annotations

from moorage.embedded.tokens import User
from moorage.errors import Forbidden


def authorize(user: User, verb: str, group: str, resource: str, *, namespace: str = "", name: str = "") -> None:
    """Raise Forbidden unless `user` may do `verb` on the resource (`pods`, `pods/log`)."""
    if "system:authenticated" not in user.groups:
        place = f' in the namespace "{namespace}"' if namespace else " at the cluster scope"
        raise Forbidden(
            f'{resource} "{name}" is forbidden: User "{user.name}" cannot {verb} resource "{resource}" in API group "{group}"{place}'
        )
