"""Signed links: Azure's Shared Access Signature query for one container or one blob. The SDK passes ours on without looking into it.

The signature covers everything in the query, so that no part can be widened: `sv` (our format), `sr` (`c` container, `b` blob), `sp`
(permissions), `st` (start, if it has one), `se` (end), `pth` (which blob), `sig`. Azure's further restrictions (`sip`, `spr`, ...) are in no link
of ours; in a query they change nothing, since only what is signed counts.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from urllib.parse import urlencode

from moorage import clock
from moorage.clock import Clock
from moorage.errors import Forbidden

_VERSION = "2026-10-06"
READ = "r"
LIST = "l"
WRITE = "w"
DELETE = "d"


class Links:
    """Makes and checks signed queries."""

    def __init__(self, key: bytes, *, now: Clock = clock.now) -> None:
        self._key = key
        self._now = now

    def container(self, container: str, permissions: str, lifetime: timedelta, *, start: datetime | None = None) -> str:
        """A query that opens a whole container, from `start` on if that is given."""
        return self._sign(container, "c", "", permissions, lifetime, start)

    def blob(self, container: str, path: str, permissions: str, lifetime: timedelta) -> str:
        """A query that opens one blob: a log's address."""
        return self._sign(container, "b", path, permissions, lifetime)

    def check(self, query: Mapping[str, str], container: str, path: str, permission: str) -> None:
        """Raise unless the query opens `container/path` for `permission`.

        Raises:
            Forbidden: the signature is wrong, or the link has ended or is for something else; 403, as Azure's storage has it.
        """
        kind, permissions, start, end, within = (query.get(name, "") for name in ("sr", "sp", "st", "se", "pth"))
        expected = self._signature(container, kind, within, permissions, start, end)
        # As bytes: two texts are only compared when both are ASCII.
        if not hmac.compare_digest(expected.encode(), query.get("sig", "").encode()):
            raise Forbidden("Signature did not match, or the link is for another container.", code="AuthenticationFailed")
        if clock.parse_rfc3339(end) <= self._now():
            raise Forbidden("The signed link has ended. Get a new one from the datastore.", code="AuthenticationFailed")
        if start and clock.parse_rfc3339(start) > self._now():
            raise Forbidden("The signed link has not begun yet.", code="AuthenticationFailed")
        if permission not in permissions or (kind == "b" and path != within):
            raise Forbidden("The signed link does not allow this.", code="AuthorizationPermissionMismatch", target=path)

    def _sign(self, container: str, kind: str, path: str, permissions: str, lifetime: timedelta, start: datetime | None = None) -> str:
        until, since = clock.rfc3339((start or self._now()) + lifetime), clock.rfc3339(start) if start else ""
        fields = {"sv": _VERSION, **({"st": since} if since else {}), "se": until, "sr": kind, "sp": permissions}
        if path:
            fields["pth"] = path
        return urlencode({**fields, "sig": self._signature(container, kind, path, permissions, since, until)})

    def _signature(self, container: str, kind: str, path: str, permissions: str, start: str, end: str) -> str:
        # JSON keeps the fields apart whatever a name contains.
        text = json.dumps((_VERSION, container, kind, path, permissions, start, end))
        return base64.b64encode(hmac.digest(self._key, text.encode(), hashlib.sha256)).decode()
