"""The unmodified azure-storage-blob against the blob facade, with signed links and tokens. Slow: the client's import, and blobs of 70 MiB."""

from __future__ import annotations

import ast
import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.fixtures.process import serving
from tests.sdk.conftest import HERE

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(600)]


def _flows() -> list[str]:
    functions = [node for node in ast.parse((HERE / "storage.py").read_text()).body if isinstance(node, ast.FunctionDef)]
    return [node.name for node in functions if ast.unparse(node.args) == "place" and not node.name.startswith("_")]


@pytest.fixture(scope="module")
def ended(sdk_python: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """How each flow ended: with nothing, or with its traceback."""
    folder = tmp_path_factory.mktemp("storage")
    with serving(folder / "home") as service:
        settings = {
            "url": service.url,
            "container": service.container,
            "link": service.link,
            "reading": service.reading,
            "token": service.token,
            "folder": str(folder),
        }
        done = subprocess.run(
            [sdk_python, HERE / "storage.py"],
            capture_output=True,
            text=True,
            timeout=500,
            env=os.environ | {"MOORAGE_TEST_STORAGE": json.dumps(settings), "REQUESTS_CA_BUNDLE": service.authority, "PYTHONPATH": ""},
        )
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(json.loads(done.stdout))


@pytest.mark.parametrize("name", _flows(), ids=lambda name: name.replace("_", " "))
def test_with_the_storage_client(ended: dict[str, str], name: str) -> None:
    assert ended[name] == ""
