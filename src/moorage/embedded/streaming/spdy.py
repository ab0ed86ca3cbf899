"""The server's side of SPDY/3.1 framing as Kubernetes' clients use it: streams with headers, data, half-closing, pings; no flow control."""

from __future__ import annotations

import struct
import zlib
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass

from moorage.embedded.streaming.wire import Wire

_SYN_STREAM, _SYN_REPLY, _RST_STREAM, _PING, _GOAWAY = 1, 2, 3, 6, 7
_FIN = 1
_LONGEST_FRAME = 4 << 20
_LONGEST_HEADERS = 1 << 16
# The dictionary of draft 3 (section 2.6.10.1): these words with their lengths before them, then the text.
_WORDS = (
    "options head post put delete trace accept accept-charset accept-encoding accept-language accept-ranges age allow authorization "
    "cache-control connection content-base content-encoding content-language content-length content-location content-md5 content-range "
    "content-type date etag expect expires from host if-match if-modified-since if-none-match if-range if-unmodified-since last-modified "
    "location max-forwards pragma proxy-authenticate proxy-authorization range referer retry-after server te trailer transfer-encoding "
    "upgrade user-agent vary via warning www-authenticate method get status 200|OK version HTTP/1.1 url public set-cookie keep-alive origin"
)
_TEXT = (
    "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505203 Non-Authoritative Information"
    "204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden404 Not Found500 Internal Server Error"
    "501 Not Implemented503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, "
    "Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,text/javascript,"
    "publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0."
)
DICTIONARY = b"".join(len(word).to_bytes(4, "big") + word.replace("|", " ").encode() for word in _WORDS.split()) + _TEXT.encode()


class Broken(Exception):
    """The peer does not speak SPDY."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A stream that the peer has begun; names of headers in lower case."""

    stream: int
    headers: Mapping[str, str]
    finished: bool = False


@dataclass(frozen=True, slots=True)
class Data:
    """Bytes of a stream; `finished`: the peer sends no more."""

    stream: int
    data: bytes
    finished: bool = False


@dataclass(frozen=True, slots=True)
class Reset:
    stream: int


Event = Opened | Data | Reset


class Spdy:
    """Streams over one wire. Read `events` from one task; writing may come from many."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._inflate = zlib.decompressobj(zdict=DICTIONARY)
        self._deflate = zlib.compressobj(zdict=DICTIONARY)
        self._buffer = bytearray()

    async def events(self) -> AsyncGenerator[Event]:
        """What the peer does, until it goes. Broken for what is no SPDY."""
        shortest = {_SYN_STREAM: 10, _RST_STREAM: 8, _PING: 4, 8: 4}
        while True:
            head = await self._take(8)
            if head is None:
                return
            word, rest = struct.unpack(">II", head)
            flags, size = rest >> 24, rest & 0xFFFFFF
            if size > _LONGEST_FRAME:
                raise Broken(f"a frame of {size} bytes")
            body = await self._take(size)
            if body is None:
                return
            if not word >> 31:
                yield Data(word, body, bool(flags & _FIN))
                continue
            if size < shortest.get(word & 0xFFFF, 0):
                raise Broken(f"a control frame of {size} bytes")
            match word & 0xFFFF:
                case 1:
                    (stream,) = struct.unpack_from(">I", body)
                    yield Opened(stream & 0x7FFFFFFF, self._headers(body[10:]), bool(flags & _FIN))
                case 3:
                    (stream,) = struct.unpack_from(">I", body)
                    yield Reset(stream & 0x7FFFFFFF)
                case 6:
                    await self._control(_PING, body)
                case 7:
                    return
                case 8:
                    # Kept in step although nobody looks at it: the compressed blocks are one stream.
                    self._headers(body[4:])
                case _:
                    pass  # settings and windows, which these clients do not use

    async def accept(self, stream: int) -> None:
        """Answer a new stream."""
        block = self._deflate.compress((0).to_bytes(4, "big")) + self._deflate.flush(zlib.Z_SYNC_FLUSH)
        await self._control(_SYN_REPLY, stream.to_bytes(4, "big") + block)

    async def send(self, stream: int, data: bytes, *, finish: bool = False) -> None:
        """Data of a stream; with `finish`, the last of it."""
        await self._wire.write(struct.pack(">II", stream, (_FIN if finish else 0) << 24 | len(data)) + data)

    async def reset(self, stream: int) -> None:
        await self._control(_RST_STREAM, struct.pack(">II", stream, 5))

    async def close(self) -> None:
        await self._wire.close()

    async def _control(self, kind: int, body: bytes) -> None:
        await self._wire.write(struct.pack(">HHI", 0x8003, kind, len(body)) + body)

    async def _take(self, size: int) -> bytes | None:
        while len(self._buffer) < size:
            try:
                data = await self._wire.read()
            except ConnectionError:
                return None
            if not data:
                return None
            self._buffer += data
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        return taken

    def _headers(self, block: bytes) -> dict[str, str]:
        try:
            plain = self._inflate.decompress(block, _LONGEST_HEADERS)
            if self._inflate.unconsumed_tail:
                raise Broken("headers too long")
            found, position = {}, 4
            for _ in range(int.from_bytes(plain[:4], "big")):
                pair = []
                for _ in range(2):
                    (size,) = struct.unpack_from(">I", plain, position)
                    pair.append(plain[position + 4 : position + 4 + size].decode())
                    position += 4 + size
                found[pair[0].lower()] = pair[1]
        except (zlib.error, struct.error, UnicodeDecodeError) as error:
            raise Broken(str(error)) from error
        return found
