"""A stack, and workers of the SDK's own environment that run flows against it. Each flow is a function of `flows/`, found by its parameter `place`."""

from __future__ import annotations

import ast
import fcntl
import json
import os
import queue
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.sdk.lines import answering
from tests.stack.conftest import ROOT, Stack, stack

__all__ = ["stack"]

HERE = Path(__file__).parent
PYTHON = ROOT / ".venv-sdk" / "bin" / "python"
# Beyond any flow's own patience; then the worker's end says where it stood.
_PATIENCE = 500.0
# Small enough that several of a flow's pods run at once on two cores.
_TINY = """
apiVersion: amlarc.azureml.com/v1alpha1
kind: InstanceType
metadata: {name: tiny}
spec: {resources: {requests: {cpu: 50m, memory: 128Mi}, limits: {cpu: "1", memory: 512Mi}}}
"""


def flows(module: str) -> list[str]:
    """The flows of a module, in its order, without importing it: only the SDK's environment can."""
    tree = ast.parse((HERE / "flows" / f"{module}.py").read_text())
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    return [f"{module}.{node.name}" for node in functions if ast.unparse(node.args) == "place" and node.returns is not None]


@dataclass
class Sdk:
    """A process of the SDK's environment, connected in one of the contract's ways."""

    process: subprocess.Popen[str]
    folder: Path
    answers: queue.Queue[str]
    stack: Stack

    def run(self, flow: str) -> float:
        """Run a flow; its seconds. Fails with the flow's own traceback."""
        folder = self.folder / flow.rpartition(".")[2][:60]
        folder.mkdir()
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"flow": flow, "folder": str(folder)}) + "\n")
        self.process.stdin.flush()
        try:
            told: dict[str, Any] = json.loads(self.answers.get(timeout=_PATIENCE) or "{}")
        except queue.Empty:
            raise AssertionError(f"{flow}: not at its end after {_PATIENCE} s\n{self.stack.logs()}") from None
        assert told, f"the worker ended in {flow}\n{self.stack.logs()}"
        if told["failure"]:
            said = f"{flow}\n{told['failure']}\nprinted:\n{told['printed'][-2000:]}\n{told['noise'][-1000:]}"
            raise AssertionError(f"{said}\n{self.stack.logs()}")
        return float(told["seconds"])


@pytest.fixture(scope="session")
def sdk_python() -> Path:
    """The SDK's environment, made if need be; by one of the test runner's workers, while the others wait.

    `MOORAGE_TEST_SDK_PYTHON` names the interpreter of another one, with another version of the SDK (docs/how-to/migrate.md).
    """
    if other := os.environ.get("MOORAGE_TEST_SDK_PYTHON"):
        return Path(other)
    with (ROOT / ".venv-sdk.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        subprocess.run([ROOT / "scripts" / "env", "--sdk"], check=True)
    return PYTHON


def connected(stack: Stack, way: str, python: Path, folder: Path) -> Iterator[Sdk]:
    """A worker with the variables that `moorage sdk env` prints for the way, and those that make the SDK poll often."""
    printed = stack.ok("sdk", "env", "--format", "json", "--way", way).json
    settings = {
        "way": way,
        "url": printed["url"],
        "scope": {name: printed[name] for name in ("subscription", "resource_group", "workspace")},
    }
    polling = {"AZUREML_RUN_POLLING_INTERVAL_MIN": "1", "AZUREML_RUN_POLLING_INTERVAL_MAX": "1"}
    process = subprocess.Popen(
        [python, HERE / "worker.py"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=stack.environment | printed["variables"] | polling | {"MOORAGE_TEST_SDK": json.dumps(settings), "PYTHONPATH": ""},
    )
    with answering(process) as answers:
        yield Sdk(process, folder, answers, stack)


@pytest.fixture(scope="module")
def tiny(stack: Stack) -> Stack:
    """The stack with an instance type `tiny`, known to the workspace."""
    assert stack.kubectl("apply", "-f", "-", stdin=_TINY).code == 0
    shown = ("compute", "show", "-n", "local", "--query", "properties.instanceTypes.tiny")
    stack.until(lambda: stack.run(*shown).out.strip() not in ("", "null"), "the workspace knows the instance type")
    return stack


@pytest.fixture(scope="module")
def sdk(tiny: Stack, sdk_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sdk]:
    """The SDK as `moorage sdk env` sets it up."""
    yield from connected(tiny, "A", sdk_python, tmp_path_factory.mktemp("flows"))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "flow" in metafunc.fixturenames:
        modules = metafunc.module.FLOWS
        found = [flow for module in modules for flow in flows(module)]
        metafunc.parametrize("flow", found, ids=[flow.rpartition(".")[2].replace("_", " ") for flow in found])
