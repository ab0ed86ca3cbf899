"""The way every request takes before anything is done for it: who asks, as whom, and whether he may."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from moorage.embedded import routes, selectors
from moorage.embedded.authentication import Authenticator, Impersonator, wanted
from moorage.embedded.authorization import Authorizer
from moorage.embedded.guards import WriteGuard
from moorage.embedded.rbac import Attributes
from moorage.embedded.registry import Guard, Registry
from moorage.embedded.routes import Route
from moorage.embedded.tokens import TokenIssuer
from moorage.embedded.users import User

_VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "GET": "get", "HEAD": "get"}


@dataclass(frozen=True, slots=True)
class Admitted:
    """A request that may go on. `route` is None for what is no resource; `guard` is None for those who may do everything."""

    user: User
    route: Route | None
    guard: Guard | None = None


class Gate:
    """Authentication, impersonation and authorization over one registry."""

    def __init__(self, registry: Registry, issuer: TokenIssuer) -> None:
        self.authenticator = Authenticator(registry, issuer)
        self.authorizer = Authorizer(registry.store)
        self._catalog = registry.catalog
        self._impersonator = Impersonator(self.authorizer)

    def admit(self, method: str, path: str, query: Mapping[str, str], headers: Iterable[tuple[bytes, bytes]]) -> Admitted:
        """Who asks for what. Unauthenticated (401) for a bad token, Denied (403) for what the caller may not do.

        Args:
            headers: as they came, names in lower case.
        """
        user = self.authenticator.user(_authorization(headers))
        who = wanted(headers)
        route = routes.parse(path)
        if user.all_powerful and who is None:
            return Admitted(user, route)
        asked = attributes(method, path, query, route)
        if who is not None:
            user = self._impersonator.become(user, who, asked)
        self.authorizer.authorize(user, asked)
        return Admitted(user, route, None if user.all_powerful else WriteGuard(self.authorizer, self._catalog, user))


def _authorization(headers: Iterable[tuple[bytes, bytes]]) -> str:
    return next((value.decode("latin-1") for name, value in headers if name == b"authorization"), "")


def attributes(method: str, path: str, query: Mapping[str, str], route: Route | None) -> Attributes:
    """What is asked for, as the authorizer sees it (apiserver/pkg/endpoints/request/requestinfo.go)."""
    if route is None:
        return Attributes(method.lower(), path=path)
    verb, name, namespace = _VERBS.get(method, ""), route.name, route.namespace or ""
    if method == "DELETE":
        verb = "delete" if name else "deletecollection"
    elif verb == "get" and not name:
        verb = "watch" if query.get("watch", "0").lower() not in ("0", "f", "false") else "list"
        name = selectors.only_name(query.get("fieldSelector", ""))
    if (route.group, route.plural) == ("", "namespaces"):
        # A namespace counts as lying in itself, so that a role in it can allow to read it.
        namespace = route.name
    return Attributes(verb, route.group, route.plural, route.subresource, namespace, name)
