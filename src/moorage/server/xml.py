"""The XML of Azure Blob REST: errors, listings, block lists."""

from __future__ import annotations

from collections.abc import Sequence
from email.utils import format_datetime
from xml.etree import ElementTree

from moorage.errors import Invalid, MoorageError
from moorage.store import Blob


def error_document(error: MoorageError) -> bytes:
    root = ElementTree.Element("Error")
    ElementTree.SubElement(root, "Code").text = error.code
    ElementTree.SubElement(root, "Message").text = error.message
    return _document(root)


def listing(container: str, found: Sequence[Blob | str], asked: dict[str, str], marker: str) -> bytes:
    """`EnumerationResults`.

    Args:
        container: its name.
        found: blobs, and folders as strings that end with the delimiter.
        asked: Prefix, Delimiter, Marker and MaxResults as sent, shown again.
        marker: where the next page goes on; empty on the last.
    """
    root = ElementTree.Element("EnumerationResults", ContainerName=container)
    for name in ("Prefix", "Marker", "MaxResults", "Delimiter"):
        if asked.get(name.lower()):
            ElementTree.SubElement(root, name).text = asked[name.lower()]
    blobs = ElementTree.SubElement(root, "Blobs")
    with_metadata = "metadata" in asked.get("include", "").split(",")
    for each in found:
        if isinstance(each, str):
            ElementTree.SubElement(ElementTree.SubElement(blobs, "BlobPrefix"), "Name").text = each
        else:
            blobs.append(_blob(each, with_metadata=with_metadata))
    ElementTree.SubElement(root, "NextMarker").text = marker
    return _document(root)


def block_ids(text: bytes) -> list[str]:
    """The ids of a `BlockList`, in order; Invalid when it is none."""
    if b"<!DOCTYPE" in text:
        raise Invalid("The block list must not have a document type.", code="InvalidXmlDocument")
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise Invalid(f"The block list is not XML: {error}.", code="InvalidXmlDocument") from error
    if root.tag != "BlockList":
        raise Invalid("The body must be a BlockList.", code="InvalidXmlDocument")
    for child in root:
        if child.tag not in ("Latest", "Uncommitted"):
            raise Invalid(
                f"'{child.tag}' is not supported in a block list: put every block again and name it Latest.", code="InvalidXmlDocument"
            )
    return [(child.text or "").strip() for child in root]


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
        ("BlobType", "BlockBlob"),
    ):
        ElementTree.SubElement(properties, name).text = value
    if with_metadata:
        metadata = ElementTree.SubElement(element, "Metadata")
        for name, value in blob.metadata.items():
            ElementTree.SubElement(metadata, name).text = value
    return element


def _document(root: ElementTree.Element) -> bytes:
    return bytes(ElementTree.tostring(root, encoding="utf-8", xml_declaration=True))
