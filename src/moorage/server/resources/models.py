"""Models: files somewhere in a datastore, under a name and a version."""

from __future__ import annotations

from moorage.errors import Invalid
from moorage.server.resources.assets import Asset, AssetType, routes, text_field
from moorage.server.resources.stored import long_uri
from moorage.specs.manifest import Manifest
from moorage.store import Transaction

_TYPES = ("custom_model", "mlflow_model", "triton_model")


def _complete(tx: Transaction, asset: Asset) -> Manifest:
    properties = asset.properties
    kind = properties.get("modelType") or "custom_model"
    if kind not in _TYPES:
        raise Invalid(f"properties.modelType must be one of {', '.join(_TYPES)}, not '{kind}'.", target="properties.modelType")
    uri = long_uri(tx, asset.workspace, text_field(properties, "modelUri"), target="properties.modelUri")
    # The SDK iterates over the flavors, so there must be an object.
    flavors = properties.get("flavors") or {}
    return {"description": None, "tags": {}, "properties": {}, **properties, "modelType": kind, "modelUri": uri, "flavors": flavors}


def _content(properties: Manifest) -> object:
    return str(properties.get("modelUri")).rstrip("/"), properties.get("modelType")


MODELS = AssetType("models", _complete, _content)
ROUTES = routes(MODELS)
