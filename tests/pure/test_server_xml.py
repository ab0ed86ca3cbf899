"""The XML of blob listings: whatever names and descriptions hold, a reader gets it back."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from xml.etree import ElementTree

from moorage.server.xml import listing
from moorage.store import Blob

NAMES = ["a", "d/b.csv", "<Blobs />", "&amp; <b>", "é\u2028 日本", "'q' \"q\"", "]]>", "50%"]
MADE = datetime(2026, 3, 9, 4, 5, 6, 789, tzinfo=UTC)


def test_a_listing_reads_back_as_what_was_listed() -> None:
    plain = Blob("c-blob", "", 7, "bWQ1", '"0x1F"', "text/plain", MADE, MADE)
    blobs = [
        replace(plain, name=name, metadata={"m": other, "none": ""}, headers={"Content-Encoding": other}, content_type=other)
        for name, other in zip(NAMES, NAMES[::-1], strict=True)
    ]
    asked = {"prefix": "<Blobs />", "delimiter": "/", "include": "metadata"}
    root = ElementTree.fromstring(listing("c-blob", [*blobs, *(f"{name}/" for name in NAMES)], asked, "n<e&xt"))
    assert root.attrib == {"ContainerName": "c-blob"} and [each.tag for each in root] == ["Prefix", "Delimiter", "Blobs", "NextMarker"]
    assert (root.findtext("Prefix"), root.findtext("NextMarker")) == ("<Blobs />", "n<e&xt")
    found = root.findall("Blobs/Blob")
    assert [each.findtext("Name") for each in found] == NAMES
    assert [each.findtext("Metadata/m") for each in found] == NAMES[::-1] and all(each.findtext("Metadata/none") == "" for each in found)
    for field in ("Content-Encoding", "Content-Type"):
        assert [each.findtext(f"Properties/{field}") for each in found] == NAMES[::-1]
    assert [each.findtext("Name") for each in root.findall("Blobs/BlobPrefix")] == [f"{name}/" for name in NAMES]


def test_a_listing_says_of_a_blob_what_there_is_to_say() -> None:
    blob = Blob("c-blob", "a", 0, "", '"0x1F"', "", MADE, MADE + timedelta(days=1))
    assert listing("c-blob", [blob], {}, "").decode() == (
        "<?xml version='1.0' encoding='utf-8'?>\n"
        '<EnumerationResults ContainerName="c-blob"><Blobs><Blob><Name>a</Name><Properties>'
        "<Creation-Time>Mon, 09 Mar 2026 04:05:06 GMT</Creation-Time><Last-Modified>Tue, 10 Mar 2026 04:05:06 GMT</Last-Modified>"
        "<Etag>0x1F</Etag><Content-Length>0</Content-Length><BlobType>BlockBlob</BlobType><AccessTier>Hot</AccessTier>"
        "<AccessTierInferred>true</AccessTierInferred><LeaseStatus>unlocked</LeaseStatus><LeaseState>available</LeaseState>"
        "<ServerEncrypted>false</ServerEncrypted></Properties></Blob></Blobs><NextMarker /></EnumerationResults>"
    )
    assert (
        listing("c-blob", [], {"maxresults": "5"}, "")
        .decode()
        .endswith("<MaxResults>5</MaxResults><Blobs /><NextMarker /></EnumerationResults>")
    )
