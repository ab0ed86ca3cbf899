"""Components: a step's specification, kept as the client wrote it (snake_case), with the few fields filled in that the SDK reads back."""

from __future__ import annotations

from moorage.errors import Invalid
from moorage.server.resources.assets import Asset, AssetType, routes
from moorage.specs.manifest import Manifest
from moorage.store import Transaction

_SPEC = "properties.componentSpec"
# Where the file was read from and which schema its editor used: no part of what the component does.
_INCIDENTAL = frozenset({"$schema", "_source", "version", "description", "display_name", "tags"})


def _complete(_: Transaction, asset: Asset) -> Manifest:
    spec = asset.properties.get("componentSpec")
    if not isinstance(spec, dict):
        raise Invalid(f"{_SPEC} must be an object.", target=_SPEC)
    kind = spec.get("type")
    if not isinstance(kind, str) or not kind:
        raise Invalid(f"{_SPEC}.type is missing, e.g. 'command'.", target=f"{_SPEC}.type")
    if kind == "command":
        for field in ("command", "environment"):
            if not isinstance(spec.get(field), str):
                raise Invalid(f"{_SPEC}.{field} must be a text.", target=f"{_SPEC}.{field}")
    for field in ("inputs", "outputs"):
        if not isinstance(spec.get(field) or {}, dict):
            raise Invalid(f"{_SPEC}.{field} must be an object.", target=f"{_SPEC}.{field}")
    filled = {
        **spec,
        "name": spec.get("name") or asset.name,
        "version": str(spec.get("version") or asset.version),
        "is_deterministic": spec.get("is_deterministic", True) is not False,
        "inputs": spec.get("inputs") or {},
        "outputs": spec.get("outputs") or {},
    }
    return {"description": None, "tags": {}, "properties": {}, **asset.properties, "componentSpec": filled}


def _content(properties: Manifest) -> object:
    spec = properties.get("componentSpec") or {}
    return {name: value for name, value in spec.items() if name not in _INCIDENTAL and value is not None}


COMPONENTS = AssetType("components", _complete, _content)
ROUTES = routes(COMPONENTS)
