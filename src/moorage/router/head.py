"""The head of a request as a replica gets it: what is passed on of the caller's headers, what is withheld, what is the router's own."""

from __future__ import annotations

from collections.abc import Sequence

from moorage.specs.routing import Address

HOP_BY_HOP = frozenset(
    (
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    )
)
# On copies only. Withheld from callers' requests, so that a model can rely on it.
MIRRORED = b"x-moorage-mirrored"
# Not passed on: the endpoint's key is none of the model's business, and the router answers Expect itself.
WITHHELD = HOP_BY_HOP | {b"host", b"authorization", b"expect", b"content-length", b"x-request-id", b"azureml-model-deployment", MIRRORED}
LAST_CHUNK = b"0\r\n\r\n"


def request_head(prefix: bytes, address: Address, request_id: str, deployment: str, headers: Sequence[tuple[bytes, bytes]]) -> list[bytes]:
    """The head up to, and without, what tells the body's length.

    Args:
        prefix: the request line.
        address: the replica's.
        request_id: the router's or the caller's own.
        deployment: name of the one that gets it.
        headers: the caller's.
    """
    head = [prefix, b"host: %b:%d" % (address[0].encode(), address[1]), b"\r\nx-request-id: ", request_id.encode("latin-1", "replace")]
    head += [b"\r\nazureml-model-deployment: ", deployment.encode(), b"\r\n"]
    for name, value in headers:
        if name.lower() not in WITHHELD:
            head += (name, b": ", value, b"\r\n")
    return head


def framed(data: bytes) -> bytes:
    """One chunk of a chunked body. `data` must not be empty: that would be the last one."""
    return b"%x\r\n%b\r\n" % (len(data), data)
