"""`/swagger.json`: the deployment's own description, with the samples of input-schema decorators where run() has them."""

from __future__ import annotations

import importlib
import os
from typing import Any

from .script import Script

_VERSIONS = {"2": "2.0", "2.0": "2.0", "3": "3.0.3", "3.0": "3.0.3", "3.1": "3.1.0"}
_ERROR = {"type": "object", "properties": {"message": {"type": "string"}}}


def document(version: str, script: Script) -> tuple[dict[str, Any] | None, str]:
    """The description in that version, or None and why not."""
    if version not in _VERSIONS:
        return None, f"Swagger version [{version}] is not valid. Supported versions: [2, 3, 3.1]."
    given, returned = _schemas(script, version)
    number = _VERSIONS[version]
    build = _swagger if number == "2.0" else _openapi
    return build(number, given, returned), ""


def _schemas(script: Script, version: str) -> tuple[dict[str, Any], dict[str, Any]]:
    if not script.decorated:
        return {"type": "object", "example": {"data": []}}, {"type": "object"}
    util = importlib.import_module("inference_schema.schema_util")
    return dict(util.get_input_schema(script.run)), dict(util.get_output_schema(script.run))


def _information() -> dict[str, Any]:
    name = os.environ.get("SERVICE_NAME", "ML service")
    return {
        "title": name,
        "description": f"API specification for the online deployment {name}",
        "version": os.environ.get("SERVICE_VERSION", "1.0"),
    }


def _prefix() -> str:
    return "/" + os.environ.get("SERVICE_PATH_PREFIX", "").strip("/")


def _swagger(number: str, given: dict[str, Any], returned: dict[str, Any]) -> dict[str, Any]:
    security: list[dict[str, list[str]]] = [{"Bearer": []}]
    return {
        "swagger": number,
        "info": _information(),
        "basePath": _prefix(),
        "schemes": ["https", "http"],
        "consumes": ["application/json"],
        "produces": ["application/json"],
        "securityDefinitions": {
            "Bearer": {"type": "apiKey", "name": "Authorization", "in": "header", "description": "Bearer KEY_OR_TOKEN"}
        },
        "paths": {
            "/": {
                "get": {
                    "operationId": "ServiceHealthCheck",
                    "description": "Simple health check",
                    "produces": ["text/plain"],
                    "responses": {"200": {"description": "Healthy", "schema": {"type": "string"}}},
                }
            },
            "/score": {
                "post": {
                    "operationId": "RunMLService",
                    "description": "Run the scoring script",
                    "security": security,
                    "parameters": [
                        {"name": "serviceInputPayload", "in": "body", "required": True, "schema": {"$ref": "#/definitions/ServiceInput"}}
                    ],
                    "responses": {
                        "200": {"description": "What run() returned", "schema": {"$ref": "#/definitions/ServiceOutput"}},
                        "default": {"description": "An error", "schema": {"$ref": "#/definitions/ErrorResponse"}},
                    },
                }
            },
        },
        "definitions": {"ServiceInput": given, "ServiceOutput": returned, "ErrorResponse": _ERROR},
    }


def _openapi(number: str, given: dict[str, Any], returned: dict[str, Any]) -> dict[str, Any]:
    def content(name: str) -> dict[str, Any]:
        return {"application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}}}

    return {
        "openapi": number,
        "info": _information(),
        "servers": [{"url": _prefix()}],
        "paths": {
            "/": {
                "get": {
                    "operationId": "ServiceHealthCheck",
                    "description": "Simple health check",
                    "responses": {"200": {"description": "Healthy", "content": {"text/plain": {"schema": {"type": "string"}}}}},
                }
            },
            "/score": {
                "post": {
                    "operationId": "RunMLService",
                    "description": "Run the scoring script",
                    "security": [{"Bearer": []}],
                    "requestBody": {"required": True, "content": content("ServiceInput")},
                    "responses": {
                        "200": {"description": "What run() returned", "content": content("ServiceOutput")},
                        "default": {"description": "An error", "content": content("ErrorResponse")},
                    },
                }
            },
        },
        "components": {
            "securitySchemes": {"Bearer": {"type": "http", "scheme": "bearer"}},
            "schemas": {"ServiceInput": given, "ServiceOutput": returned, "ErrorResponse": _ERROR},
        },
    }
