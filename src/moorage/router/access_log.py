"""One JSON line a request: id, start, status, durations, error. Written in batches, so that logging costs a fraction of a system call a request."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import BinaryIO

import orjson

_FLUSH_SECONDS = 0.2
_FLUSH_LINES = 200


@dataclass(slots=True)
class AccessRecord:
    """What is known of one request, or of one copy (`mirrored`). Times are seconds on the loop's clock, `started_at` is wall-clock seconds since 1970."""

    request_id: str
    endpoint: str
    started_at: float
    client: str = ""
    method: str = ""
    deployment: str = ""
    replica: str = ""
    status: int = 0
    model_status: int = 0
    error: str = ""
    queue_seconds: float = 0.0
    total_seconds: float = 0.0
    sent_bytes: int = 0
    received_bytes: int = 0
    retries: int = 0
    mirrored: bool = False


class AccessLog:
    """Collects lines and writes them a few times a second, and at `close`."""

    def __init__(self, sink: BinaryIO, loop: asyncio.AbstractEventLoop) -> None:
        self._sink = sink
        self._loop = loop
        self._lines: list[bytes] = []
        self._timer: asyncio.TimerHandle | None = None
        self._second = -1
        self._second_text = ""
        self.on_error: Callable[[OSError], None] | None = None

    def write(self, record: AccessRecord) -> None:
        line = {
            "requestId": record.request_id,
            "startTime": self._moment(record.started_at),
            "client": record.client,
            "method": record.method,
            "endpoint": record.endpoint,
            "deployment": record.deployment,
            "replica": record.replica,
            "responseCode": record.status,
            "modelCode": record.model_status,
            "error": record.error,
            "queueMs": round(record.queue_seconds * 1000, 3),
            "totalMs": round(record.total_seconds * 1000, 3),
            "requestBytes": record.received_bytes,
            "responseBytes": record.sent_bytes,
            "retries": record.retries,
            "mirrored": record.mirrored,
        }
        self._lines.append(orjson.dumps(line))
        if len(self._lines) >= _FLUSH_LINES:
            self.flush()
        elif self._timer is None:
            self._timer = self._loop.call_later(_FLUSH_SECONDS, self.flush)

    def _moment(self, seconds: float) -> str:
        """RFC 3339 with milliseconds. Thousands of lines share a second, so its text is made once."""
        second = int(seconds)
        if second != self._second:
            self._second = second
            self._second_text = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        return f"{self._second_text}.{int((seconds - second) * 1000):03d}Z"

    def flush(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._lines:
            text = b"\n".join(self._lines) + b"\n"
            self._lines.clear()
            try:
                self._sink.write(text)
                self._sink.flush()
            except OSError as error:
                # A full disk must not stop scoring; the metric shows the loss.
                if self.on_error is not None:
                    self.on_error(error)

    def close(self) -> None:
        self.flush()
