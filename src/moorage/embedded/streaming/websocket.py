"""The server's side of WebSocket (RFC 6455): what kubectl's streams need, no extensions."""

from __future__ import annotations

import base64
import contextlib
import hashlib
from collections.abc import Mapping
from enum import IntEnum

from moorage.embedded.streaming.wire import Connection
from moorage.errors import Invalid

_MAGIC = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
# kubectl sends pieces of 32 KiB; nobody needs this much in one message.
_LONGEST_MESSAGE = 4 << 20
_NORMAL, _PROTOCOL_ERROR, _TOO_BIG = 1000, 1002, 1009


class Opcode(IntEnum):
    CONTINUATION = 0
    TEXT = 1
    BINARY = 2
    CLOSE = 8
    PING = 9
    PONG = 10


class Broken(Exception):
    """The peer does not speak the protocol; `code` is what it is told."""

    def __init__(self, code: int) -> None:
        super().__init__(f"WebSocket error {code}")
        self.code = code


def offered(headers: Mapping[str, str]) -> list[str]:
    """The subprotocols a client offers, in its order."""
    return [part.strip() for part in headers.get("sec-websocket-protocol", "").split(",") if part.strip()]


def handshake(headers: Mapping[str, str], protocol: str) -> bytes:
    """The answer that begins a WebSocket; Invalid (400) when the request is none."""
    key = headers.get("sec-websocket-key", "")
    if headers.get("sec-websocket-version") != "13" or not key:
        raise Invalid("Upgrade request required", code="BadRequest")
    accept = base64.b64encode(hashlib.sha1((key + _MAGIC).encode()).digest()).decode()
    return (
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Protocol: {protocol}\r\n\r\n"
    ).encode()


class WebSocket:
    """Messages over a connection. Pings are answered, fragments put together."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._closing = False

    async def receive(self) -> bytes | None:
        """The next message; None once the peer is gone or has said goodbye. Broken for what is no WebSocket."""
        message = bytearray()
        try:
            while True:
                final, opcode, payload = await self._frame(len(message))
                match opcode:
                    case Opcode.PING:
                        await self._send(Opcode.PONG, payload)
                    case Opcode.PONG:
                        pass
                    case Opcode.CLOSE:
                        await self.close()
                        return None
                    case _:
                        message += payload
                        if final:
                            return bytes(message)
        except (EOFError, ConnectionError):
            return None
        except Broken as broken:
            with contextlib.suppress(ConnectionError):
                await self.close(broken.code)
            raise

    async def send(self, data: bytes) -> None:
        """Send a binary message. ConnectionError when the peer has gone."""
        await self._send(Opcode.BINARY, data)

    async def close(self, code: int = _NORMAL) -> None:
        """Say goodbye, once."""
        if not self._closing:
            self._closing = True
            await self._send(Opcode.CLOSE, code.to_bytes(2, "big"))

    async def _send(self, opcode: Opcode, data: bytes) -> None:
        size = len(data)
        head = bytes([0x80 | opcode])
        if size < 126:
            head += bytes([size])
        elif size < 1 << 16:
            head += b"\x7e" + size.to_bytes(2, "big")
        else:
            head += b"\x7f" + size.to_bytes(8, "big")
        await self._connection.write(head + data)

    async def _frame(self, so_far: int) -> tuple[bool, int, bytes]:
        first, second = await self._connection.read_exactly(2)
        size = second & 0x7F
        if size > 125:
            size = int.from_bytes(await self._connection.read_exactly(2 if size == 126 else 8), "big")
        if first & 0x70 or not second & 0x80:
            raise Broken(_PROTOCOL_ERROR)
        if so_far + size > _LONGEST_MESSAGE:
            raise Broken(_TOO_BIG)
        key = await self._connection.read_exactly(4)
        return bool(first & 0x80), first & 0x0F, unmask(await self._connection.read_exactly(size), key)


def unmask(data: bytes, key: bytes) -> bytes:
    """XOR with a repeated key; as one large number, because byte by byte would cost a hundred times as much."""
    size = len(data)
    mask = (key * (size // 4 + 1))[:size]
    return (int.from_bytes(data, "little") ^ int.from_bytes(mask, "little")).to_bytes(size, "little")


class Tunnel:
    """A stream of bytes inside a WebSocket's messages (`SPDY/3.1+portforward.k8s.io`)."""

    def __init__(self, socket: WebSocket) -> None:
        self._socket = socket

    async def read(self) -> bytes:
        while (message := await self._socket.receive()) is not None:
            if message:
                return message
        return b""

    async def write(self, data: bytes) -> None:
        await self._socket.send(data)

    async def close(self) -> None:
        await self._socket.close()
