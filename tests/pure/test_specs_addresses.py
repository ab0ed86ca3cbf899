"""Which addresses are this machine's own."""

from __future__ import annotations

import pytest

from moorage.specs.addresses import is_loopback


@pytest.mark.parametrize(
    ("url", "own"),
    [
        ("https://127.0.0.1:8450", True),
        ("http://127.97.196.202:80/api/v1", True),
        ("https://localhost:6550", True),
        ("https://[::1]:6550/x", True),
        ("https://localhost.example.org", False),
        ("https://127.example.org", False),
        ("https://10.0.0.1:6443", False),
        ("", False),
    ],
)
def test_only_loopback_is_this_machine(url: str, own: bool) -> None:
    assert is_loopback(url) is own
