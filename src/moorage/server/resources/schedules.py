"""Schedules: stored, always disabled; enabling or triggering one is refused until jobs are submitted by the clock (`wire.later`)."""

from __future__ import annotations

import re

from moorage.errors import Invalid
from moorage.server.arm import Answer, Call, Route, W, check_preconditions, envelope, found, put
from moorage.server.paging import page_of, paged
from moorage.server.sdk import conclude, through
from moorage.specs.manifest import Manifest
from moorage.store import Operation, Resource, Transaction
from moorage.wire import kept, later

TYPE = "schedules"
_ONE = W + "/schedules/{name}"
_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_-]{0,254}$")
# The view's names are the schedules' own (contract 2); none of ours is ever enabled.
_VIEWS = {"enabledonly": False, "disabledonly": True, "all": True}


async def _put(call: Call) -> Answer:
    name = call.names["name"]
    if not _NAME.match(name):
        raise Invalid(f"'{name}' is not a schedule name. Use 1 to 255 letters, digits, '-' and '_'.", target="name")
    raw = call.properties()
    if kept.read_schedule(raw).is_enabled:
        raise later.refusal(later.SCHEDULE_RUN, target="properties.isEnabled")

    def write(tx: Transaction) -> tuple[Resource, bool, Operation | None]:
        key = call.key(TYPE)
        check_preconditions(call, tx.resources.find(key))
        resource, created = put(tx, key, {**call.body, "properties": raw})
        return resource, created, conclude(tx, call, resource)

    resource, created, operation = await call.services.store.write(write, actor=call.user.name)
    return through(call, operation, found(resource, _rendered(resource), created=created))


async def _get(call: Call) -> Answer:
    resource = await call.services.store.read(lambda tx: tx.resources.get(call.key(TYPE)))
    return found(resource, _rendered(resource))


async def _list(call: Call) -> Answer:
    # listViewType has other words here, which `page_of` does not know.
    view = call.query.get("listviewtype", "All")
    if view.lower() not in _VIEWS:
        raise Invalid(f"listViewType '{view}' is none of EnabledOnly, DisabledOnly, All.", target="listViewType")
    shown = _VIEWS[view.lower()]
    page = page_of(call, view="All")
    resources = await call.services.store.read(
        lambda tx: tx.resources.list(call.workspace, TYPE, after=page.after, limit=page.limit + 1) if shown else []
    )
    return paged(call, page, resources, lambda each: envelope(each, _rendered(each)))


async def _delete(call: Call) -> Answer:
    gone = await call.services.store.write(lambda tx: tx.resources.delete(call.key(TYPE)), actor=call.user.name)
    return Answer(None, 200 if gone else 204)


async def _trigger(call: Call) -> Answer:
    await call.services.store.read(lambda tx: tx.resources.get(call.key(TYPE)))
    raise later.refusal(later.SCHEDULE_RUN, target=call.names["name"])


def _rendered(resource: Resource) -> Manifest:
    raw = resource.properties
    return {
        **raw,
        "tags": raw.get("tags") or {},
        "properties": raw.get("properties") or {},
        "isEnabled": False,
        "provisioningState": "Succeeded",
    }


ROUTES = (
    Route("PUT", _ONE, _put),
    Route("GET", _ONE, _get),
    Route("GET", W + "/schedules", _list),
    Route("DELETE", _ONE, _delete),
    Route("POST", _ONE + "/trigger", _trigger),
)
