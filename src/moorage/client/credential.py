"""A credential for `azure.ai.ml.MLClient` that reads this user's Moorage profile. Only the standard library: it works where the SDK is installed,
whatever else is, also as a file on its own.

    from moorage.client.credential import MoorageCredential
    ml = MLClient(MoorageCredential(), SUBSCRIPTION, RESOURCE_GROUP, WORKSPACE)

The token is read anew each time it is asked for, so that a process that runs for weeks follows `moorage up` and `moorage login`.
"""

from __future__ import annotations

import base64
import json
import os
import time
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

# An opaque token says nothing about its end; the SDK asks again after this.
_ASSUMED_SECONDS = 3600


class AccessToken(NamedTuple):
    """As `azure.core.credentials.AccessToken`: the token, and its end in seconds since 1970."""

    token: str
    expires_on: int


class AccessTokenInfo(NamedTuple):
    """As `azure.core.credentials.AccessTokenInfo`."""

    token: str
    expires_on: int
    token_type: str = "Bearer"
    refresh_on: int | None = None


class MoorageCredential:
    """What `MLClient` takes as its credential.

    Args:
        profile: the file that `moorage up` and `moorage login` write; `config.toml` of `$MOORAGE_HOME` (else `~/.moorage`) when left out.
            The variable MOORAGE_TOKEN goes before the file that is not named.
    """

    def __init__(self, profile: str | Path | None = None) -> None:
        self._profile = Path(profile) if profile is not None else None

    def get_token(self, *scopes: str, **options: Any) -> AccessToken:
        """The token in force, for whatever scope: the service takes one for all.

        Raises:
            RuntimeError: there is none, or its time is over; the message says how to get one.
        """
        return AccessToken(*self._read())

    def get_token_info(self, *scopes: str, options: Any = None) -> AccessTokenInfo:
        """As `get_token`, for newer clients."""
        return AccessTokenInfo(*self._read())

    def close(self) -> None:
        """Nothing is held open."""

    def __enter__(self) -> MoorageCredential:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(self) -> tuple[str, int]:
        token, source = self._stored()
        if not token:
            raise RuntimeError(
                f"There is no Moorage token in {source}. Sign in: `moorage login --url URL`, or `moorage up` on this machine."
            )
        expires = expiry(token)
        if expires is not None and expires <= time.time():
            raise RuntimeError(
                f"The Moorage token in {source} has expired. Sign in again: `moorage login`, or `moorage up` on this machine."
            )
        return token, expires if expires is not None else int(time.time()) + _ASSUMED_SECONDS

    def _stored(self) -> tuple[str, str]:
        if self._profile is None and (given := os.environ.get("MOORAGE_TOKEN")):
            return given, "MOORAGE_TOKEN"
        home = os.environ.get("MOORAGE_HOME")
        file = self._profile or (Path(home).expanduser() if home else Path.home() / ".moorage") / "config.toml"
        try:
            return str(tomllib.loads(file.read_text(encoding="utf-8")).get("token") or ""), str(file)
        except FileNotFoundError:
            return "", str(file)
        except (OSError, ValueError) as error:
            raise RuntimeError(f"The Moorage profile {file} cannot be read: {error}.") from error


def expiry(token: str) -> int | None:
    """The end that a JWT names; its signature is the service's to check."""
    parts = token.split(".")
    if len(parts) != 3:
        return None
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except ValueError:
        return None
    found = claims.get("exp") if isinstance(claims, dict) else None
    return int(found) if isinstance(found, (int, float)) else None
