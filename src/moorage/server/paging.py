"""Pages: `$top` bounds one, `$skip` carries the cursor in `nextLink`. The cursor is a creation number, so that a page never repeats or skips a
resource while others come and go."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from moorage.errors import Invalid
from moorage.server.arm import Answer, Call
from moorage.specs.manifest import Manifest
from moorage.store import Resource

PAGE = 200
_MOST = 1000
# What a database's whole number holds.
_MOST_SEQUENCE = 2**63


@dataclass(frozen=True, slots=True)
class Page:
    """What the query asks for.

    Attributes:
        after: the cursor, None on the first page.
        limit: how many items the page has.
        newest_first: by `$orderBy=createdtime desc`, else the default.
        archived: by `listViewType`: False only active ones, True only archived ones, None all.
    """

    after: int | None
    limit: int
    newest_first: bool
    archived: bool | None


def page_of(call: Call, *, newest_first: bool = False, view: str = "") -> Page:
    """Read `$top`, `$skip`, `$orderBy` and `listViewType`; the last is not looked at when `view` is given in its place."""
    views = {"activeonly": False, "archivedonly": True, "all": None}
    view = view or call.query.get("listviewtype", "ActiveOnly")
    if view.lower() not in views:
        raise Invalid(f"listViewType '{view}' is none of ActiveOnly, ArchivedOnly, All.", target="listViewType")
    order = call.query.get("orderby", "").lower().split()
    if order:
        newest_first = order[-1] == "desc"
    return Page(decode_cursor(call.query.get("skip", "")), _limit(call.query), newest_first, views[view.lower()])


def paged(call: Call, page: Page, resources: Sequence[Resource], render: Callable[[Resource], Manifest]) -> Answer:
    """An answer of at most `page.limit` of the resources; ask the store for one more than that, so that the end is known."""
    shown = resources[: page.limit]
    more = len(resources) > page.limit
    return Answer({"value": [render(each) for each in shown], "nextLink": next_link(call, shown[-1].sequence) if more else None})


def next_link(call: Call, cursor: int) -> str:
    """This request's URL, to be continued after `cursor`."""
    query = {key: value for key, value in call.request.query_params.items() if key.lower() != "$skip"}
    return call.absolute(call.path, **query, **{"$skip": encode_cursor(cursor)})


def encode_cursor(after: int) -> str:
    return base64.urlsafe_b64encode(json.dumps({"after": after}).encode()).decode().rstrip("=")


def decode_cursor(text: str) -> int | None:
    """The cursor back; Invalid when it is not one of ours."""
    if not text:
        return None
    try:
        cursor = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        after = cursor["after"]
    except (binascii.Error, ValueError, KeyError, TypeError) as error:
        raise Invalid("$skip is not a cursor of this service. Follow nextLink as it is.", target="$skip") from error
    if not isinstance(after, int) or isinstance(after, bool) or not 0 <= after < _MOST_SEQUENCE:
        raise Invalid("$skip is not a cursor of this service. Follow nextLink as it is.", target="$skip")
    return after


def _limit(query: Mapping[str, str]) -> int:
    text = query.get("top", str(PAGE))
    if not text.isdecimal() or int(text) < 1:
        raise Invalid(f"$top must be a number above 0, not '{text}'.", target="$top")
    return min(int(text), _MOST)
