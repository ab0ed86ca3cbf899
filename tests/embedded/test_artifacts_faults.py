"""A bucket on a bad day, with a real S3 server behind a relay that holds back, cuts off or refuses: what the store says, and what is left of it."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import ssl
import traceback
from collections.abc import AsyncIterator, Awaitable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import httpx2
import pytest
from pydantic import SecretStr
from tests.fixtures.blobs import Container
from tests.fixtures.bucket import Bucket
from tests.fixtures.process import serving
from tests.fixtures.served import Served

from moorage.artifacts import PIECE, Artifacts
from moorage.errors import Invalid, MoorageError, Unavailable
from moorage.identity.pki import ensure_authority, ensure_server_certificate
from moorage.server.services import open_services
from moorage.server.settings import Settings

pytest_plugins = ["tests.fixtures.service", "tests.fixtures.buckets"]
# An S3 server of its own; what the store does on a good day is in the fast ring (test_artifacts_objects.py).
pytestmark = pytest.mark.slow
SHORT = timedelta(milliseconds=300)


def refusal(status: str, code: str) -> bytes:
    """An answer as S3 gives it, with what it must not say again."""
    body = f"<Error><Code>{code}</Code><Message>told</Message><AWSAccessKeyId>AKIATOLD</AWSAccessKeyId></Error>"
    return f"HTTP/1.1 {status}\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}".encode()


@dataclass
class Relay:
    """The way to the server.

    Attributes:
        refusals: answered, one a connection, before anything goes through; `always` for all of them.
        silent: nothing is answered.
        up, down: how many bytes of a connection go through before it is cut; any when None.
        asked: the request lines that began a connection.
    """

    target: str
    address: str = ""
    refusals: list[bytes] = field(default_factory=list)
    always: bytes = b""
    silent: bool = False
    up: int | None = None
    down: int | None = None
    asked: list[str] = field(default_factory=list)
    _serving: dict[asyncio.Task[None], asyncio.StreamWriter] = field(default_factory=dict)

    def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._serving[asyncio.create_task(self._serve_one(reader, writer))] = writer

    async def close(self) -> None:
        for writer in self._serving.values():
            writer.transport.abort()
        await asyncio.gather(*self._serving)

    async def _serve_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            await self._serve(reader, writer)
        await closed(writer)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        self.asked.append(head.split(b"\r\n")[0].decode())
        refused = self.always or (self.refusals.pop(0) if self.refusals else b"")
        if refused:
            writer.write(refused)
            await writer.drain()
            # What is sent is read, else the answer would be lost with a reset.
            if writer.can_write_eof():
                writer.write_eof()
            await reader.read()
            return
        if self.silent:
            await reader.read()
            return
        host, _, port = self.target.partition(":")
        ahead, behind = await asyncio.open_connection(host, int(port))
        ways = [asyncio.create_task(copy(reader, behind, self.up)), asyncio.create_task(copy(ahead, writer, self.down))]
        try:
            behind.write(head)
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            await closed(behind)


async def closed(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()


async def copy(source: asyncio.StreamReader, target: asyncio.StreamWriter, most: int | None) -> None:
    left = most
    while left is None or left > 0:
        data = await source.read(65536 if left is None else min(left, 65536))
        if not data:
            return
        target.write(data)
        await target.drain()
        left = None if left is None else left - len(data)


@pytest.fixture
async def relay(bucket: Bucket, loopback_bucket: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Relay]:
    made = Relay(bucket.address)
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0, limit=1 << 20)
    host, port = server.sockets[0].getsockname()[:2]
    made.address = f"{host}:{port}"
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{made.address}")
    yield made
    server.close()
    await made.close()


async def refused(work: Awaitable[object]) -> MoorageError:
    with pytest.raises(MoorageError) as caught:
        await work
    return caught.value


async def names(url: str) -> list[str]:
    return [name async for name, _ in Artifacts.open(url).list()]


async def test_a_bucket_that_is_busy_for_a_moment_is_asked_again(relay: Relay, loopback_bucket: str) -> None:
    artifacts = Artifacts.open(loopback_bucket)
    relay.refusals = [refusal("503 Service Unavailable", "SlowDown"), refusal("500 Internal Server Error", "InternalError")]
    await artifacts.put("c/x", b"data")
    assert await artifacts.get("c/x", 0, 4) == b"data"
    assert relay.refusals == []
    # One request for an object, whole: no upload in parts that could stay half-done.
    assert {line for line in relay.asked if line.startswith(("PUT", "POST"))} == {
        f"PUT /{loopback_bucket.removeprefix('s3://')}/c/x HTTP/1.1"
    }


async def test_a_bucket_that_stays_busy_is_given_up_in_words(relay: Relay, loopback_bucket: str, caplog: pytest.LogCaptureFixture) -> None:
    relay.always = refusal("503 Service Unavailable", "SlowDown")
    error = await refused(Artifacts.open(loopback_bucket, patience=SHORT).put("c/x", b"data"))
    assert isinstance(error, Unavailable)
    assert (error.code, error.message) == (
        "ArtifactsUnavailable",
        "The artifact store does not answer: 503 Service Unavailable (SlowDown).",
    )
    assert len(relay.asked) <= 11
    assert [record.levelno for record in caplog.records if record.name.startswith("moorage.artifacts")] == [logging.WARNING]


async def test_a_silent_bucket_is_given_up(relay: Relay, loopback_bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_TIMEOUT", "300ms")
    relay.silent = True
    artifacts = Artifacts.open(loopback_bucket, patience=timedelta(milliseconds=100))
    for work in (artifacts.put("c/x", b"data"), artifacts.get("c/x", 0, 4), artifacts.delete(["c/x"])):
        error = await refused(work)
        assert (error.code, error.message) == ("ArtifactsUnavailable", "The artifact store does not answer: the request timed out.")


async def test_an_upload_that_is_cut_off_leaves_nothing(relay: Relay, loopback_bucket: str) -> None:
    artifacts = Artifacts.open(loopback_bucket, patience=SHORT)
    relay.up = PIECE // 8
    error = await refused(artifacts.put("c/x", os.urandom(PIECE)))
    assert error.code == "ArtifactsUnavailable"
    relay.up = None
    assert await names(loopback_bucket) == []
    await Artifacts.open(loopback_bucket).put("c/x", b"data")
    assert await names(loopback_bucket) == ["c/x"]


async def test_a_download_that_is_cut_off_is_never_taken_for_whole(relay: Relay, loopback_bucket: str) -> None:
    data = os.urandom(PIECE)
    await Artifacts.open(loopback_bucket).put("c/x", data)
    relay.down = PIECE // 8
    # Connections that were opened before are used again, so a client of its own.
    error = await refused(Artifacts.open(loopback_bucket, patience=SHORT).get("c/x", 0, PIECE))
    assert error.code == "ArtifactsUnavailable"
    relay.down = None
    assert await Artifacts.open(loopback_bucket).get("c/x", 0, PIECE) == data


@pytest.mark.parametrize(
    ("variable", "value", "code", "said"),
    [
        ("AWS_SECRET_ACCESS_KEY", "not-the-secret", "ArtifactsForbidden", "403 Forbidden (SignatureDoesNotMatch)"),
        ("AWS_ACCESS_KEY_ID", "AKIANOBODY", "ArtifactsForbidden", "403 Forbidden (InvalidAccessKeyId)"),
        ("", "", "ArtifactsBucketNotFound", "does not exist"),
        ("AWS_ALLOW_HTTP", "false", "ArtifactsUnavailable", "AWS_ALLOW_HTTP=true"),
    ],
)
async def test_a_service_does_not_start_on_a_bucket_it_cannot_use(
    bucket: Bucket, loopback_bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, code: str, said: str
) -> None:
    url = loopback_bucket if variable else "s3://elsewhere/x"
    if variable:
        monkeypatch.setenv(variable, value)
    with pytest.raises(Unavailable if code == "ArtifactsUnavailable" else Invalid) as caught:
        async with open_services(Settings(home=tmp_path / "home", artifacts_url=SecretStr(url))):
            pass
    error = caught.value
    assert (error.code, error.target) == (code, "artifacts_url")
    assert said in error.message and "MOORAGE_ARTIFACTS_URL" in error.message
    told = "".join(traceback.format_exception(error))
    for secret in (bucket.secret, bucket.key, bucket.address, "not-the-secret", "AKIANOBODY"):
        assert secret not in told


async def test_a_service_does_not_start_on_a_bucket_that_is_away(
    tmp_path: Path, loopback_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Taken and never listened on: connections are refused for as long as it is held.
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{taken.getsockname()[1]}")
        error = await refused(Artifacts.open(loopback_bucket, patience=SHORT).check())
    assert isinstance(error, Unavailable) and error.code == "ArtifactsUnavailable"
    assert "no connection" in error.message and "MOORAGE_ARTIFACTS_URL" in error.message and "127.0.0.1" not in error.message


async def test_a_bucket_of_a_private_authority_is_reached_once_that_is_named(
    tmp_path: Path, loopback_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = ensure_server_certificate(ensure_authority(tmp_path / "pki"), tmp_path / "pki", "server", ["127.0.0.1", "localhost"])
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate.certificate_path, certificate.key_path)
    relay = Relay("", always=refusal("403 Forbidden", "AccessDenied"))
    server = await asyncio.start_server(relay.serve, "127.0.0.1", 0, ssl=context)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    untrusted = await refused(Artifacts.open(loopback_bucket, patience=SHORT).put("c/x", b"data"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "pki" / "ca.pem"))
    trusted = await refused(Artifacts.open(loopback_bucket, patience=SHORT).put("c/x", b"data"))
    server.close()
    await relay.close()
    assert untrusted.code == "ArtifactsUnavailable" and "SSL_CERT_FILE" in untrusted.message
    assert trusted.code == "ArtifactsForbidden"


async def test_a_bucket_that_goes_in_the_middle_of_a_download_breaks_it_off(relay: Relay, loopback_bucket: str, tmp_path: Path) -> None:
    running = serving(tmp_path / "home", {"MOORAGE_ARTIFACTS_URL": loopback_bucket})
    # In a thread: the service's way to the bucket leads through this loop.
    service = await asyncio.to_thread(running.__enter__)
    try:
        context = ssl.create_default_context(cafile=service.authority)
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        async with httpx2.AsyncClient(verify=context, trust_env=False, timeout=90) as http:
            url, data = f"{service.url}/{service.container}/x?{service.link}", os.urandom(6 * PIECE)
            assert (await http.put(url, content=data, headers={"x-ms-blob-type": "BlockBlob"})).status_code == 201
            # More is on its way by then than sockets hold, but not the whole.
            got = b""
            with pytest.raises(httpx2.TransportError):
                async with http.stream("GET", url) as answer:
                    assert answer.status_code == 200 and int(answer.headers["content-length"]) == len(data)
                    async for chunk in answer.aiter_raw():
                        relay.always = refusal("403 Forbidden", "AccessDenied")
                        got += chunk
            assert data.startswith(got) and len(got) < len(data)
            relay.always = b""
            assert (await http.get(url)).content == data
    finally:
        running.__exit__(None, None, None)


class TestServed:
    """What a storage client is told."""

    @pytest.fixture
    def artifacts_url(self, relay: Relay, loopback_bucket: str) -> str:
        return loopback_bucket

    @pytest.mark.parametrize(
        ("status", "code", "ours"),
        [
            ("403 Forbidden", "AccessDenied", "ArtifactsForbidden"),
            ("404 Not Found", "NoSuchBucket", "ArtifactsBucketNotFound"),
            ("400 Bad Request", "ExpiredToken", "ArtifactsUnavailable"),
        ],
    )
    async def test_a_fault_of_the_bucket_is_not_the_callers(self, served: Served, relay: Relay, status: str, code: str, ours: str) -> None:
        container = Container(served, "rlwd")
        assert (await container.put("/kept", b"as it was")).status_code == 201
        relay.always = refusal(status, code)
        for method in ("PUT", "GET"):
            answer = await container.send(method, "/kept", content=b"new" if method == "PUT" else None, x_ms_blob_type="BlockBlob")
            assert (answer.status_code, answer.headers["x-ms-error-code"]) == (503, ours), answer.text
            assert answer.headers["retry-after"] and "AKIATOLD" not in answer.text and relay.address not in answer.text
        assert (await container.send("PUT", "/b", query="comp=block&blockid=YQ==", content=b"1")).status_code == 503
        relay.always = b""
        assert (await container.send("GET", "/b", query="comp=blocklist&blocklisttype=all")).status_code == 404
        assert (await container.send("GET", "/kept")).content == b"as it was"

    async def test_the_sweep_goes_on_where_the_bucket_failed_it(self, served: Served, relay: Relay, loopback_bucket: str) -> None:
        container = Container(served, "rlwd")
        for content in (b"1", b"2", b"3"):
            await container.put("/x", content)
        served.clock.time += timedelta(days=3)
        relay.always = refusal("403 Forbidden", "AccessDenied")
        assert (await refused(served.services.blobs.sweep())).code == "ArtifactsForbidden"
        relay.always = b""
        assert len(await names(loopback_bucket)) == 3
        await served.services.blobs.sweep()
        assert len(await names(loopback_bucket)) == 1
        assert await served.services.blobs.read(container.name, "x") == b"3"
