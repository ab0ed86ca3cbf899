"""Tokens the service issues: users' and workloads' (signed, with an expiry), agents' and endpoints' (random; an agent's is stored as a digest).

A user's token has an audience of Azure's, since the SDK decodes it and looks; the service accepts each of them, and the clients of the SDK
ask for three.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from moorage import clock
from moorage.clock import Clock
from moorage.errors import Unauthenticated
from moorage.identity.roles import Role
from moorage.specs.manifest import Manifest

# The SDK refuses a token for pipelines whose `aud` is not exactly this, the audience of Azure ML's public cloud.
AUDIENCE = "https://ml.azure.com"
AUDIENCES = (
    AUDIENCE,
    "https://management.azure.com",
    "https://management.azure.com/",
    "https://management.core.windows.net/",
    "https://storage.azure.com",
)
_WORKLOAD_AUDIENCE = "moorage-workload"
_ALGORITHM = "EdDSA"
# Clocks of laptops and clusters differ by seconds.
_LEEWAY = timedelta(seconds=60)
# Tokens whose signature has been looked at: of users, and of the pods that run now.
_REMEMBERED = 1024


@dataclass(frozen=True, slots=True)
class User:
    """Whoever a verified user token names.

    Attributes:
        name: the `sub` claim, noted as creator of resources.
        roles: by scope: an ARM id prefix (`/` for everywhere) and what the user may do below it.
    """

    name: str
    roles: Mapping[str, Role]


@dataclass(frozen=True, slots=True)
class Workload:
    """A pod's right to blobs: `CONTAINER/PATH` prefixes it may read and write."""

    name: str
    read: tuple[str, ...]
    write: tuple[str, ...]

    def covers(self, path: str, *, write: bool) -> bool:
        """Whether `path` (`CONTAINER/PATH`) is one of the prefixes or below one. Who may write may read back."""
        return any(_covers(prefix, path) for prefix in (self.write if write else (*self.read, *self.write)))


class Tokens:
    """Issues and verifies signed tokens with the service's key."""

    def __init__(self, key: Ed25519PrivateKey, *, tenant: str = "moorage", now: Clock = clock.now) -> None:
        self._key = key
        self._public = key.public_key()
        self._tenant = tenant
        self._now = now
        # A signature that was good stays good; looking at it again is a fifth of what answering a small request costs.
        self._signed = lru_cache(_REMEMBERED)(self._decode)

    def issue_user(self, name: str, roles: Mapping[str, Role], lifetime: timedelta, *, audience: str | Sequence[str] = AUDIENCE) -> str:
        """A user's bearer token; `roles` as in `User`."""
        claims = {"sub": name, "tid": self._tenant, "aud": audience, "roles": {scope: role.value for scope, role in roles.items()}}
        return self._issue(claims, lifetime)[0]

    def verify_user(self, token: str) -> User:
        """Unauthenticated unless it is a user's token of ours that is in force."""
        return _user(self._verify(token, AUDIENCES))

    def verify(self, token: str) -> User | Workload:
        """A user's or a workload's token: what the blob facade takes."""
        claims = self._verify(token, (*AUDIENCES, _WORKLOAD_AUDIENCE))
        if claims["aud"] == _WORKLOAD_AUDIENCE:
            return Workload(str(claims["sub"]), tuple(claims.get("read", ())), tuple(claims.get("write", ())))
        return _user(claims)

    def issue_workload(self, name: str, *, read: Sequence[str], write: Sequence[str], lifetime: timedelta) -> tuple[str, datetime]:
        """A pod's token for the blob facade and when it ends.

        Args:
            name: whom it is for, shown in access logs: `jobs/NAME`.
            read: blobs or folders as `CONTAINER/PATH`; everything below a folder is included, a sibling with a longer name is not.
            write: likewise; implies reading.
            lifetime: the gateway renews when half is over.
        """
        return self._issue({"sub": name, "aud": _WORKLOAD_AUDIENCE, "read": list(read), "write": list(write)}, lifetime)

    def _issue(self, claims: Manifest, lifetime: timedelta) -> tuple[str, datetime]:
        now = self._now()
        expires = now + lifetime
        return jwt.encode({**claims, "iat": now, "nbf": now, "exp": expires, "iss": "moorage"}, self._key, algorithm=_ALGORITHM), expires

    def _verify(self, token: str, audiences: Sequence[str]) -> Manifest:
        claims = self._signed(token, tuple(audiences))
        now = self._now()
        if claims["exp"] <= (now - _LEEWAY).timestamp():
            raise Unauthenticated("The bearer token has expired. Get a new one.", code="ExpiredAuthenticationToken")
        return dict(claims)

    def _decode(self, token: str, audiences: tuple[str, ...]) -> Manifest:
        """The claims of a token that this service has signed, however old it is."""
        # pyjwt reads the wall clock for exp; the check is ours, so that a test's clock rules. When a token begins is not checked: only this service
        # issues them, and after its clock was set back the ones it gave out before are as good as ever.
        options: jwt.types.Options = {"require": ["exp", "sub"], "verify_exp": False, "verify_nbf": False, "verify_iat": False}
        try:
            return jwt.decode(token, self._public, algorithms=[_ALGORITHM], audience=audiences, issuer="moorage", options=options)
        except jwt.InvalidTokenError as error:
            raise Unauthenticated(
                "The bearer token was not issued by this service. Use the token of this service's profile (`moorage up` writes it).",
                code="InvalidAuthenticationToken",
            ) from error


def new_secret() -> str:
    """A random credential: an agent's token, an endpoint's key."""
    return secrets.token_urlsafe(32)


def digest(secret: str) -> str:
    """What is stored of an agent's token: it finds the row, and a stolen database yields no credential."""
    return hashlib.sha256(secret.encode()).hexdigest()


def same(one: str, other: str) -> bool:
    """Compare secrets without telling by the time how much of them agrees."""
    return hmac.compare_digest(one.encode(), other.encode())


def _user(claims: Manifest) -> User:
    granted = claims.get("roles")
    if not isinstance(granted, dict):
        raise Unauthenticated("The token grants nothing. Ask for a new one.", code="InvalidAuthenticationToken")
    try:
        return User(str(claims["sub"]), {str(scope): Role(role) for scope, role in granted.items()})
    except ValueError as error:
        raise Unauthenticated("The token grants a role this version does not know.", code="InvalidAuthenticationToken") from error


def _covers(prefix: str, path: str) -> bool:
    if ".." in path.split("/"):
        return False
    return path == prefix.rstrip("/") or path.startswith(prefix.rstrip("/") + "/")
