"""The service's side of the gateway protocol (`wire.gateway`): the stream of desired objects, and what agents post.

An agent's token opens its own cluster and nothing else. The stream is a reading of the store, woken by commits, so that any process may serve
it and a restart only means that the agent dials again.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

from pydantic import ValidationError
from starlette.responses import Response, StreamingResponse

from moorage.errors import Forbidden, Invalid, Unauthenticated
from moorage.identity.tokens import digest
from moorage.server.arm import Answer, Call, Route, read_json
from moorage.server.asks import TOPIC as ASKS
from moorage.server.asks import answer, open_asks
from moorage.server.authorization import bearer
from moorage.server.reports import store_reports
from moorage.server.resources.references import FACADE
from moorage.specs.manifest import Manifest
from moorage.store import Cluster, DesiredObject, ObjectName, Transaction
from moorage.wire.access import access
from moorage.wire.gateway import HEARTBEAT_SECONDS, PREFIX, Ask, ReportBatch, TokenRequest

B = TypeVar("B", ReportBatch, TokenRequest)

_HEARTBEAT = timedelta(seconds=HEARTBEAT_SECONDS)
_ONE = PREFIX + "/{cluster}"
# A batch of reports carries log chunks.
_BATCH_LIMIT = 32 * 1024 * 1024
_ANSWER_LIMIT = 4 * 1024 * 1024


async def _agent(call: Call) -> Cluster:
    """The cluster whose agent calls; Forbidden for another cluster's."""
    token = digest(bearer(call.request))
    cluster = await call.services.store.read(lambda tx: tx.clusters.of_token(token))
    if cluster is None:
        raise Unauthenticated(
            "This agent token does not work (any more). Install the extension again, which issues a new one: moorage extension create.",
            code="InvalidAuthenticationToken",
        )
    if cluster.id != call.names["cluster"]:
        raise Forbidden("This agent token belongs to another cluster.", code="AuthorizationFailed")
    return cluster


async def _desired(call: Call) -> Response:
    cluster = await _agent(call)
    given = call.query.get("since", "")
    if given and not given.isdecimal():
        raise Invalid(f"since must be a revision, not '{given}'.", target="since")
    stream = _Stream(call, cluster.id, digest(bearer(call.request)), int(given) if given else None)
    return StreamingResponse(
        stream.lines(), media_type="application/x-ndjson", headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    )


@dataclass(frozen=True, slots=True)
class _Changes:
    """One look at the store: what to send, and up to which revision it is complete."""

    valid: bool
    reset: bool
    objects: Sequence[DesiredObject]
    revision: int
    asks: Sequence[tuple[str, Ask]]


class _Stream:
    """One connection's position in a cluster's desired objects."""

    def __init__(self, call: Call, cluster: str, token: str, since: int | None) -> None:
        self._services = call.services
        self._cluster = cluster
        self._token = token
        self._since = since
        self._asked: set[str] = set()

    async def lines(self) -> AsyncIterator[bytes]:
        store = self._services.store
        with store.changes.subscribe(f"desired/{self._cluster}", ASKS) as bell:
            first = True
            while True:
                changes = await store.read(self._look)
                if not changes.valid or store.changes.closing:
                    return
                sent = self._events(changes, first)
                if sent:
                    yield b"".join(json.dumps(event, separators=(",", ":")).encode() + b"\n" for event in sent)
                first, self._since = False, changes.revision
                if not await bell.wait(_HEARTBEAT):
                    yield b"\n"
                    # The line above failed if the connection had ended; so the agent is there.
                    await store.write(lambda tx: tx.clusters.seen(self._cluster))

    def _look(self, tx: Transaction) -> _Changes:
        holder = tx.clusters.of_token(self._token)
        if holder is None or holder.id != self._cluster:
            return _Changes(False, False, (), 0, ())
        # A revision from the future means that this database is older than the agent's memory: restored from a backup.
        reset = self._since is None or not holder.floor <= self._since <= holder.revision
        objects = tx.desired.since(self._cluster, 0 if self._since is None or reset else self._since)
        return _Changes(True, reset, objects, holder.revision, open_asks(tx, self._cluster))

    def _events(self, changes: _Changes, first: bool) -> list[Manifest]:
        wanted: list[Manifest] = [_apply(each) for each in changes.objects if each.object is not None]
        unwanted: list[Manifest] = [_delete(each) for each in changes.objects if each.object is None]
        synced: Manifest = {"type": "SYNCED", "revision": changes.revision}
        if changes.reset:
            # Deletions after the whole has been told: an agent that never knew such an object then confirms that it is gone, which somebody
            # may wait for.
            events = [{"type": "RESET"}, *wanted, synced, *([*unwanted, synced] if unwanted else [])]
        else:
            events = [*wanted, *unwanted, synced] if changes.objects or first else []
        for id, question in changes.asks:
            if id not in self._asked:
                self._asked.add(id)
                events.append({"type": "ASK", "ask": question.model_dump(mode="json", by_alias=True)})
        self._asked &= {id for id, _ in changes.asks}
        return events


def _apply(object: DesiredObject) -> Manifest:
    return {"type": "APPLY", "revision": object.revision, "object": object.object}


def _delete(object: DesiredObject) -> Manifest:
    return {"type": "DELETE", "revision": object.revision, "key": _key(object.name)}


def _key(name: ObjectName) -> Manifest:
    return {"kind": name.kind, "namespace": name.namespace, "name": name.name}


async def _reports(call: Call) -> Answer:
    cluster = await _agent(call)
    batch = _read(ReportBatch, await read_json(call.request, _BATCH_LIMIT))
    receipt = await store_reports(call.services, cluster.id, batch)
    return Answer(receipt.model_dump(mode="json", by_alias=True))


async def _tokens(call: Call) -> Answer:
    cluster = await _agent(call)
    asked = _read(TokenRequest, await read_json(call.request, _BATCH_LIMIT))

    def read(tx: Transaction) -> list[DesiredObject | None]:
        return [tx.desired.find(cluster.id, ObjectName(key.kind, key.namespace, key.name)) for key in asked.keys]

    granted: list[Manifest] = []
    for found in await call.services.store.read(read):
        if found is None or found.object is None:
            continue
        allowed = access(found.object)
        token, expires = call.services.tokens.issue_workload(
            f"{found.owner.type}/{found.owner.parent + '/' if found.owner.parent else ''}{found.owner.name}",
            read=allowed.read,
            write=allowed.write,
            lifetime=call.services.settings.workload_token_lifetime,
        )
        granted.append({"key": _key(found.name), "endpoint": call.base_url + FACADE, "token": token, "expires": expires.isoformat()})
    return Answer({"tokens": granted}, 200, {"Cache-Control": "no-store"})


async def _answers(call: Call) -> Answer:
    cluster = await _agent(call)
    content = bytearray()
    async for chunk in call.request.stream():
        content += chunk
        if len(content) > _ANSWER_LIMIT:
            raise Invalid(f"The answer is larger than {_ANSWER_LIMIT} bytes.", code="RequestBodyTooLarge")
    text = content.decode("utf-8", "replace")
    taken = await call.services.store.write(lambda tx: answer(tx, cluster.id, call.names["id"], text))
    return Answer({"accepted": taken})


def _read(model: type[B], raw: Manifest) -> B:
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise Invalid(f"{where}: {first['msg']}.", code="InvalidRequestContent", target=where) from None


ROUTES = (
    Route("GET", _ONE + "/desired", _desired, public=True),
    Route("POST", _ONE + "/reports", _reports, public=True, raw=True),
    Route("POST", _ONE + "/tokens", _tokens, public=True, raw=True),
    Route("POST", _ONE + "/answers/{id}", _answers, public=True, raw=True),
)
