"""Stored objects in the form a request asks for: another API version of the same object, metadata only, or as they are."""

from __future__ import annotations

from typing import Any

import orjson

from moorage.embedded.kinds import Resource
from moorage.embedded.objects import Entry
from moorage.specs.manifest import Manifest


def as_requested(resource: Resource, entry: Entry) -> bytes:
    """The object's JSON under the resource's API version. Almost always the stored bytes."""
    if not _converts(resource):
        return entry.data
    return orjson.dumps(manifest_of(resource, entry))


def manifest_of(resource: Resource, entry: Entry) -> Manifest:
    manifest = entry.manifest()
    if not _converts(resource):
        return manifest
    if resource.kind.group == "events.k8s.io":
        return _event_v1(manifest)
    manifest["apiVersion"] = resource.kind.api_version
    return manifest


def _converts(resource: Resource) -> bool:
    if resource.definition is not None:
        return not resource.definition.only_version
    return resource.kind.group != resource.storage[0]


def to_stored(resource: Resource, manifest: Manifest) -> Manifest:
    """A submitted events.k8s.io/v1 Event as the core Event it is kept as; anything else as it is."""
    if resource.kind.group != "events.k8s.io":
        return manifest
    renamed = {"regarding": "involvedObject", "note": "message", "reportingController": "reportingComponent"}
    renamed |= {"deprecatedSource": "source", "deprecatedFirstTimestamp": "firstTimestamp", "deprecatedLastTimestamp": "lastTimestamp"}
    renamed |= {"deprecatedCount": "count"}
    return {renamed.get(name, name): value for name, value in manifest.items()} | {"apiVersion": "v1"}


def _event_v1(event: Manifest) -> Manifest:
    renamed = {"involvedObject": "regarding", "message": "note", "reportingComponent": "reportingController"}
    renamed |= {"source": "deprecatedSource", "firstTimestamp": "deprecatedFirstTimestamp", "lastTimestamp": "deprecatedLastTimestamp"}
    renamed |= {"count": "deprecatedCount"}
    return {renamed.get(name, name): value for name, value in event.items()} | {"apiVersion": "events.k8s.io/v1"}


def metadata_only(manifest: Manifest) -> dict[str, Any]:
    return {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": manifest["metadata"]}
