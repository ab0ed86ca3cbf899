"""The body of an online endpoint on a Kubernetes compute."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints

from moorage.errors import Invalid
from moorage.specs.endpoints import AuthMode
from moorage.specs.manifest import Manifest
from moorage.wire.bodies import Body, read

_AUTH_MODES = {mode.value.lower(): mode for mode in AuthMode}
_Share = Annotated[int, Field(strict=True)]
# Twice what a generated key has; long enough for anyone's own, short enough for a header.
_Key = Annotated[str, StringConstraints(min_length=16, max_length=128, pattern=r"^[\x21-\x7e]+$")]


class EndpointKeys(Body):
    primary_key: _Key | None = None
    secondary_key: _Key | None = None


class EndpointProperties(Body):
    auth_mode: str = AuthMode.KEY.value
    compute: Annotated[str, StringConstraints(min_length=1)]
    description: str | None = None
    traffic: dict[str, _Share] | None = None
    mirror_traffic: dict[str, _Share] | None = None
    properties: dict[str, object] | None = None
    keys: EndpointKeys | None = None

    @property
    def auth(self) -> AuthMode:
        return _AUTH_MODES[self.auth_mode.lower().replace("_", "")]


def read_endpoint(raw: object) -> EndpointProperties:
    """Read `properties` of an online endpoint; Invalid names every wrong field."""
    if isinstance(raw, dict) and not raw.get("compute"):
        raise Invalid(
            "properties.compute is required: managed endpoints do not exist here. Name a Kubernetes compute (kind kubernetesOnlineEndpoint).",
            target="properties.compute",
        )
    endpoint = read(EndpointProperties, raw)
    if endpoint.auth_mode.lower().replace("_", "") not in _AUTH_MODES:
        raise Invalid(f"properties.authMode: '{endpoint.auth_mode}' is unknown. Use Key or AMLToken.", target="properties.authMode")
    return endpoint


def answered(raw: Manifest) -> Manifest:
    """What is stored and answered of the properties: all of it except keys, which are sealed elsewhere."""
    kept = {key: value for key, value in raw.items() if key != "keys"}
    kept["properties"] = raw.get("properties") or {}
    kept["traffic"] = raw.get("traffic") or {}
    kept["mirrorTraffic"] = raw.get("mirrorTraffic") or {}
    kept["authMode"] = _AUTH_MODES.get(str(raw.get("authMode") or "Key").lower().replace("_", ""), AuthMode.KEY).value
    return kept
