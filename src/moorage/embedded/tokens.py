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
from moorage.embedded.users import ACCOUNT_PREFIX, AUTHENTICATED, MASTERS, User, account_groups
from moorage.errors import Unauthenticated
from moorage.identity import keyfiles

AUDIENCE = "https://kubernetes.default.svc"
_ISSUER = "https://kubernetes.default.svc"
_ALGORITHM = "EdDSA"
_SHORTEST = timedelta(minutes=10)
_LONGEST = timedelta(days=1)
_CACHE_LIMIT = 512


ADMIN = User("system:admin", (MASTERS, AUTHENTICATED))
_EXTRA = "authentication.kubernetes.io/"


@dataclass(frozen=True, slots=True)
class Bound:
    """The object a token ends with: its claim's name (`pod`, `secret`, `node`), its name and uid."""

    kind: str
    name: str
    uid: str


@dataclass(frozen=True, slots=True)
class Verified:
    """A token that is ours and whose time is not over."""

    user: User
    expires: float
    audiences: tuple[str, ...]
    bound: tuple[Bound, ...] = ()


@dataclass(frozen=True, slots=True)
class Grant:
    token: str
    expires: datetime


class TokenIssuer:
    """Signs service account tokens and tells who a bearer token is."""

    audience = AUDIENCE

    def __init__(self, key: Ed25519PrivateKey, admin_token: str, *, clock: Clock = now) -> None:
        self.admin_token = admin_token
        self._key = key
        self._clock = clock
        self._verified: dict[str, Verified] = {}

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
            "sub": f"{ACCOUNT_PREFIX}{namespace}:{name}",
            "kubernetes.io": {"namespace": namespace, "serviceaccount": {"name": name, "uid": uid}, **(bound or {})},
        }
        return Grant(jwt.encode(claims, self._key, algorithm=_ALGORITHM), expires)

    def authenticate(self, token: str) -> User:
        """Whose token it is; Unauthenticated when it is nobody's, its time is over, or it is not for this API."""
        verified = self.verify(token)
        if AUDIENCE not in verified.audiences:
            raise Unauthenticated("Unauthorized")
        return verified.user

    def verify(self, token: str) -> Verified:
        """What a token says, whatever its audience; Unauthenticated when it is not ours or its time is over."""
        if hmac.compare_digest(token.encode(), self.admin_token.encode()):
            return _ADMINISTRATOR
        moment = self._clock().timestamp()
        known = self._verified.get(token)
        if known is not None and known.expires > moment:
            return known
        try:
            # A clock that was set back makes no token of ours worse: its end is checked, its beginning is not.
            options: jwt.types.Options = {"verify_iat": False, "verify_nbf": False, "verify_aud": False}
            claims = jwt.decode(token, self._key.public_key(), algorithms=[_ALGORITHM], issuer=_ISSUER, options=options)
        except jwt.ExpiredSignatureError as error:
            raise Unauthenticated("service account token has expired") from error
        except jwt.PyJWTError as error:
            raise Unauthenticated("Unauthorized") from error
        if len(self._verified) >= _CACHE_LIMIT:
            self._verified.clear()
        verified = self._verified[token] = _read(claims)
        return verified


_ADMINISTRATOR = Verified(ADMIN, float("inf"), (AUDIENCE,))


def _read(claims: Mapping[str, Any]) -> Verified:
    ours = claims["kubernetes.io"]
    _, _, namespace, name = str(claims["sub"]).split(":", 3)
    extra = [("credential-id", f"JTI={claims['jti']}")]
    bound = []
    for kind in ("pod", "secret", "node"):
        if kind not in ours:
            continue
        found = Bound(kind, str(ours[kind].get("name") or ""), str(ours[kind].get("uid") or ""))
        bound.append(found)
        if kind != "secret":
            extra += [(f"{kind}-name", found.name)] + ([(f"{kind}-uid", found.uid)] if found.uid else [])
    shown = tuple(sorted((_EXTRA + key, (value,)) for key, value in extra))
    groups = (*account_groups(namespace), AUTHENTICATED)
    user = User(f"{ACCOUNT_PREFIX}{namespace}:{name}", groups, ours["serviceaccount"]["uid"], shown)
    return Verified(user, float(claims["exp"]), tuple(claims["aud"]), tuple(bound))


def open_issuer(folder: Path | None, *, clock: Clock = now) -> TokenIssuer:
    """The issuer whose keys lie in `folder`, made on first use; without a folder, one for this process's life."""
    if folder is None:
        return TokenIssuer(Ed25519PrivateKey.generate(), new_uid(), clock=clock)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return TokenIssuer(
        keyfiles.signing_key(folder / "service-accounts.key"), keyfiles.secret_key(folder / "admin.token").hex(), clock=clock
    )
