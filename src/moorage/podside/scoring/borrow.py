"""Imports of last resort: what the user's environment lacks of the server's needs, and the original's modules for raw requests."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

_PACKAGES = ("moorage_scoring", "uvicorn", "h11", "click")
# Names that scoring scripts of the original import, with what they find there.
_RAW = {
    "azureml.contrib.services.aml_request": ("rawhttp", "AMLRequest"),
    "azureml.contrib.services.aml_response": ("AMLResponse",),
    "azureml_inference_server_http.api.aml_request": ("rawhttp", "AMLRequest"),
    "azureml_inference_server_http.api.aml_response": ("AMLResponse",),
}
_PARENTS = frozenset(name.rsplit(".", depth)[0] for name in _RAW for depth in range(1, name.count(".") + 1))


class Borrowed(MetaPathFinder):
    """Stands at the end of sys.meta_path: asked only for what nothing else has."""

    def __init__(self, folder: Path) -> None:
        self._folder = str(folder)

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if path is None and fullname in _PACKAGES:
            return PathFinder.find_spec(fullname, [self._folder])
        if fullname in _RAW or fullname in _PARENTS:
            return ModuleSpec(fullname, _Shim(), is_package=fullname in _PARENTS)
        return None


class _Shim(Loader):
    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        for name in _RAW.get(module.__name__, ()):
            setattr(module, name, getattr(importlib.import_module("moorage_scoring.raw"), name))
