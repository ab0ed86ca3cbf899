"""Questions to a cluster and their answers. They pass through the store, since the agent may be connected to another process of this service."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from uuid import uuid4

from moorage import clock
from moorage.errors import Invalid
from moorage.ids import Workspace
from moorage.server.services import Services
from moorage.store import Resource, ResourceKey, Transaction
from moorage.wire.gateway import Ask

TYPE = "asks"
TOPIC = f"resources/{TYPE}"
# An asker that died leaves its question; nobody waits for it any more.
_FORGOTTEN_AFTER = timedelta(minutes=5)


async def ask(services: Services, workspace: Workspace, cluster: str, question: Ask, *, timeout: timedelta) -> str:
    """Ask a cluster and wait for the answer.

    Args:
        services: the service's parts.
        workspace: on whose behalf.
        cluster: the registration.
        question: its id is replaced.
        timeout: how long to wait.

    Raises:
        Invalid: no answer in time (ClusterDidNotAnswer); not Unavailable, since clients would retry for seconds what a person should decide.
    """
    key = ResourceKey(workspace, TYPE, uuid4().hex)
    body = question.model_copy(update={"id": key.name}).model_dump(mode="json", by_alias=True)
    end = clock.monotonic() + timeout.total_seconds()
    with services.store.changes.subscribe(TOPIC) as bell:
        await services.store.write(lambda tx: tx.resources.create(key, {"ask": body}, lookup=cluster))
        try:
            while True:
                row = await services.store.read(lambda tx: tx.resources.get(key))
                if "answer" in row.state:
                    return str(row.state["answer"])
                left = end - clock.monotonic()
                if left <= 0 or not await bell.wait(timedelta(seconds=left)):
                    raise Invalid(
                        f"The cluster did not answer within {timeout.total_seconds():.0f} s. Its agent may be restarting; try again.",
                        code="ClusterDidNotAnswer",
                    )
        finally:
            await services.store.write(lambda tx: tx.resources.delete(key))


def open_asks(tx: Transaction, cluster: str) -> Sequence[tuple[str, Ask]]:
    """Questions to a cluster that have no answer yet, by id."""
    rows = [each for each in tx.resources.all_with(TYPE, cluster) if "answer" not in each.state]
    return [(each.name, Ask.model_validate(each.body["ask"])) for each in rows]


def answer(tx: Transaction, cluster: str, id: str, content: str) -> bool:
    """Note an answer; False when nobody waits for it any more."""
    row: Resource | None = next((each for each in tx.resources.all_with(TYPE, cluster) if each.name == id), None)
    if row is None or "answer" in row.state:
        return False
    tx.resources.update(row, state={"answer": content})
    return True


def forget_old(tx: Transaction) -> None:
    """Drop questions whose asker died."""
    for each in tx.resources.all_of(TYPE):
        if each.created_at + _FORGOTTEN_AFTER < tx.now:
            tx.resources.delete(each.key)
