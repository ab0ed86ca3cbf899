"""The OpenAPI documents kubectl looks at: custom kinds with the schemas of their definitions, built-in kinds with Kubernetes' own (schemas.json.gz).

Documents are made anew for each request, since kubectl asks for one only when its hash in the index has changed, and all schemas unpacked take some megabytes.
"""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Any

import orjson

from moorage.embedded.kinds import Catalog, Resource
from moorage.embedded.version import GIT_VERSION

V2_PROTOBUF = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf"
# As the API server answers: an @ is no part of a media type to those who parse it.
V2_ANSWER = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
_INFO = {"title": "Kubernetes", "version": GIT_VERSION}
_REF = "#/components/schemas/"
_META = "io.k8s.apimachinery.pkg.apis.meta.v1."
# Go packages whose name is not their group's first word.
_PACKAGES = {
    "apiextensions.k8s.io": "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions",
    "apiregistration.k8s.io": "io.k8s.kube-aggregator.pkg.apis.apiregistration",
}


def _name(resource: Resource) -> str:
    kind = resource.kind
    if resource.definition is not None:
        return ".".join((*reversed(kind.group.split(".")), kind.version, kind.kind))
    package = _PACKAGES.get(kind.group) or f"io.k8s.api.{kind.group.partition('.')[0] or 'core'}"
    return f"{package}.{kind.version}.{kind.kind}"


def _published() -> Mapping[str, Any]:
    packed = (resources.files(__package__) / "schemas.json.gz").read_bytes()
    parsed: Mapping[str, Any] = orjson.loads(gzip.decompress(packed))
    return parsed


def _schemas(found: Sequence[Resource]) -> dict[str, Any]:
    """The schema of each kind, and all that they refer to."""
    published = _published()
    schemas = {_name(resource): _schema(resource, published) for resource in found}
    waiting = [reference for schema in schemas.values() for reference in _references(schema)]
    while waiting:
        name = waiting.pop()
        if name not in schemas and name in published:
            schemas[name] = published[name]
            waiting += _references(published[name])
    return schemas


def _references(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        for name, value in schema.items():
            if name == "$ref" and isinstance(value, str):
                yield value.removeprefix(_REF)
            else:
                yield from _references(value)
    elif isinstance(schema, list):
        for item in schema:
            yield from _references(item)


def _schema(resource: Resource, published: Mapping[str, Any]) -> dict[str, Any]:
    kind = resource.kind
    if resource.definition is not None:
        schema = dict(resource.definition.schema)
        common = published["io.k8s.api.core.v1.ConfigMap"]["properties"]
        described = {name: common[name] for name in ("apiVersion", "kind", "metadata")}
        schema["properties"] = {**(schema.get("properties") or {}), **described}
    else:
        # Volcano's kinds, which are built in only here, have no published schema.
        schema = dict(published.get(_name(resource)) or {"type": "object", "x-kubernetes-preserve-unknown-fields": True})
    schema["x-kubernetes-group-version-kind"] = [{"group": kind.group, "version": kind.version, "kind": kind.kind}]
    return schema


def _paths(resource: Resource) -> dict[str, Any]:
    kind = resource.kind
    base = f"/apis/{kind.group}/{kind.version}" if kind.group else f"/api/{kind.version}"
    path = f"{base}/namespaces/{{namespace}}/{kind.plural}/{{name}}" if kind.namespaced else f"{base}/{kind.plural}/{{name}}"
    tag = {"x-kubernetes-group-version-kind": {"group": kind.group, "version": kind.version, "kind": kind.kind}}
    validation = {"name": "fieldValidation", "in": "query", "schema": {"type": "string"}}
    dry_run = {"name": "dryRun", "in": "query", "schema": {"type": "string"}}
    answer = {"200": {"description": "OK", "content": {"application/json": {"schema": {"$ref": f"{_REF}{_name(resource)}"}}}}}
    operation = {"parameters": [dry_run, validation], "responses": answer, **tag}
    return {path: {"get": {"responses": answer, **tag}, "patch": {**operation, "x-kubernetes-action": "patch"}}}


def v2(catalog: Catalog) -> dict[str, Any]:
    """Swagger 2.0. Enough for kubectl's validation, which falls back to the server's where a field is not described."""
    found = catalog.resources()
    paths: dict[str, Any] = {}
    for resource in found:
        paths |= _paths(resource)
    text = orjson.dumps({"paths": paths, "definitions": _schemas(found)}).replace(_REF.encode(), b"#/definitions/")
    return {"swagger": "2.0", "info": _INFO, **orjson.loads(text)}


def v2_protobuf() -> bytes:
    """The same document as a protocol buffer, without kinds: old clients ask for it about kinds that version 3 does not have.

    An openapi.v2.Document (gnostic): 1 is `swagger`, 2 is `info` with title and version, 8 is `paths`, 9 is `definitions`.
    """

    def field(number: int, value: bytes) -> bytes:
        return bytes([number << 3 | 2, len(value)]) + value

    info = field(1, _INFO["title"].encode()) + field(2, _INFO["version"].encode())
    return field(1, b"2.0") + field(2, info) + field(8, b"") + field(9, b"")


def v3_index(catalog: Catalog) -> dict[str, Any]:
    """Where each group version's document lies. The hash in it changes with the document, so that clients can keep what they have."""
    paths = {}
    for group, versions in catalog.groups().items():
        for version, found in versions.items():
            place = f"apis/{group}/{version}" if group else f"api/{version}"
            paths[place] = {"serverRelativeURL": f"/openapi/v3/{place}?hash={_hash(found)}"}
    return {"paths": paths}


def v3(catalog: Catalog, place: str) -> dict[str, Any] | None:
    """OpenAPI 3 of one group version (`api/v1`, `apis/apps/v1`), None when it is not served."""
    found = _served(catalog, place)
    if not found:
        return None
    paths: dict[str, Any] = {}
    for resource in found:
        paths |= _paths(resource)
    return {"openapi": "3.0.0", "info": _INFO, "paths": paths, "components": {"schemas": _schemas(found)}}


def current(catalog: Catalog, place: str, asked: str | None) -> bool:
    """Whether `asked` is the hash of the document as it is now: then clients may keep the answer for good."""
    found = _served(catalog, place)
    return bool(found) and asked == _hash(found)


def _served(catalog: Catalog, place: str) -> Sequence[Resource]:
    _, _, group_version = place.partition("/")
    group, _, version = group_version.rpartition("/")
    return catalog.groups().get(group, {}).get(version, [])


def _hash(found: Sequence[Resource]) -> str:
    digest = hashlib.sha256(_edition())
    for resource in found:
        schema = resource.definition.schema if resource.definition is not None else {}
        digest.update(orjson.dumps([_name(resource), schema], option=orjson.OPT_SORT_KEYS))
    return digest.hexdigest().upper()


@cache
def _edition() -> bytes:
    """What changes with this installation's schemas."""
    return hashlib.sha256((resources.files(__package__) / "schemas.json.gz").read_bytes()).digest()
