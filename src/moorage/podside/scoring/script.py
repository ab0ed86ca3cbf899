"""The user's scoring script: loaded once, called per request with what its run() declares.

The rules are those of azureml-inference-server-http: an undecorated run() gets the body as a string, one with input-schema decorators named
arguments, one with @rawhttp the request; `request_headers` is handed in where it is declared.
"""

from __future__ import annotations

import importlib.util
import inspect
import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from . import raw
from .raw import AMLRequest


class Refused(Exception):
    """The request does not fit run(): answered with this status, and run() is not called."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class ScriptError(Exception):
    """The script is not one that can be served."""


class Script:
    """A loaded script.

    Args:
        run: the function to call.
        arguments: makes its keyword arguments of a request.
    """

    def __init__(self, module: ModuleType) -> None:
        for name in ("init", "run"):
            if not callable(getattr(module, name, None)):
                raise ScriptError(f"The scoring script {module.__file__} has no function {name}().")
        self.init: Callable[[], Any] = module.init
        driver = getattr(module, "driver_module", None)
        # Generated driver scripts pass arguments on wrongly; the original calls the script behind them as well.
        self.run: Callable[..., Any] = driver.run if isinstance(driver, ModuleType) and hasattr(driver, "run") else module.run
        parameters = list(inspect.signature(self.run).parameters.values())
        if any(each.kind not in (each.KEYWORD_ONLY, each.POSITIONAL_OR_KEYWORD) for each in parameters):
            raise ScriptError("run() must not take positional-only arguments, *args or **kwargs.")
        self._headers = any(each.name == "request_headers" for each in parameters)
        self._inputs = [each for each in parameters if each.name != "request_headers"]
        if not self._inputs:
            raise ScriptError("run() takes no argument for the input data.")
        self.decorated = _schema_decorated(self.run)
        if self.decorated and raw.requested:
            raise ScriptError("run() is decorated with both @rawhttp and @input_schema; use one of them.")

    def arguments(self, request: AMLRequest) -> dict[str, Any]:
        """Keyword arguments of run() for this request; Refused when they cannot be had."""
        found = self._data(request)
        if self._headers:
            found["request_headers"] = request.headers
        return found

    def _data(self, request: AMLRequest) -> dict[str, Any]:
        first = self._inputs[0].name
        if raw.requested:
            return {first: request}
        if request.method not in ("GET", "POST"):
            raise Refused(405, "Method not allowed")
        if self.decorated:
            return self._named(_query(request) if request.method == "GET" else _object(request))
        if request.method == "GET":
            return {first: json.dumps(_query(request))}
        try:
            return {first: request.data.decode("utf-8")}
        except UnicodeDecodeError as error:
            raise Refused(400, f"Input cannot be decoded as UTF-8: {error}") from error

    def _named(self, values: Mapping[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for parameter in self._inputs:
            value = values.get(parameter.name, parameter.default)
            if value is inspect.Parameter.empty:
                raise Refused(400, f"A value is not provided for the {parameter.name!r} parameter.")
            found[parameter.name] = value
        return found


def load() -> Script:
    """Import the script that the environment names. Whatever its import raises goes through."""
    root = Path(os.environ.get("AML_APP_ROOT") or "/var/azureml-app")
    path = root / (os.environ.get("AZUREML_ENTRY_SCRIPT") or "main.py")
    if path.suffix != ".py" and not path.exists():
        path = path.with_name(f"{path.name}.py")
    source = os.environ.get("AZUREML_SOURCE_DIRECTORY")
    for folder in (root, root / source if source else root, path.parent):
        if str(folder) not in sys.path:
            sys.path.append(str(folder))
    if not path.is_file():
        there = sorted(entry.name for entry in root.iterdir()) if root.is_dir() else []
        raise ScriptError(f"There is no scoring script {path}. {root} has: {', '.join(there[:50]) or 'nothing'}.")
    spec = importlib.util.spec_from_file_location("entry_module", path)
    if spec is None or spec.loader is None:
        raise ScriptError(f"{path} is not a Python file.")
    module = importlib.util.module_from_spec(spec)
    # Registered, so that what the script defines can be pickled, and dataclasses of it resolved.
    sys.modules["entry_module"] = module
    spec.loader.exec_module(module)
    return Script(module)


def _schema_decorated(run: Callable[..., Any]) -> bool:
    """Only a script that imported inference-schema can be decorated with it; others need not have it installed."""
    if "inference_schema" not in sys.modules:
        return False
    found = importlib.import_module("inference_schema.schema_util").is_schema_decorated(run)
    return bool(found)


def _query(request: AMLRequest) -> dict[str, Any]:
    def value(text: str) -> Any:
        try:
            return json.loads(text)
        except ValueError:
            return text

    found: dict[str, Any] = {}
    for name in request.args:
        values = [value(text) for text in request.args.getlist(name)]
        found[name] = values[0] if len(values) == 1 else values
    return found


def _object(request: AMLRequest) -> dict[str, Any]:
    if not request.is_json:
        raise Refused(415, "Expects Content-Type to be application/json")
    if not request.data:
        raise Refused(400, "POST body is empty. Expecting a JSON dictionary.")
    try:
        body = json.loads(request.data)
    except ValueError as error:
        raise Refused(400, f"POST body could not be decoded as JSON: {error}") from error
    if not isinstance(body, dict):
        raise Refused(400, "POST body should be a JSON dictionary.")
    return body
