"""The XML of Azure Blob REST: errors, listings, block lists."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from email.utils import format_datetime
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from moorage.errors import Invalid, MoorageError
from moorage.ids import digest
from moorage.server.blobstore import Named
from moorage.store import Blob, Part

# What is the same of every blob.
_OF_ALL = (
    "<BlobType>BlockBlob</BlobType><AccessTier>Hot</AccessTier><AccessTierInferred>true</AccessTierInferred>"
    "<LeaseStatus>unlocked</LeaseStatus><LeaseState>available</LeaseState><ServerEncrypted>false</ServerEncrypted>"
)


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
    ElementTree.SubElement(root, "Blobs")
    ElementTree.SubElement(root, "NextMarker").text = marker
    with_metadata = "metadata" in asked.get("include", "").split(",")
    # As text: a tree of 5,000 blobs takes 200 ms, in which the service would answer nobody.
    listed = "".join(
        f"<BlobPrefix>{_element('Name', each)}</BlobPrefix>" if isinstance(each, str) else _blob(each, with_metadata=with_metadata)
        for each in found
    )
    # What clients sent has its brackets escaped, so that this is the element.
    return _document(root).replace(b"<Blobs />", _nested("Blobs", listed).encode("utf-8", "xmlcharrefreplace"))


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


def _blob(blob: Blob, *, with_metadata: bool) -> str:
    modified = format_datetime(blob.modified_at, usegmt=True)
    properties = (
        ("Creation-Time", modified if blob.created_at == blob.modified_at else format_datetime(blob.created_at, usegmt=True)),
        ("Last-Modified", modified),
        ("Etag", blob.etag.strip('"')),
        ("Content-Length", str(blob.size)),
        ("Content-Type", blob.content_type),
        ("Content-MD5", blob.md5),
        *blob.headers.items(),
    )
    said = "".join([_element(name, value) for name, value in properties if value]) + _OF_ALL
    metadata = _nested("Metadata", "".join([_element(name, value) for name, value in blob.metadata.items()])) if with_metadata else ""
    return f"<Blob>{_element('Name', blob.name)}<Properties>{said}</Properties>{metadata}</Blob>"


def _element(name: str, text: str) -> str:
    return _nested(name, escape(text))


def _nested(name: str, inner: str) -> str:
    return f"<{name}>{inner}</{name}>" if inner else f"<{name} />"


def _document(root: ElementTree.Element) -> bytes:
    return bytes(ElementTree.tostring(root, encoding="utf-8", xml_declaration=True))
