"""Bearer tokens of requests: who it is, and whether the role allows the action on the scope."""

from __future__ import annotations

from starlette.requests import Request

from moorage.errors import Forbidden, Unauthenticated
from moorage.identity.roles import Action, decide
from moorage.identity.tokens import Tokens, User


def bearer(request: Request) -> str:
    """The request's bearer token; Unauthenticated when it has none."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise Unauthenticated("The request has no bearer token (header Authorization).", code="AuthenticationRequired")
    return token.strip()


def authenticate(request: Request, tokens: Tokens) -> User:
    return tokens.verify_user(bearer(request))


def require(user: User, action: Action, scope: str) -> None:
    """Forbidden unless one of the user's roles allows it on `scope`, an ARM id."""
    if not decide(user.roles, action, scope):
        raise Forbidden(f"'{user.name}' has no role that allows '{action.value}' on '{scope}'.", code="AuthorizationFailed", target=scope)


def action_of(method: str, path: str) -> Action:
    """What a request does when its route does not say: POST actions that begin with `list` only read."""
    if method in ("GET", "HEAD"):
        return Action.READ
    last = path.rstrip("/").rpartition("/")[2]
    return Action.READ if method == "POST" and last.lower().startswith("list") else Action.WRITE
