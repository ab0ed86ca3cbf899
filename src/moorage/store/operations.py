"""Long-running operations: rows, so that a restart forgets none and any process can finish one."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING
from uuid import uuid4

import sqlalchemy as sa

from moorage.errors import NotFound
from moorage.ids import Workspace
from moorage.store.rows import Operation, OperationStatus
from moorage.store.tables import operations as t

if TYPE_CHECKING:
    from moorage.store.transaction import Transaction


class Operations:
    """`tx.operations`."""

    def __init__(self, tx: Transaction) -> None:
        self._tx = tx

    def start(self, workspace: Workspace, target: str, kind: str) -> Operation:
        """Begin an operation on a resource (`target`, its ARM id); `kind` says what, e.g. `create`, `delete`."""
        operation = Operation(str(uuid4()), workspace.id, target, kind, OperationStatus.IN_PROGRESS, "", "", self._tx.now, None)
        self._tx.touch("operations")
        self._tx.connection.execute(
            sa.insert(t).values(
                id=operation.id,
                workspace=operation.workspace,
                target=target.lower(),
                kind=kind,
                status=operation.status.value,
                error_code="",
                error_message="",
                created_at=operation.created_at,
                finished_at=None,
            )
        )
        return operation

    def get(self, id: str) -> Operation:
        row = self._tx.connection.execute(sa.select(t).where(t.c.id == id)).one_or_none()
        if row is None:
            raise NotFound(f"Operation '{id}' does not exist; finished ones are kept for a week.", code="OperationNotFound", target=id)
        return _operation(row)

    def running(self, target: str | None = None) -> Sequence[Operation]:
        """Those in progress, oldest first: of one resource, or all."""
        query = sa.select(t).where(t.c.status == OperationStatus.IN_PROGRESS.value).order_by(t.c.created_at)
        if target is not None:
            query = query.where(t.c.target == target.lower())
        return [_operation(row) for row in self._tx.connection.execute(query)]

    def succeed(self, target: str) -> int:
        """Finish well whatever is in progress on a resource; how many that were. Finishing twice is nothing."""
        return self._finish(target, OperationStatus.SUCCEEDED)

    def fail(self, target: str, code: str, message: str) -> int:
        """Finish badly whatever is in progress on a resource; the user sees `(code) message`."""
        return self._finish(target, OperationStatus.FAILED, code, message)

    def cancel(self, target: str) -> int:
        """Finish as canceled: a newer request took the place of what was in progress."""
        return self._finish(target, OperationStatus.CANCELED)

    def forget_finished(self, older_than: timedelta) -> int:
        return self._tx.connection.execute(sa.delete(t).where(t.c.finished_at < self._tx.now - older_than)).rowcount

    def _finish(self, target: str, status: OperationStatus, code: str = "", message: str = "") -> int:
        finished = self._tx.connection.execute(
            sa.update(t)
            .where(t.c.target == target.lower(), t.c.status == OperationStatus.IN_PROGRESS.value)
            .values(status=status.value, error_code=code, error_message=message, finished_at=self._tx.now)
        ).rowcount
        if finished:
            self._tx.touch("operations")
        return finished


def _operation(row: sa.Row[tuple[object, ...]]) -> Operation:
    values = row._mapping
    return Operation(
        id=values["id"],
        workspace=values["workspace"],
        target=values["target"],
        kind=values["kind"],
        status=OperationStatus(values["status"]),
        error_code=values["error_code"],
        error_message=values["error_message"],
        created_at=values["created_at"],
        finished_at=values["finished_at"],
    )
