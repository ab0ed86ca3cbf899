"""Tokens that open one online endpoint: signed by the service, verified by routers with public keys alone, so that they work while it is away.

A token is a JWT whose header is written in one way only. A verifier compares the header as text and parses nothing of a token before its signature
holds: what a header could ask for (`alg: none`, another algorithm, a key of its own) does not exist here.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from moorage import clock
from moorage.clock import Clock
from moorage.errors import Forbidden, Unauthenticated
from moorage.specs.routing import TokenTerms

# Ours have about 500 characters; names of workspaces and endpoints can make them twice as long.
LONGEST = 2048
# Clocks of the service and of clusters differ by seconds, as those of laptops do (identity/tokens.py).
LEEWAY = timedelta(seconds=60)
_ISSUER = "moorage"


@dataclass(frozen=True, slots=True)
class ScoringToken:
    """A token, when it ends, and from when on a caller does well to fetch the next one."""

    token: str
    expires: datetime
    refresh_after: datetime


class ScoringTokens:
    """Issues tokens with the service's scoring key.

    Args:
        key: signs. Not the key of users' tokens: neither kind can ever be taken for the other.
        previous: public keys whose tokens are still good, while a key is being replaced.
        lifetime: of each token; a caller is told to refresh when half of it is over.
    """

    def __init__(
        self, key: Ed25519PrivateKey, previous: Sequence[Ed25519PublicKey] = (), *, lifetime: timedelta, now: Clock = clock.now
    ) -> None:
        self._key = key
        self._lifetime = lifetime
        self._now = now
        # The signing key first; as text (RFC 8037 `x`), the way they travel to the routers.
        self.public_keys = tuple(dict.fromkeys(public_text(each) for each in (key.public_key(), *previous)))
        self._header = _header(self.public_keys[0])

    def issue(self, audience: str, generation: int) -> ScoringToken:
        """A token for the endpoint of that audience; `generation` as in `TokenTerms`."""
        now = self._now()
        expires = now + self._lifetime
        claims = {
            "iss": _ISSUER,
            "aud": audience,
            "gen": generation,
            "iat": int(now.timestamp()),
            "exp": int(expires.timestamp()),
        }
        signed = f"{self._header}.{_encoded(json.dumps(claims, separators=(',', ':')).encode())}"
        return ScoringToken(f"{signed}.{_encoded(self._key.sign(signed.encode()))}", expires, now + self._lifetime / 2)


class Verifier:
    """Decides on tokens for one endpoint, without asking anybody."""

    def __init__(self, terms: TokenTerms) -> None:
        self._terms = terms
        self._keys: dict[str, Ed25519PublicKey] = {}
        for text in terms.public_keys:
            try:
                self._keys[_header(text)] = Ed25519PublicKey.from_public_bytes(_decoded(text))
            except ValueError:
                # The definition's pattern lets nothing through that is no key; were one there, no token could name it.
                continue

    def verify(self, token: str, now: float) -> float:
        """Until when the token opens the endpoint.

        Args:
            token: as the caller sent it; anything at all.
            now: seconds since 1970, by the verifier's clock.

        Returns:
            Seconds since 1970: the end of its life and the leeway for clocks that differ. When a token begins is not checked: only the
            service makes them, and a clock behind the service's must not refuse what it just gave out.

        Raises:
            Unauthenticated: no token of this service's, one that has ended, or one that was revoked.
            Forbidden: a good token of another endpoint.
        """
        claims = self._claims(token)
        until = claims.expires + LEEWAY.total_seconds()
        if until <= now:
            raise Unauthenticated("The token has expired. Get a new one with online-endpoint get-credentials.", code="TokenExpired")
        if claims.audience != self._terms.audience:
            raise Forbidden(
                "The token is for another endpoint. Get one of this with online-endpoint get-credentials.", code="TokenOfAnotherEndpoint"
            )
        # A later generation than the cluster has heard of is as good: only the service can have signed it.
        if claims.generation < self._terms.generation:
            raise Unauthenticated("The token was revoked. Get a new one with online-endpoint get-credentials.", code="TokenRevoked")
        return until

    def _claims(self, token: str) -> _Claims:
        if len(token) > LONGEST:
            raise _no_token()
        signed, _, signature = token.rpartition(".")
        header, _, payload = signed.partition(".")
        key = self._keys.get(header)
        if key is None:
            raise _no_token()
        try:
            # A text that is not ASCII is a ValueError too.
            key.verify(_decoded(signature), signed.encode("ascii"))
            return _Claims.read(_decoded(payload))
        except (InvalidSignature, ValueError, KeyError, TypeError) as error:
            raise _no_token() from error


@dataclass(frozen=True, slots=True)
class _Claims:
    audience: str
    generation: int
    expires: int

    @classmethod
    def read(cls, payload: bytes) -> _Claims:
        claims = json.loads(payload)
        return cls(str(claims["aud"]), int(claims["gen"]), int(claims["exp"]))


def public_text(key: Ed25519PublicKey) -> str:
    """A public key as `TokenTerms` has it: its 32 bytes in base64url, 43 characters."""
    return _encoded(key.public_bytes_raw())


def _no_token() -> Unauthenticated:
    return Unauthenticated(
        "The token is not one of this endpoint's: it was changed, comes from elsewhere, or its signing key has been replaced. "
        "Get a new one with online-endpoint get-credentials.",
        code="InvalidToken",
    )


def _header(public_key: str) -> str:
    """The one spelling of a token's header; `kid` says which key signed."""
    key_id = hashlib.sha256(public_key.encode()).hexdigest()[:16]
    return _encoded(json.dumps({"alg": "EdDSA", "kid": key_id, "typ": "JWT"}, separators=(",", ":")).encode())


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decoded(text: str) -> bytes:
    """base64url without padding, in its one spelling: a token has no second form that a cache would take for another token."""
    data = base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
    if _encoded(data) != text:
        raise ValueError("not base64url in its one spelling")
    return data
