"""The XML of Azure Blob REST: errors, listings, block lists."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from email.utils import format_datetime
from xml.etree import ElementTree

from moorage.errors import Invalid, MoorageError
from moorage.ids import digest
from moorage.server.blobstore import Named
from moorage.store import Blob, Part


def error_document(error: MoorageError) -> bytes:
    root = ElementTree.Element("Error")
    ElementTree.SubElement(root, "Code").text = error.code
    ElementTree.SubElement(root, "Message").text = error.message
    return _document(root)


def listing(container: str, found: Sequence[Blob | str], asked: Mapping[str, str], marker: str) -> bytes:
    """`EnumerationResults`.

    Args:
        container: its name.
        found: blobs, and folders as strings that end with the delimiter.
        asked: Prefix, Delimiter, Marker and MaxResults as sent, shown again.
        marker: where the next page goes on; empty on the last.
    """
    root = ElementTree.Element("EnumerationResults", ContainerName=container)
    _asked(root, asked)
    blobs = ElementTree.SubElement(root, "Blobs")
    with_metadata = "metadata" in asked.get("include", "").split(",")
    for each in found:
        if isinstance(each, str):
            ElementTree.SubElement(ElementTree.SubElement(blobs, "BlobPrefix"), "Name").text = each
        else:
            blobs.append(_blob(each, with_metadata=with_metadata))
    ElementTree.SubElement(root, "NextMarker").text = marker
    return _document(root)


def containers(found: Sequence[tuple[str, datetime]], asked: Mapping[str, str], marker: str) -> bytes:
    """`EnumerationResults` of containers: names and since when they are there."""
    root = ElementTree.Element("EnumerationResults")
    _asked(root, asked)
    listed = ElementTree.SubElement(root, "Containers")
    for name, since in found:
        element = ElementTree.SubElement(listed, "Container")
        ElementTree.SubElement(element, "Name").text = name
        properties = ElementTree.SubElement(element, "Properties")
        for field, value in container_properties(name, since).items():
            ElementTree.SubElement(properties, field.removeprefix("x-ms-")).text = value
    ElementTree.SubElement(root, "NextMarker").text = marker
    return _document(root)


def container_properties(name: str, since: datetime) -> dict[str, str]:
    """What is to say of a container, as headers."""
    return {
        "Last-Modified": format_datetime(since, usegmt=True),
        "Etag": f'"0x{digest(name).upper()}"',
        "x-ms-lease-status": "unlocked",
        "x-ms-lease-state": "available",
        "x-ms-has-immutability-policy": "false",
        "x-ms-has-legal-hold": "false",
    }


def block_list(asked: str, uncommitted: Mapping[str, Sequence[Part]], committed: Mapping[str, Sequence[Part]]) -> bytes:
    """`BlockList`: ids and sizes of a blob's blocks; `asked` is committed, uncommitted or all."""
    root = ElementTree.Element("BlockList")
    for word, title, blocks in (("committed", "CommittedBlocks", committed), ("uncommitted", "UncommittedBlocks", uncommitted)):
        if asked in (word, "all"):
            element = ElementTree.SubElement(root, title)
            for block, parts in blocks.items():
                each = ElementTree.SubElement(element, "Block")
                ElementTree.SubElement(each, "Name").text = block
                ElementTree.SubElement(each, "Size").text = str(sum(part.size for part in parts))
    return _document(root)


def named_blocks(text: bytes) -> list[Named]:
    """The entries of a `BlockList`, in order; Invalid when it is none."""
    if b"<!DOCTYPE" in text:
        raise Invalid("The block list must not have a document type.", code="InvalidXmlDocument")
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise Invalid(f"The block list is not XML: {error}.", code="InvalidXmlDocument") from error
    if root.tag != "BlockList":
        raise Invalid("The body must be a BlockList.", code="InvalidXmlDocument")
    for child in root:
        if child.tag not in ("Latest", "Uncommitted", "Committed"):
            raise Invalid(f"A block list holds Latest, Uncommitted and Committed, not '{child.tag}'.", code="InvalidXmlDocument")
    return [Named((child.text or "").strip(), uncommitted=child.tag != "Committed", committed=child.tag != "Uncommitted") for child in root]


def _asked(root: ElementTree.Element, asked: Mapping[str, str]) -> None:
    for name in ("Prefix", "Marker", "MaxResults", "Delimiter"):
        if asked.get(name.lower()):
            ElementTree.SubElement(root, name).text = asked[name.lower()]


def _blob(blob: Blob, *, with_metadata: bool) -> ElementTree.Element:
    element = ElementTree.Element("Blob")
    ElementTree.SubElement(element, "Name").text = blob.name
    properties = ElementTree.SubElement(element, "Properties")
    for name, value in (
        ("Creation-Time", format_datetime(blob.created_at, usegmt=True)),
        ("Last-Modified", format_datetime(blob.modified_at, usegmt=True)),
        ("Etag", blob.etag.strip('"')),
        ("Content-Length", str(blob.size)),
        ("Content-Type", blob.content_type),
        ("Content-MD5", blob.md5),
        *blob.headers.items(),
        ("BlobType", "BlockBlob"),
        ("AccessTier", "Hot"),
        ("AccessTierInferred", "true"),
        ("LeaseStatus", "unlocked"),
        ("LeaseState", "available"),
        ("ServerEncrypted", "false"),
    ):
        if value:
            ElementTree.SubElement(properties, name).text = value
    if with_metadata:
        metadata = ElementTree.SubElement(element, "Metadata")
        for name, value in blob.metadata.items():
            ElementTree.SubElement(metadata, name).text = value
    return element


def _document(root: ElementTree.Element) -> bytes:
    return bytes(ElementTree.tostring(root, encoding="utf-8", xml_declaration=True))
