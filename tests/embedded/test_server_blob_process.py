"""The blob facade on a real socket and in a real process: what it needs of memory, what a kill leaves, what HTTP/1.1 asks of it.

Slow: each test starts a service, and one moves a GiB.
"""

from __future__ import annotations

import asyncio
import http.client
import os
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest
from pydantic import SecretStr
from tests.fixtures.bucket import place, places
from tests.fixtures.process import Serving, serving

from moorage.artifacts import Artifacts
from moorage.client.blobs import Container
from moorage.client.snapshot import File
from moorage.server.services import open_services
from moorage.server.settings import Settings
from moorage.server.upkeep import tidy

pytest_plugins = ["tests.fixtures.buckets"]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
MEBIBYTE = 1 << 20


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Serving]:
    with serving(tmp_path / "home") as running:
        yield running


def client(service: Serving) -> httpx2.Client:
    context = ssl.create_default_context(cafile=service.authority)
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return httpx2.Client(verify=context, trust_env=False, timeout=120)


def connected(service: Serving) -> ssl.SSLSocket:
    where = urlsplit(service.url)
    context = ssl.create_default_context(cafile=service.authority)
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    plain = socket.create_connection((where.hostname, where.port), timeout=120)
    return context.wrap_socket(plain, server_hostname=where.hostname)


def address(service: Serving, name: str, query: str = "") -> str:
    return f"{service.url}/{service.container}/{name}?{query}{'&' if query else ''}{service.link}"


def kept(home: Path) -> list[Path]:
    return [path for path in (home / "server" / "artifacts").rglob("*") if path.is_file()]


def stored(home: Path, url: str) -> int:
    """Bytes of artifacts: on the disk, whole or not, or in a bucket."""
    if not url.startswith("file:"):
        return sum(size for _, size in asyncio.run(listed(url)))
    total = 0
    for path in kept(home):
        try:
            total += path.stat().st_size
        except FileNotFoundError:
            # Renamed since it was listed, because it is whole now.
            continue
    return total


def test_a_gibibyte_goes_through_in_little_memory(service: Serving, tmp_path: Path) -> None:
    size = 1 << 30
    block = os.urandom(MEBIBYTE)
    with (tmp_path / "large").open("wb") as file:
        for number in range(size // MEBIBYTE):
            file.write(number.to_bytes(8, "big") + block[8:])
    before = service.peak
    with client(service) as http, (tmp_path / "large").open("rb") as file:
        made = http.put(address(service, "whole"), content=iter(lambda: file.read(MEBIBYTE), b""), headers={"x-ms-blob-type": "BlockBlob"})
        assert made.status_code == 201, made.text
        at = 0
        with http.stream("GET", address(service, "whole")) as answer:
            for piece in answer.iter_bytes(MEBIBYTE):
                number, rest = divmod(at, MEBIBYTE)
                assert rest == 0 and piece == number.to_bytes(8, "big") + block[8:]
                at += len(piece)
    assert at == size
    with Container(f"{service.url}/{service.container}", service.link, ca=service.authority) as container:
        container.upload([File("large", tmp_path / "large", size)], "blocks")
        assert [(each.name, each.size) for each in container.listing("blocks/")] == [("blocks/large", size)]
    # Eight requests at once, a piece of 8 MiB each, a few times over; never a share of the GiB.
    assert service.peak - before < 400 * MEBIBYTE


def test_a_slow_reader_is_not_read_ahead_for(service: Serving) -> None:
    with client(service) as http:
        body = (bytes(8 * MEBIBYTE) for _ in range(24))
        assert http.put(address(service, "slow"), content=body, headers={"x-ms-blob-type": "BlockBlob"}).status_code == 201
        before = service.peak
        with http.stream("GET", address(service, "slow")) as answer:
            first = next(answer.iter_bytes(MEBIBYTE))
            # Another request comes through meanwhile, after which the service has had every chance to read on.
            assert http.head(address(service, "slow")).headers["content-length"] == str(24 * 8 * MEBIBYTE)
            assert len(first) == MEBIBYTE
    assert service.peak - before < 100 * MEBIBYTE


async def listed(url: str) -> list[tuple[str, int]]:
    return [each async for each in Artifacts.open(url).list()]


def _killed_in_a_block(home: Path, url: str) -> None:
    with serving(home, {"MOORAGE_ARTIFACTS_URL": url}) as service:
        with client(service) as http:
            assert http.put(address(service, "b", "comp=block&blockid=YQ=="), content=b"staged").status_code == 201
        with connected(service) as stream:
            where = urlsplit(address(service, "b", "comp=block&blockid=Yg=="))
            head = f"PUT {where.path}?{where.query} HTTP/1.1\r\nHost: {where.netloc}\r\nContent-Length: {64 * MEBIBYTE}\r\n\r\n"
            stream.sendall(head.encode() + bytes(40 * MEBIBYTE))
            deadline = time.monotonic() + 90
            while stored(home, url) <= 8 * MEBIBYTE:
                assert time.monotonic() < deadline, "nothing of the block was written"
                time.sleep(0.02)
            service.process.kill()
            service.process.wait()


@pytest.fixture(params=places())
def artifacts_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return place(request, tmp_path / "home" / "server" / "artifacts")


def test_a_kill_in_the_middle_of_a_block_leaves_nothing_visible_and_nothing_for_good(tmp_path: Path, artifacts_url: str) -> None:
    home = tmp_path / "home"
    _killed_in_a_block(home, artifacts_url)
    with serving(home, {"MOORAGE_ARTIFACTS_URL": artifacts_url}) as service, client(service) as http:
        assert http.get(address(service, "b")).status_code == 404
        staged = http.get(address(service, "b", "comp=blocklist&blocklisttype=all")).text
        assert "YQ==" in staged and "Yg==" not in staged
    days: list[int] = [0]

    async def tidied() -> None:
        settings = Settings(home=home, artifacts_url=SecretStr(artifacts_url))
        async with open_services(settings, now=lambda: datetime.now(UTC) + timedelta(days=days[0])) as services:
            await tidy(services)

    asyncio.run(tidied())
    assert stored(home, artifacts_url) > 8 * MEBIBYTE
    days[0] = 2
    asyncio.run(tidied())
    assert stored(home, artifacts_url) == 0
    assert artifacts_url.startswith("file:") is (home / "server" / "artifacts").exists() and kept(home) == []


def test_a_connection_serves_many_requests_refusals_among_them(service: Serving) -> None:
    where = urlsplit(service.url)
    context = ssl.create_default_context(cafile=service.authority)
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    connection = http.client.HTTPSConnection(where.hostname or "", where.port, context=context, timeout=120)
    connection.connect()
    used = connection.sock

    def ask(method: str, name: str, body: bytes | None = None, query: str = "") -> int:
        target = urlsplit(address(service, name, query))
        connection.request(method, f"{target.path}?{target.query}", body=body, headers={"x-ms-blob-type": "BlockBlob"})
        answer = connection.getresponse()
        answer.read()
        return answer.status

    asked = [("PUT", "a", b"x"), ("GET", "none", None), ("PUT", "a", b"y" * MEBIBYTE), ("HEAD", "a", None), ("GET", "a", None)]
    assert [ask(*each) for each in asked] == [201, 404, 201, 200, 200]
    # The whole body of a refused request is read past, not taken for the next request.
    assert ask("PUT", "a", b"z" * MEBIBYTE, "comp=lease") == 400
    assert ask("GET", "a") == 200
    assert connection.sock is used
    connection.close()


@pytest.mark.parametrize(("name", "status"), [("fine", b"201"), ("bad%01name", b"400")])
def test_a_client_that_asks_first_sends_its_body_only_when_it_is_wanted(service: Serving, name: str, status: bytes) -> None:
    where = urlsplit(address(service, name))
    head = f"PUT {where.path}?{where.query} HTTP/1.1\r\nHost: {where.netloc}\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n"
    with connected(service) as stream:
        stream.sendall(head.encode())
        first = stream.recv(65536)
        if status == b"201":
            assert first.startswith(b"HTTP/1.1 100 ")
            stream.sendall(b"abc")
            first = stream.recv(65536)
        assert first.startswith(b"HTTP/1.1 " + status)


def test_a_client_that_goes_away_leaves_no_blob(service: Serving) -> None:
    where = urlsplit(address(service, "half"))
    with connected(service) as stream:
        head = f"PUT {where.path}?{where.query} HTTP/1.1\r\nHost: {where.netloc}\r\nContent-Length: {20 * MEBIBYTE}\r\n\r\n"
        stream.sendall(head.encode() + bytes(12 * MEBIBYTE))
    with client(service) as http:
        assert http.head(address(service, "half")).status_code == 404
        results: list[int] = []

        def put(number: int) -> None:
            results.append(http.put(address(service, "half"), content=bytes([number]) * MEBIBYTE).status_code)

        threads = [threading.Thread(target=put, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert results == [201] * 4
        assert len(set(http.get(address(service, "half")).content)) == 1
