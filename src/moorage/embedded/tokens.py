"""Who may call the API: the administrator's token of the kubeconfig, and the signed tokens of service accounts."""

from __future__ import annotations

import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from moorage.clock import Clock, now
from moorage.embedded.metadata import new_uid
from moorage.errors import Unauthenticated
from moorage.identity import keyfiles

AUDIENCE = "https://kubernetes.default.svc"
_ISSUER = "https://kubernetes.default.svc"
_ALGORITHM = "EdDSA"
_SHORTEST = timedelta(minutes=10)
_LONGEST = timedelta(days=1)
_CACHE_LIMIT = 512


@dataclass(frozen=True, slots=True)
class User:
    """An authenticated caller."""

    name: str
    groups: tuple[str, ...] = ()
    uid: str = ""


ADMIN = User("system:admin", ("system:masters", "system:authenticated"))


@dataclass(frozen=True, slots=True)
class Grant:
    token: str
    expires: datetime


class TokenIssuer:
    """Signs service account tokens and tells who a bearer token is."""

    def __init__(self, key: Ed25519PrivateKey, admin_token: str, *, clock: Clock = now) -> None:
        self.admin_token = admin_token
        self._key = key
        self._clock = clock
        self._verified: dict[str, tuple[float, User]] = {}

    def issue(
        self,
        namespace: str,
        name: str,
        uid: str,
        *,
        audiences: Sequence[str] = (),
        lifetime: timedelta = timedelta(hours=1),
        bound: Mapping[str, Any] | None = None,
    ) -> Grant:
        """A token of a service account. `bound` is the `kubernetes.io` claim's extra part, e.g. `{"pod": {"name", "uid"}}`."""
        moment = self._clock()
        expires = moment + min(max(lifetime, _SHORTEST), _LONGEST)
        claims = {
            "aud": list(audiences) or [AUDIENCE],
            "exp": int(expires.timestamp()),
            "iat": int(moment.timestamp()),
            "nbf": int(moment.timestamp()),
            "iss": _ISSUER,
            "jti": new_uid(),
            "sub": f"system:serviceaccount:{namespace}:{name}",
            "kubernetes.io": {"namespace": namespace, "serviceaccount": {"name": name, "uid": uid}, **(bound or {})},
        }
        return Grant(jwt.encode(claims, self._key, algorithm=_ALGORITHM), expires)

    def authenticate(self, token: str) -> User:
        """Whose token it is; Unauthenticated when it is nobody's or its time is over."""
        if hmac.compare_digest(token.encode(), self.admin_token.encode()):
            return ADMIN
        moment = self._clock().timestamp()
        known = self._verified.get(token)
        if known is not None and known[0] > moment:
            return known[1]
        try:
            # A clock that was set back makes no token of ours worse: its end is checked, its beginning is not.
            options: jwt.types.Options = {"verify_iat": False, "verify_nbf": False}
            claims = jwt.decode(token, self._key.public_key(), algorithms=[_ALGORITHM], audience=AUDIENCE, issuer=_ISSUER, options=options)
        except jwt.PyJWTError as error:
            raise Unauthenticated("Unauthorized") from error
        _, _, namespace, name = str(claims["sub"]).split(":", 3)
        groups = ("system:serviceaccounts", f"system:serviceaccounts:{namespace}", "system:authenticated")
        user = User(f"system:serviceaccount:{namespace}:{name}", groups, claims["kubernetes.io"]["serviceaccount"]["uid"])
        if len(self._verified) >= _CACHE_LIMIT:
            self._verified.clear()
        self._verified[token] = (float(claims["exp"]), user)
        return user


def open_issuer(folder: Path | None, *, clock: Clock = now) -> TokenIssuer:
    """The issuer whose keys lie in `folder`, made on first use; without a folder, one for this process's life."""
    if folder is None:
        return TokenIssuer(Ed25519PrivateKey.generate(), new_uid(), clock=clock)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return TokenIssuer(
        keyfiles.signing_key(folder / "service-accounts.key"), keyfiles.secret_key(folder / "admin.token").hex(), clock=clock
    )
