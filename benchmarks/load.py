"""Load on one address from one process: closed loop (each connection asks again at once) or at a fixed rate.

python benchmarks/load.py PORT PATH KEY SECONDS [RATE]    prints one JSON object

At a fixed rate a request's time counts from when it was due, not from when a connection became free, so that a stalled server cannot hide.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import deque

import httptools
import uvloop

CONNECTIONS = 32
BODY = b'{"images": [[0, 1, 2, 3, 4, 5, 6, 7]]}'


class Connection(asyncio.Protocol):
    def __init__(self, load: Load) -> None:
        self._load = load
        self._parser = httptools.HttpResponseParser(self)
        self.due = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def ask(self, due: float) -> None:
        self.due = due
        self._transport.write(self._load.request)  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        self._load.answered(self, self._parser.get_status_code())

    def connection_lost(self, error: Exception | None) -> None:
        self._load.lost()


class Load:
    def __init__(self, request: bytes, rate: float) -> None:
        self.request = request
        self.times: list[float] = []
        self.failed = 0
        self._rate = rate
        self._idle: deque[Connection] = deque()
        self._due: deque[float] = deque()
        self._measuring = True

    async def run(self, port: int, seconds: float) -> float:
        loop = asyncio.get_running_loop()
        connections = [(await loop.create_connection(lambda: Connection(self), "127.0.0.1", port))[1] for _ in range(CONNECTIONS)]
        began = time.perf_counter()
        if self._rate:
            self._idle.extend(connections)
            sent = 0
            while (now := time.perf_counter()) < began + seconds:
                while began + sent / self._rate <= now:
                    self._due.append(began + sent / self._rate)
                    sent += 1
                self._send()
                await asyncio.sleep(0.0005)
        else:
            for connection in connections:
                connection.ask(time.perf_counter())
            await asyncio.sleep(seconds)
        self._measuring = False
        took = time.perf_counter() - began
        for connection in connections:
            connection._transport.abort()  # type: ignore[attr-defined]
        return took

    def answered(self, connection: Connection, status: int) -> None:
        now = time.perf_counter()
        if self._measuring:
            self.times.append(now - connection.due)
            self.failed += status != 200
        if self._rate:
            self._idle.append(connection)
            self._send()
        elif self._measuring:
            connection.ask(now)

    def lost(self) -> None:
        self.failed += self._measuring

    def _send(self) -> None:
        while self._due and self._idle:
            self._idle.popleft().ask(self._due.popleft())


async def main(port: int, path: str, key: str, seconds: float, rate: float) -> None:
    head = f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer {key}\r\ncontent-type: application/json\r\ncontent-length: {len(BODY)}\r\n\r\n"
    load = Load(head.encode() + BODY, rate)
    took = await load.run(port, seconds)
    times = sorted(load.times)
    print(
        json.dumps(
            {
                "requests": len(times),
                "rate": len(times) / took,
                "failed": load.failed,
                "mean": sum(times) / len(times) if times else 0.0,
                "p99": times[int(len(times) * 0.99)] if times else 0.0,
            }
        )
    )


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), sys.argv[2], sys.argv[3], float(sys.argv[4]), float(sys.argv[5]) if len(sys.argv) > 5 else 0.0))
