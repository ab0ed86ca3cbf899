"""What a client says of its bytes, checked: MD5, and the CRC-64 of Azure Storage.

CRC-64 in plain Python takes a second for a block. Here thousands of lanes of the data go through the table at once, each step a translation and an
exclusive or of whole strings: about 50 MB a second, only for clients that ask for it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass
from functools import cache

from moorage.errors import Invalid

# The polynomial of CRC-64/NVME, reflected.
_POLYNOMIAL = 0x9A6C9329AC4BC9B5
_ALL = (1 << 64) - 1
_LANE = 1024
# As much as a processor's cache holds.
_AT_ONCE = 1 << 20
_PLANES = 8


@dataclass(frozen=True, slots=True)
class Expected:
    """Digests in base64, as the headers Content-MD5 and x-ms-content-crc64 have them; empty where the client says nothing."""

    md5: str = ""
    crc64: str = ""

    def check_form(self) -> None:
        """Invalid with InvalidMd5 or InvalidHeaderValue when one cannot be a digest."""
        for value, size, code, name in ((self.md5, 16, "InvalidMd5", "MD5"), (self.crc64, 8, "InvalidHeaderValue", "CRC64")):
            try:
                right = not value or len(base64.b64decode(value, validate=True)) == size
            except (binascii.Error, ValueError):
                right = False
            if not right:
                raise Invalid(f"The {name} value specified in the request is invalid. It must be {size} bytes in base64.", code=code)

    def check(self, found: Digest) -> None:
        """Invalid with Md5Mismatch or Crc64Mismatch when the bytes are others."""
        for wanted, is_, code, name in ((self.md5, found.md5, "Md5Mismatch", "MD5"), (self.crc64, found.crc64, "Crc64Mismatch", "CRC64")):
            if wanted and wanted != is_:
                raise Invalid(
                    f"The {name} value specified in the request did not match the {name} value calculated by the server.", code=code
                )


class Digest:
    """MD5 and CRC-64 of bytes as they come, each only where it is wanted."""

    def __init__(self, *, with_md5: bool = True, with_crc64: bool = False) -> None:
        self._md5 = hashlib.md5(usedforsecurity=False) if with_md5 else None
        self._crc: int | None = 0 if with_crc64 else None

    def update(self, data: bytes) -> None:
        if self._md5 is not None:
            self._md5.update(data)
        if self._crc is not None:
            self._crc = crc64(data, self._crc)

    @property
    def md5(self) -> str:
        return "" if self._md5 is None else base64.b64encode(self._md5.digest()).decode()

    @property
    def crc64(self) -> str:
        return "" if self._crc is None else base64.b64encode(self._crc.to_bytes(8, "little")).decode()


def crc64(data: bytes, before: int = 0) -> int:
    """The CRC of `data` put behind bytes whose CRC is `before`."""
    crc, forward, table = before ^ _ALL, _forward(), _table()
    whole = len(data) - len(data) % _LANE
    for at in range(0, whole, _AT_ONCE):
        for state in _states(data[at : min(at + _AT_ONCE, whole)]):
            # What a lane's start does to its end is the same for any content, so lanes that began at nothing are put together afterwards.
            crc = _apply(forward, crc) ^ state
    for byte in data[whole:]:
        crc = table[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ _ALL


def _states(data: bytes) -> list[int]:
    """Of each lane of `_LANE` bytes, the register that began at nothing."""
    tables, lanes = _byte_tables(), len(data) // _LANE
    planes = [0] * _PLANES
    for at in range(_LANE):
        column = (planes[0] ^ int.from_bytes(data[at::_LANE], "little")).to_bytes(lanes, "little")
        moved = [*planes[1:], 0]
        planes = [plane ^ int.from_bytes(column.translate(table), "little") for plane, table in zip(moved, tables, strict=True)]
    columns = [plane.to_bytes(lanes, "little") for plane in planes]
    return [int.from_bytes(state, "little") for state in zip(*columns, strict=True)]


def _apply(tables: tuple[tuple[int, ...], ...], value: int) -> int:
    found = 0
    for table in tables:
        found ^= table[value & 0xFF]
        value >>= 8
    return found


@cache
def _table() -> tuple[int, ...]:
    found = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (_POLYNOMIAL if value & 1 else 0)
        found.append(value)
    return tuple(found)


@cache
def _byte_tables() -> tuple[bytes, ...]:
    """The table, byte by byte of its values."""
    return tuple(bytes(value >> 8 * plane & 0xFF for value in _table()) for plane in range(_PLANES))


@cache
def _forward() -> tuple[tuple[int, ...], ...]:
    """What `_LANE` zero bytes make of a register, byte by byte of it."""
    table = _table()

    def moved(value: int) -> int:
        for _ in range(_LANE):
            value = table[value & 0xFF] ^ value >> 8
        return value

    bits = [moved(1 << bit) for bit in range(64)]

    def combined(byte: int, value: int) -> int:
        found = 0
        for bit in range(8):
            found ^= bits[8 * byte + bit] if value >> bit & 1 else 0
        return found

    return tuple(tuple(combined(byte, value) for value in range(256)) for byte in range(8))
