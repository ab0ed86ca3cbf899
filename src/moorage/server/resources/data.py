"""Data assets: a file, a folder or an MLTable, at a path or a web address."""

from __future__ import annotations

from moorage.errors import Invalid
from moorage.server.resources.assets import Asset, AssetType, routes, text_field
from moorage.server.resources.stored import long_uri
from moorage.specs.manifest import Manifest
from moorage.store import Transaction

_TYPES = ("uri_file", "uri_folder", "mltable")


def _complete(tx: Transaction, asset: Asset) -> Manifest:
    properties = asset.properties
    kind = properties.get("dataType")
    if kind not in _TYPES:
        raise Invalid(f"properties.dataType must be one of {', '.join(_TYPES)}, not '{kind}'.", target="properties.dataType")
    uri = long_uri(tx, asset.workspace, text_field(properties, "dataUri"), target="properties.dataUri")
    return {"description": None, "tags": {}, "properties": {}, **properties, "dataUri": uri}


def _content(properties: Manifest) -> object:
    return str(properties.get("dataUri")).rstrip("/"), properties.get("dataType")


def _container(newest: Manifest) -> Manifest:
    return {"dataType": newest.get("dataType", "uri_folder")}


DATA = AssetType("data", _complete, _content, container=_container)
ROUTES = routes(DATA)
