"""MD5 and CRC-64 of what clients send."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moorage.errors import Invalid
from moorage.server.checksums import Digest, Expected, crc64


def _bit_by_bit(data: bytes) -> int:
    """The definition: the remainder of a division by the polynomial, reflected, all bits set before and after."""
    value = (1 << 64) - 1
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0x9A6C9329AC4BC9B5 if value & 1 else 0)
    return value ^ (1 << 64) - 1


def test_the_check_value_of_the_catalogue_comes_out() -> None:
    assert crc64(b"123456789") == 0xAE8B14860A799888
    assert crc64(b"") == 0


@given(
    size=st.one_of(st.integers(0, 3000), st.sampled_from([1023, 1024, 2048, 2049])),
    seed=st.binary(min_size=1, max_size=7),
    cut=st.integers(0, 3000),
)
def test_lanes_and_parts_give_what_the_definition_gives(size: int, seed: bytes, cut: int) -> None:
    data = (seed * (size // len(seed) + 1))[:size]
    assert crc64(data) == _bit_by_bit(data)
    assert crc64(data[cut:], crc64(data[:cut])) == crc64(data)


def test_more_than_is_done_at_once_is_put_together() -> None:
    data = bytes(range(256)) * (9 << 10)
    assert crc64(data) == crc64(data[1_500_000:], crc64(data[:1_500_000]))


@pytest.mark.parametrize(
    ("expected", "code"),
    [
        (Expected(md5="x"), "InvalidMd5"),
        (Expected(md5="YWJj"), "InvalidMd5"),
        (Expected(md5="é"), "InvalidMd5"),
        (Expected(crc64="YWJj"), "InvalidHeaderValue"),
    ],
)
def test_what_cannot_be_a_digest_is_refused_at_once(expected: Expected, code: str) -> None:
    with pytest.raises(Invalid) as refused:
        expected.check_form()
    assert refused.value.code == code


def test_only_what_is_asked_for_is_compared() -> None:
    digest = Digest(with_crc64=True)
    digest.update(b"123456")
    digest.update(b"789")
    assert digest.crc64 == "iJh5CoYUi64="
    Expected(digest.md5, digest.crc64).check(digest)
    with pytest.raises(Invalid, match="CRC64"):
        Expected(crc64="AAAAAAAAAAA=").check(digest)
