"""Headers of blob requests and answers: what is kept of a blob, what is shown, and what is refused because ignoring it would do another thing than was asked."""

from __future__ import annotations

import re
from collections.abc import Mapping
from email.utils import format_datetime

from starlette.requests import Request

from moorage.errors import Conflict, Invalid, MoorageError
from moorage.server.blobstore import Description
from moorage.server.checksums import Digest, Expected
from moorage.store import Blob

METADATA = "x-ms-meta-"
DEFAULT_TYPE = "application/octet-stream"
_METADATA_NAME = re.compile(r"^[A-Za-z_][A-Za-z0-9_]*$")
# Azure's limit for all names and values together.
_METADATA_LIMIT = 8 * 1024
_KEPT = ("Content-Encoding", "Content-Language", "Content-Disposition", "Cache-Control")
_VERSION = re.compile(r"^\d{4}-\d{2}-\d{2}$")
_NEWEST = "2026-10-06"
# What each would do, so that the refusal says it.
_REFUSED = {
    "x-ms-structured-body": "bodies framed with checksums",
    "x-ms-encryption-key": "encryption with keys of the client",
    "x-ms-encryption-scope": "encryption scopes",
    "x-ms-tags": "tags",
    "x-ms-if-tags": "conditions on tags",
    "x-ms-immutability-policy-until-date": "immutability",
    "x-ms-legal-hold": "legal holds",
    "x-ms-source-encryption-key": "encryption with keys of the client",
}


def check_supported(headers: Mapping[str, str]) -> None:
    """Refuse what asks for something that is not kept here, and writes that lean on a lease."""
    for name, what in _REFUSED.items():
        if headers.get(name):
            raise Invalid(
                f"Header {name} is not supported: {what} are not kept here. Send the request without it.", code="UnsupportedHeader"
            )
    if headers.get("x-ms-lease-id"):
        raise Invalid("There is currently no lease on the blob: leases are not supported.", code="LeaseNotPresentWithBlobOperation")
    if headers.get("x-ms-blob-type", "BlockBlob") != "BlockBlob":
        raise Conflict(
            "The blob type is invalid for this operation: only block blobs are kept (x-ms-blob-type: BlockBlob).", code="InvalidBlobType"
        )
    if headers.get("x-ms-access-tier", "Hot") != "Hot":
        raise Invalid("There is one access tier here, Hot.", code="BlobAccessTierNotSupportedForAccountType", target="x-ms-access-tier")


def description(request: Request) -> Description:
    """What a request says of the blob it writes; `x-ms-blob-...` go before the headers of the request itself."""
    headers = request.headers
    return Description(
        content_type=headers.get("x-ms-blob-content-type") or headers.get("content-type") or DEFAULT_TYPE,
        metadata=metadata(request),
        headers=kept(headers),
        md5=headers.get("x-ms-blob-content-md5", ""),
    )


def kept(headers: Mapping[str, str]) -> dict[str, str]:
    """The headers that a blob is shown with, as `x-ms-blob-...` names them."""
    return {name: value for name in _KEPT if (value := headers.get(f"x-ms-blob-{name.lower()}"))}


def metadata(request: Request) -> dict[str, str]:
    """`x-ms-meta-NAME`; Invalid with InvalidMetadata or MetadataTooLarge."""
    found = {name[len(METADATA) :]: value for name, value in request.headers.items() if name.startswith(METADATA)}
    for name in found:
        if not _METADATA_NAME.match(name):
            raise Invalid(f"Metadata name '{name}' is not an identifier.", code="InvalidMetadata", target=name)
    if sum(len(name) + len(value) for name, value in found.items()) > _METADATA_LIMIT:
        raise Invalid(f"All metadata together may have {_METADATA_LIMIT} bytes.", code="MetadataTooLarge")
    return found


def expected(headers: Mapping[str, str]) -> Expected:
    return Expected(headers.get("content-md5", ""), headers.get("x-ms-content-crc64", ""))


def described(blob: Blob) -> dict[str, str]:
    """Everything about a blob but its length and what its content is."""
    return {
        **written(blob),
        **blob.headers,
        "Accept-Ranges": "bytes",
        "x-ms-blob-type": "BlockBlob",
        "x-ms-creation-time": format_datetime(blob.created_at, usegmt=True),
        "x-ms-lease-status": "unlocked",
        "x-ms-lease-state": "available",
        "x-ms-server-encrypted": "false",
        "x-ms-access-tier": "Hot",
        "x-ms-access-tier-inferred": "true",
        **{METADATA + name: value for name, value in blob.metadata.items()},
    }


def content(blob: Blob) -> dict[str, str]:
    return {"Content-Type": blob.content_type, **({"Content-MD5": blob.md5} if blob.md5 else {})}


def written(blob: Blob) -> dict[str, str]:
    return {"ETag": blob.etag, "Last-Modified": format_datetime(blob.modified_at, usegmt=True)}


def checked(digest: Digest) -> dict[str, str]:
    """What the service calculated, for the client to compare."""
    return {
        **({"Content-MD5": digest.md5} if digest.md5 else {}),
        **({"x-ms-content-crc64": digest.crc64} if digest.crc64 else {}),
        "x-ms-request-server-encrypted": "false",
    }


def of_answer(request: Request, error: MoorageError | None = None) -> dict[str, str]:
    """What every answer has."""
    version = request.headers.get("x-ms-version", "")
    found = {"x-ms-version": version if _VERSION.match(version) else _NEWEST}
    if (sent := request.headers.get("x-ms-client-request-id", "")) and len(sent) <= 1024 and sent.isprintable():
        found["x-ms-client-request-id"] = sent
    return found | ({"x-ms-error-code": error.code} if error else {})
