"""Runs flows with the unmodified azure-ai-ml, in the environment `.venv-sdk`, which holds nothing of ours but one file: the credential.

A test sends a line of JSON, `{"flow": "assets.data_assets", "folder": "/tmp/..."}`, and gets one back: how it went, how long it took, and what the
SDK printed. One process runs many flows, since importing the SDK takes seconds. Tests give it the variables that `moorage sdk env` prints.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import json
import logging
import os
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
SOURCES = HERE.parent.parent / "src" / "moorage"


@dataclass
class Place:
    """Where a flow works: a client, the workspace behind it, what makes a registry's client, and a folder of its own."""

    ml: Any
    registry: Callable[[str], Any]
    credential: Any
    url: str
    scope: dict[str, str]
    folder: Path
    # What flows of this process share, made by the first that needs it.
    shared: dict[str, Any] = field(default_factory=dict)
    printed: io.StringIO = field(default_factory=io.StringIO)

    def file(self, name: str, text: str) -> str:
        """A file in the flow's folder; its path."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return str(path)


def credential_class() -> Any:
    """MoorageCredential from its file alone: the package is not installed here, as it may not be at a user's."""
    spec = importlib.util.spec_from_file_location("moorage_credential", SOURCES / "client" / "credential.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module.MoorageCredential


def connect(way: str, url: str, credential: Any, *scope: str, **named: str) -> Any:
    """A client by one of the contract's ways (section 1.1), of a workspace or of a registry; A and B are the environment's business."""
    from azure.ai.ml import MLClient

    arguments: dict[str, Any] = {"enable_telemetry": False}
    if way == "D":
        arguments |= {
            "cloud": "Mine",
            "cloud_metadata": {
                "azure_portal": "https://portal.azure.com",
                "resource_manager": url + "/",
                "active_directory": url + "/",
                "aml_resource_id": "https://ml.azure.com",
                "storage_endpoint": "core.local",
                "registry_discovery_endpoint": url + "/",
            },
        }
    elif way == "C":
        arguments |= {"cloud": "SelfHosted"}
    return MLClient(credential, *scope, **named, **arguments)


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    sys.path.insert(0, str(HERE))
    settings = json.loads(os.environ["MOORAGE_TEST_SDK"])
    credential = credential_class()()
    scope = settings["scope"]
    ml = connect(settings["way"], settings["url"], credential, scope["subscription"], scope["resource_group"], scope["workspace"])
    shared: dict[str, Any] = {}

    def registry(name: str) -> Any:
        return connect(settings["way"], settings["url"], credential, registry_name=name)

    for line in sys.stdin:
        asked = json.loads(line)
        module, _, name = asked["flow"].rpartition(".")
        place = Place(ml, registry, credential, settings["url"], scope, Path(asked["folder"]), shared)
        began = time.perf_counter()
        failure = ""
        with contextlib.redirect_stdout(place.printed), contextlib.redirect_stderr(io.StringIO()) as noise:
            try:
                getattr(importlib.import_module(f"flows.{module}"), name)(place)
            except BaseException:  # noqa: BLE001 - whatever a flow ends with is what its test is told
                failure = traceback.format_exc()
        told = {
            "failure": failure,
            "seconds": time.perf_counter() - began,
            "printed": place.printed.getvalue(),
            "noise": noise.getvalue()[-4000:],
        }
        answers.write(json.dumps(told) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
