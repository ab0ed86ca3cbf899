"""Who a request comes from: its bearer token, checked against what the token ends with, and whom it asks to act as (`kubectl --as`)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import timedelta
from urllib.parse import unquote

from moorage.clock import parse_rfc3339
from moorage.embedded.authorization import Authorizer, Denied
from moorage.embedded.rbac import Attributes, quoted, refusal
from moorage.embedded.registry import Registry
from moorage.embedded.storage import Key
from moorage.embedded.tokens import TokenIssuer, Verified
from moorage.embedded.users import ANONYMOUS, ANONYMOUS_NAME, AUTHENTICATED, MASTERS, UNAUTHENTICATED, User, account_groups, account_name
from moorage.errors import Invalid, Unauthenticated

# What is being deleted for longer than this vouches for nobody any more (jwt.DefaultLeeway).
_LEEWAY = timedelta(minutes=1)
_AUTHENTICATION = "authentication.k8s.io"
_EXTRA_HEADER = "impersonate-extra-"
_NODE_PREFIX = "system:node:"
_MOST_REMEMBERED = 4096
_PLURALS = {"pod": "pods", "secret": "secrets", "node": "nodes"}


class Authenticator:
    """Reads credentials against the objects of one registry."""

    def __init__(self, registry: Registry, issuer: TokenIssuer) -> None:
        self._registry = registry
        self._issuer = issuer

    def user(self, header: str) -> User:
        """The caller of an Authorization header; without a bearer token, the anonymous one. Unauthenticated for a token that is not good."""
        scheme, _, token = header.partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            return ANONYMOUS
        try:
            verified = self.verify(token.strip())
        except Unauthenticated as error:
            raise Unauthenticated("Unauthorized") from error
        if self._issuer.audience not in verified.audiences:
            raise Unauthenticated("Unauthorized")
        return verified.user

    def verify(self, token: str) -> Verified:
        """A token that is ours, of a service account that still exists and bound to nothing that is gone; else Unauthenticated, with the reason."""
        verified = self._issuer.verify(token)
        account = account_name(verified.user.name)
        if account is None:
            return verified
        self._check(Key("", "serviceaccounts", *account), verified.user.uid, f'serviceaccount "{account[1]}" not found')
        for bound in verified.bound:
            # A pod's token names its node for information only.
            if bound.kind == "node" and len(verified.bound) > 1:
                continue
            namespace = "" if bound.kind == "node" else account[0]
            self._check(Key("", _PLURALS[bound.kind], namespace, bound.name), bound.uid, "service account token has been invalidated")
        return verified

    def _check(self, key: Key, uid: str, gone: str) -> None:
        """A token ends with the objects behind it, also when others of their names take their places."""
        found = self._registry.store.get(key)
        if found is None:
            raise Unauthenticated(gone)
        meta = found.manifest()["metadata"]
        ended = meta.get("deletionTimestamp")
        if meta["uid"] != uid or (ended and parse_rfc3339(ended) < self._registry.clock() - _LEEWAY):
            raise Unauthenticated(gone)


@dataclass(frozen=True, slots=True)
class Wanted:
    """Whom the Impersonate headers name."""

    name: str
    uid: str = ""
    groups: tuple[str, ...] = ()
    extra: tuple[tuple[str, tuple[str, ...]], ...] = ()


def wanted(headers: Iterable[tuple[bytes, bytes]]) -> Wanted | None:
    """Whom a request wants to act as, None when only as itself. Headers may repeat. Invalid (400) without a user name."""
    name = uid = ""
    groups: list[str] = []
    extra: dict[str, list[str]] = {}
    for key, raw in headers:
        if not key.startswith(b"impersonate-"):
            continue
        header, value = key.decode("latin-1"), raw.decode("utf-8", "replace")
        if header == "impersonate-user":
            name = name or value
        elif header == "impersonate-uid":
            uid = uid or value
        elif header == "impersonate-group":
            groups.append(value)
        elif header.startswith(_EXTRA_HEADER):
            extra.setdefault(unquote(header.removeprefix(_EXTRA_HEADER)).lower(), []).append(value)
    if name:
        return Wanted(name, uid, tuple(groups), tuple((key, tuple(values)) for key, values in sorted(extra.items())))
    if uid or groups or extra:
        raise Invalid("requested to impersonate groups, a uid or extra fields without impersonating a user name", code="BadRequest")
    return None


class Impersonator:
    """Lets callers act as others whom they may impersonate."""

    def __init__(self, authorizer: Authorizer) -> None:
        self._authorizer = authorizer
        self._last: dict[str, str] = {}

    def become(self, user: User, who: Wanted, asked: Attributes) -> User:
        """The user to go on as. Denied unless `user` may impersonate all of `who`, for this request or (verb `impersonate`) for any.

        The constrained modes, tried first, are those of Kubernetes 1.36 (KEP-5284); a node's own mode needs Node credentials and is left out.
        """
        modes = _modes(who)
        # What has helped this caller before is tried first, and then its refusal is the one that is told.
        last = self._last.get(user.name)
        if last in modes:
            modes = [last, *(mode for mode in modes if mode != last)]
        first: Denied | None = None
        for mode in modes:
            try:
                if mode:
                    self._authorizer.authorize(user, replace(asked, verb=f"impersonate-on:{mode}:{asked.verb}"))
                found = _become(self._authorizer, user, who, mode)
            except Denied as refused:
                first = first or refused
                continue
            if len(self._last) >= _MOST_REMEMBERED:
                self._last.clear()
            self._last[user.name] = mode
            return found
        assert first is not None
        raise first


def _modes(who: Wanted) -> list[str]:
    """Kubernetes' modes that fit, in its order; the empty one is the old `impersonate`."""
    plain = not (who.uid or who.groups or who.extra)
    if who.name.startswith(_NODE_PREFIX):
        return ["arbitrary-node", ""] if plain else [""]
    if account_name(who.name) is not None:
        return ["serviceaccount", ""] if plain else [""]
    return ["user-info", ""]


def _become(authorizer: Authorizer, user: User, who: Wanted, mode: str) -> User:
    verb, group = (f"impersonate:{mode}", _AUTHENTICATION) if mode else ("impersonate", "")
    groups = who.groups
    name = Attributes(verb, group, "users", name=who.name)
    if mode and who.name.startswith(_NODE_PREFIX):
        name = Attributes(verb, group, "nodes", name=who.name.removeprefix(_NODE_PREFIX))
        groups = ("system:nodes",)
    elif account := account_name(who.name):
        name = Attributes(verb, group, "serviceaccounts", namespace=account[0], name=account[1])
        groups = groups or account_groups(account[0])
    authorizer.authorize(user, name)
    if who.uid:
        authorizer.authorize(user, Attributes(verb, _AUTHENTICATION, "uids", name=who.uid))
    for each in who.groups:
        _take_group(authorizer, user, Attributes(verb, group, "groups", name=each), constrained=bool(mode))
    for key, values in who.extra:
        for value in values:
            authorizer.authorize(user, Attributes(verb, _AUTHENTICATION, "userextras", key, name=value))
    return User(who.name, _with_authentication(who.name, groups), who.uid, who.extra)


def _take_group(authorizer: Authorizer, user: User, asked: Attributes, *, constrained: bool) -> None:
    if constrained and asked.name in ("", MASTERS):
        what = f"the {MASTERS} group" if asked.name else "the empty string group"
        raise Denied(refusal(user, asked, f"impersonating {what} is not allowed"), asked)
    authorizer.authorize(user, asked)


def _with_authentication(name: str, groups: tuple[str, ...]) -> tuple[str, ...]:
    if name == ANONYMOUS_NAME:
        return groups if UNAUTHENTICATED in groups else (*groups, UNAUTHENTICATED)
    return groups if {AUTHENTICATED, UNAUTHENTICATED} & set(groups) else (*groups, AUTHENTICATED)


def audiences_error(token: tuple[str, ...], asked: tuple[str, ...]) -> str:
    """What a TokenReview says about a token for somebody else."""
    return f"[invalid bearer token, token audiences {quoted(token)} is invalid for the target audiences {quoted(asked)}]"
