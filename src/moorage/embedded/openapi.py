"""The OpenAPI documents kubectl looks at: custom kinds with their schemas, built-in kinds as objects whose fields are not described."""

from __future__ import annotations

from typing import Any

from moorage.embedded.kinds import Catalog, Resource
from moorage.embedded.version import GIT_VERSION

_INFO = {"title": "Kubernetes", "version": GIT_VERSION}


def _name(resource: Resource) -> str:
    kind = resource.kind
    if resource.definition is not None:
        return ".".join((*reversed(kind.group.split(".")), kind.version, kind.kind))
    package = kind.group.partition(".")[0] or "core"
    return f"io.k8s.api.{package}.{kind.version}.{kind.kind}"


def _schema(resource: Resource) -> dict[str, Any]:
    kind = resource.kind
    schema: dict[str, Any] = {"type": "object"}
    if resource.definition is not None:
        schema = dict(resource.definition.schema)
        schema["properties"] = {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            **(schema.get("properties") or {}),
        }
    else:
        schema["x-kubernetes-preserve-unknown-fields"] = True
    schema["x-kubernetes-group-version-kind"] = [{"group": kind.group, "version": kind.version, "kind": kind.kind}]
    return schema


def _paths(resource: Resource) -> dict[str, Any]:
    kind = resource.kind
    base = f"/apis/{kind.group}/{kind.version}" if kind.group else f"/api/{kind.version}"
    path = f"{base}/namespaces/{{namespace}}/{kind.plural}/{{name}}" if kind.namespaced else f"{base}/{kind.plural}/{{name}}"
    tag = {"x-kubernetes-group-version-kind": {"group": kind.group, "version": kind.version, "kind": kind.kind}}
    validation = {"name": "fieldValidation", "in": "query", "schema": {"type": "string"}}
    dry_run = {"name": "dryRun", "in": "query", "schema": {"type": "string"}}
    operation = {"parameters": [dry_run, validation], "responses": {"200": {"description": "OK"}}, **tag}
    return {path: {"get": {"responses": {"200": {"description": "OK"}}, **tag}, "patch": {**operation, "x-kubernetes-action": "patch"}}}


def v2(catalog: Catalog) -> dict[str, Any]:
    """Swagger 2.0. Enough for kubectl's validation, which falls back to the server's where a field is not described."""
    resources = catalog.resources()
    paths: dict[str, Any] = {}
    for resource in resources:
        paths |= _paths(resource)
    return {"swagger": "2.0", "info": _INFO, "paths": paths, "definitions": {_name(r): _schema(r) for r in resources}}


def v3_index(catalog: Catalog) -> dict[str, Any]:
    paths = {}
    for group, versions in catalog.groups().items():
        for version in versions:
            place = f"apis/{group}/{version}" if group else f"api/{version}"
            paths[place] = {"serverRelativeURL": f"/openapi/v3/{place}"}
    return {"paths": paths}


def v3(catalog: Catalog, place: str) -> dict[str, Any] | None:
    """OpenAPI 3 of one group version (`api/v1`, `apis/apps/v1`), None when it is not served."""
    _, _, group_version = place.partition("/")
    group, _, version = group_version.rpartition("/")
    resources = catalog.groups().get(group, {}).get(version, [])
    if not resources:
        return None
    paths: dict[str, Any] = {}
    for resource in resources:
        paths |= _paths(resource)
    schemas = {_name(resource): _schema(resource) for resource in resources}
    return {"openapi": "3.0.0", "info": _INFO, "paths": paths, "components": {"schemas": schemas}}
