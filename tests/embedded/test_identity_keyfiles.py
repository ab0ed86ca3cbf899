"""Key files on a real disk."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from moorage.errors import Invalid
from moorage.identity.keyfiles import secret_key, signing_key


def test_a_key_is_made_once_and_kept_private(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "links.key"
    with ThreadPoolExecutor(8) as racers:
        keys = set(racers.map(lambda _: secret_key(path), range(16)))
    assert len(keys) == 1 and secret_key(path) in keys
    assert path.stat().st_mode & 0o777 == 0o600
    assert [each.name for each in path.parent.iterdir()] == ["links.key"]
    signing = tmp_path / "keys" / "signing.pem"
    assert signing_key(signing).private_bytes_raw() == signing_key(signing).private_bytes_raw()


def test_a_key_file_that_others_can_read_or_that_is_damaged_is_refused_with_the_remedy(tmp_path: Path) -> None:
    path = tmp_path / "links.key"
    secret_key(path)
    path.chmod(0o644)
    with pytest.raises(Invalid, match="chmod 600"):
        secret_key(path)
    path.write_bytes(b"short")
    path.chmod(0o600)
    with pytest.raises(Invalid, match="32 bytes"):
        secret_key(path)
    with pytest.raises(Invalid, match="PEM"):
        signing_key(path)
