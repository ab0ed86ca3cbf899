"""The credential that the SDK is given, and that nothing of ours imports the SDK."""

from __future__ import annotations

import ast
import re
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import jwt
import pytest

import moorage
from moorage.client.credential import MoorageCredential
from moorage.client.profile import save

KEY = "a secret that is long enough for the algorithm"


def a_token(lifetime: timedelta) -> str:
    return jwt.encode({"sub": "ann", "exp": datetime.now(UTC) + lifetime}, KEY)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("MOORAGE_TOKEN", raising=False)
    monkeypatch.setenv("MOORAGE_HOME", str(tmp_path))
    return tmp_path


def test_the_token_and_its_end_are_read_from_the_profile_anew_each_time() -> None:
    first, second = a_token(timedelta(hours=1)), a_token(timedelta(hours=2))
    credential = MoorageCredential()
    save({"token": first})
    found = credential.get_token("https://management.azure.com/.default")
    assert found.token == first and found.expires_on == jwt.decode(first, options={"verify_signature": False})["exp"]
    save({"token": second})
    with credential:
        assert credential.get_token_info("https://ml.azure.com/.default", options={}).token == second


def test_an_opaque_token_is_asked_for_again_after_an_hour(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOORAGE_TOKEN", "opaque")
    found = MoorageCredential().get_token()
    assert found.token == "opaque" and found.expires_on > datetime.now(UTC).timestamp()


def test_without_a_token_in_force_the_remedy_is_said(home: Path) -> None:
    with pytest.raises(RuntimeError, match="moorage login"):
        MoorageCredential().get_token()
    save({"token": a_token(timedelta(hours=-1))})
    with pytest.raises(RuntimeError, match="has expired"):
        MoorageCredential().get_token()
    (home / "config.toml").write_text("token = ")
    with pytest.raises(RuntimeError, match="cannot be read"):
        MoorageCredential().get_token()


def test_a_profile_that_is_named_goes_before_the_variable(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save({"token": "of the file"})
    monkeypatch.setenv("MOORAGE_TOKEN", "of the variable")
    assert MoorageCredential(home / "config.toml").get_token().token == "of the file"
    assert MoorageCredential().get_token().token == "of the variable"


def test_nothing_of_ours_imports_the_sdk_and_the_credential_only_the_standard_library() -> None:
    root = Path(moorage.__file__).parent
    imports = re.compile(r"^\s*(?:from|import) (azure|msrest|moorage)\b", re.MULTILINE)
    found = {path: set(imports.findall(path.read_text(encoding="utf-8"))) for path in root.rglob("*.py")}
    assert found[root / "client" / "profile.py"] == {"moorage"}
    assert [path for path, names in found.items() if names - {"moorage"}] == []
    own = ast.parse((root / "client" / "credential.py").read_text(encoding="utf-8"))
    names = {alias.name for node in ast.walk(own) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in ast.walk(own) if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in names} <= sys.stdlib_module_names
