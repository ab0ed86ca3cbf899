"""Who may call an endpoint: keys compared by digest, tokens checked against public keys, nobody asked.

A token costs a signature once (about 150 us); from then on it is found by its digest until it ends, which costs what a key does.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from moorage.errors import Forbidden, Unauthenticated
from moorage.specs.routing import EndpointRoute, TokenTerms

if TYPE_CHECKING:
    from moorage.identity.scoring import Verifier

# Verified tokens of all endpoints together, about 250 bytes each.
REMEMBERED = 4096
_SHOWS = "online-endpoint get-credentials shows it."


@dataclass(frozen=True, slots=True)
class Denial:
    """Why a request is not let in; the message never holds what was sent."""

    status: int
    message: str


# Decides on a request's Authorization header ("" when it has none); None lets it in.
Check = Callable[[str], Denial | None]

_WRONG_KEY = Denial(401, f"The key is missing or wrong. Send Authorization: Bearer KEY; {_SHOWS}")
_NO_TOKEN = Denial(401, f"The token is missing. Send Authorization: Bearer TOKEN; {_SHOWS}")


class VerifiedTokens:
    """Digests of tokens whose signature was verified. Only good tokens get in, so that nobody can crowd them out with bad ones."""

    def __init__(self, most: int = REMEMBERED) -> None:
        self._most = most
        self._until: dict[bytes, tuple[TokenTerms, float]] = {}

    def __len__(self) -> int:
        return len(self._until)

    def until(self, digest: bytes, terms: TokenTerms) -> float:
        """Until when a token is good under these very terms, in seconds since 1970; 0 when that is not known."""
        found = self._until.get(digest)
        # By identity: terms are replaced whole, and what held under the former ones is looked at again.
        return found[1] if found is not None and found[0] is terms else 0.0

    def keep(self, digest: bytes, terms: TokenTerms, until: float) -> None:
        """Remember a good token; the one remembered first gives way when there are too many."""
        self._until.pop(digest, None)
        while len(self._until) >= self._most:
            del self._until[next(iter(self._until))]
        self._until[digest] = (terms, until)


def check_of(route: EndpointRoute, verified: VerifiedTokens, now: Callable[[], float]) -> Check:
    """The check for an endpoint, good for as long as its keys and token terms are the same.

    Args:
        route: its keys, or the terms of its tokens; with neither, nobody is let in.
        verified: shared by all endpoints, so that memory is bounded.
        now: seconds since 1970.
    """
    if route.tokens is None:
        return _KeyCheck(route.key_digests)
    # Late: the signatures' library is 7 MiB and 20 ms that a router without such endpoints does not spend.
    from moorage.identity.scoring import Verifier

    return _TokenCheck(route.tokens, Verifier(route.tokens), verified, now)


class _KeyCheck:
    __slots__ = ("_digests",)

    def __init__(self, digests: tuple[bytes, ...]) -> None:
        self._digests = digests

    def __call__(self, authorization: str) -> Denial | None:
        """Every digest is compared, each in constant time."""
        scheme, _, key = authorization.partition(" ")
        given = hashlib.sha256(key.strip().encode("latin-1", "replace")).digest()
        found = False
        for digest in self._digests:
            found |= hmac.compare_digest(given, digest)
        return None if found and scheme.lower() == "bearer" else _WRONG_KEY


# An endpoint that no table has spoken of yet.
NOBODY: Check = _KeyCheck(())


class _TokenCheck:
    __slots__ = ("_now", "_terms", "_verified", "_verifier")

    def __init__(self, terms: TokenTerms, verifier: Verifier, verified: VerifiedTokens, now: Callable[[], float]) -> None:
        self._terms = terms
        self._verifier = verifier
        self._verified = verified
        self._now = now

    def __call__(self, authorization: str) -> Denial | None:
        scheme, _, token = authorization.partition(" ")
        token = token.strip()
        if not token or scheme.lower() != "bearer":
            return _NO_TOKEN
        # The time of the look-up tells something of a digest that the caller could compute, and nothing of other tokens.
        digest = hashlib.sha256(token.encode("latin-1", "replace")).digest()
        now = self._now()
        if self._verified.until(digest, self._terms) > now:
            return None
        try:
            until = self._verifier.verify(token, now)
        except Unauthenticated as error:
            return Denial(401, error.message)
        except Forbidden as error:
            return Denial(403, error.message)
        self._verified.keep(digest, self._terms, until)
        return None
