"""The client over HTTP: the conformance suite against the embedded HTTPS API, configuration, and what a network does to it."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

pytest.register_assert_rewrite("moorage.testing.conformance")

from moorage.embedded import kubeconfig as kubeconfigs  # noqa: E402
from moorage.embedded.local import LocalCluster  # noqa: E402
from moorage.embedded.serve import serve_api  # noqa: E402
from moorage.errors import Expired, Invalid, Throttled, Unauthenticated, Unavailable  # noqa: E402
from moorage.identity.pki import Authority, ServerCertificate, ensure_authority, ensure_server_certificate  # noqa: E402
from moorage.kube import remote  # noqa: E402
from moorage.kube.cluster import Cluster  # noqa: E402
from moorage.kube.informer import Informer  # noqa: E402
from moorage.kube.kinds import CONFIG_MAP, NAMESPACE  # noqa: E402
from moorage.kube.metadata import name_of  # noqa: E402
from moorage.testing.builders import a_config_map, a_namespace  # noqa: E402
from moorage.testing.conformance import ClusterConformance  # noqa: E402
from moorage.testing.memory import in_memory_cluster  # noqa: E402
from moorage.testing.world import refused  # noqa: E402


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> tuple[Authority, ServerCertificate]:
    folder = tmp_path_factory.mktemp("pki")
    authority = ensure_authority(folder)
    return authority, ensure_server_certificate(authority, folder, "api", ("127.0.0.1", "localhost"))


@asynccontextmanager
async def served(
    memory: LocalCluster, pki: tuple[Authority, ServerCertificate], folder: Path, port: int = 0
) -> AsyncIterator[tuple[Path, int]]:
    """The API over HTTPS; the kubeconfig that reaches it and its port."""
    authority, certificate = pki
    async with serve_api(memory, certificate, port=port) as serving:
        path = folder / "kubeconfig"
        kubeconfigs.write(path, serving.url, authority.pem, memory.tokens.admin_token)
        yield path, serving.port


class TestOverHttps(ClusterConformance):
    @pytest.fixture
    async def cluster(self, pki: tuple[Authority, ServerCertificate], tmp_path: Path) -> AsyncIterator[Cluster]:
        async with in_memory_cluster(crds=False) as memory, served(memory, pki, tmp_path) as (path, _):
            self.memory = memory
            cluster = remote.connect(path)
            yield cluster
            await cluster.close()

    @pytest.fixture
    async def namespace(self, cluster: Cluster) -> str:
        await cluster.create(NAMESPACE, a_namespace("conformance"))
        return "conformance"

    async def compact(self, cluster: Cluster) -> bool:
        self.memory.store.forget_before((CONFIG_MAP.group, CONFIG_MAP.plural))
        return True


async def test_an_informer_over_http_outlives_a_restart_of_the_api(pki: tuple[Authority, ServerCertificate], tmp_path: Path) -> None:
    async with in_memory_cluster(crds=False) as memory:
        async with served(memory, pki, tmp_path) as (path, port):
            cluster = remote.connect(path)
            informer = Informer(cluster, CONFIG_MAP)
            running = asyncio.create_task(informer.run())
            await informer.synced.wait()
            await cluster.create(CONFIG_MAP, a_config_map("before"))
        with refused(Unavailable) as refusal:
            await cluster.list(CONFIG_MAP)
        assert f"127.0.0.1:{port}" in refusal.message
        await memory.create(CONFIG_MAP, a_config_map("meanwhile"))
        async with served(memory, pki, tmp_path, port), asyncio.timeout(60):
            while sorted(name_of(manifest) for manifest in informer) != ["before", "meanwhile"]:
                await asyncio.sleep(0.02)
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            await cluster.close()


async def test_a_wrong_token_is_unauthenticated_and_a_wrong_authority_unavailable(
    pki: tuple[Authority, ServerCertificate], tmp_path: Path
) -> None:
    async with in_memory_cluster(crds=False) as memory, served(memory, pki, tmp_path) as (path, port):
        kubeconfigs.write(path, f"https://127.0.0.1:{port}", pki[0].pem, "wrong")
        cluster = remote.connect(path)
        with refused(Unauthenticated) as denied:
            await cluster.list(NAMESPACE)
        assert f"https://127.0.0.1:{port}/ does not accept the credential" in denied.message and "Renew it" in denied.message
        await cluster.close()
        stranger = ensure_authority(tmp_path / "other")
        kubeconfigs.write(path, f"https://127.0.0.1:{port}", stranger.pem, memory.tokens.admin_token)
        cluster = remote.connect(path)
        with refused(Unavailable) as refusal:
            await cluster.list(NAMESPACE)
        assert "CERTIFICATE_VERIFY_FAILED" in refusal.message and "Correct the authority" in refusal.message
        await cluster.close()


async def test_in_a_pod_the_service_account_is_used_and_its_rotated_token_read_again(
    pki: tuple[Authority, ServerCertificate], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with in_memory_cluster(crds=False) as memory, served(memory, pki, tmp_path) as (_, port):
        for name, text in {"token": memory.tokens.admin_token, "namespace": "azureml", "ca.crt": pki[0].pem.decode()}.items():
            (tmp_path / name).write_text(text)
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
        monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(port))
        (tmp_path / "token").write_text("outdated")
        cluster = remote.in_cluster(tmp_path)
        with refused(Unauthenticated):
            await cluster.version()
        (tmp_path / "token").write_text(memory.tokens.admin_token)
        assert (await cluster.version()).startswith("v1.")
        await cluster.close()


def test_a_kubeconfig_that_cannot_be_used_says_what_is_wrong(tmp_path: Path) -> None:
    with refused(Invalid) as refusal:
        remote.connect(tmp_path / "none")
    assert "none" in refusal.message and "--kubeconfig" in refusal.message
    for text in ("{", "[]", "clusters: 3", "clusters: []\ncontexts: []\nusers: []\ncurrent-context: gone\n"):
        (tmp_path / "bad").write_text(text)
        with refused(Invalid):
            remote.connect(tmp_path / "bad")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty."),
        ("garbage", "has no `clusters` and `contexts`."),
        ("{", "is no YAML: line 1: expected"),
        ("a: [\nb", "is no YAML: line 2: "),
        ("\x00", "is no YAML: it cannot be parsed."),
        (
            "clusters: [{name: c, cluster: {server: 'https://h', certificate-authority-data: aGVsbG8=}}]\n"
            "contexts: [{name: lab, context: {cluster: c, user: u}}]\nusers: [{name: u, user: {token: t}}]\ncurrent-context: lab\n",
            "Context lab: its certificates or key cannot be used",
        ),
        (
            "clusters: [{name: c, cluster: {server: 'https://h', certificate-authority-data: aGVsbG}}]\n"
            "contexts: [{name: lab, context: {cluster: c, user: u}}]\nusers: [{name: u, user: {token: t}}]\ncurrent-context: lab\n",
            "Context lab: ",
        ),
    ],
)
def test_a_kubeconfig_that_is_none_is_named_with_a_sentence_and_no_exception(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, said: str
) -> None:
    (tmp_path / "bad").write_text(text)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "keys"))
    (tmp_path / "keys").mkdir()
    with refused(Invalid) as refusal:
        remote.connect(tmp_path / "bad")
    # What lightkube writes there for OpenSSL is gone, though the refusal is still at hand.
    assert not list((tmp_path / "keys").iterdir())
    assert said in refusal.message and "Error(" not in refusal.message and "\n" not in refusal.message


def test_a_folder_and_a_list_of_files_are_no_kubeconfig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with refused(Invalid) as refusal:
        remote.connect(tmp_path)
    assert "is a folder" in refusal.message
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setenv("KUBECONFIG", f"{tmp_path / 'a'}{os.pathsep}{tmp_path / 'b'}")
    with refused(Invalid) as refusal:
        remote.connect()
    assert "kubectl config view --flatten" in refusal.message


class Peer:
    """A server that says what the test says, byte for byte."""

    def __init__(self, *answers: bytes) -> None:
        self.answers = list(answers)
        self.requests: list[bytes] = []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.requests.append(await reader.readuntil(b"\r\n\r\n"))
        if self.answers:
            writer.write(self.answers.pop(0))
            await writer.drain()


@asynccontextmanager
async def listening(
    tmp_path: Path, serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
) -> AsyncIterator[Cluster]:
    """A client of a server whose every connection is served by `serve` and closed in the end."""
    open_connections: set[asyncio.Task[None]] = set()

    async def connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        open_connections.add(task)
        try:
            await serve(reader, writer)
        finally:
            writer.close()
            await writer.wait_closed()
            open_connections.discard(task)

    server = await asyncio.start_server(connection, "127.0.0.1", 0)
    path = tmp_path / "kubeconfig"
    kubeconfigs.write(path, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", b"", "t")
    cluster = remote.connect(path)
    try:
        yield cluster
    finally:
        await cluster.close()
        server.close()
        await server.wait_closed()
        await asyncio.gather(*open_connections)


@asynccontextmanager
async def answering(tmp_path: Path, *answers: bytes) -> AsyncIterator[tuple[Cluster, Peer]]:
    peer = Peer(*answers)
    async with listening(tmp_path, peer) as cluster:
        yield cluster, peer


def http(status: str, body: bytes, *headers: bytes) -> bytes:
    length = b"Content-Length: %d" % len(body)
    return b"\r\n".join((b"HTTP/1.1 " + status.encode(), length, b"Connection: close", *headers, b"", body))


async def test_a_throttled_request_is_repeated_when_the_server_said_so(tmp_path: Path) -> None:
    throttled, fine = http("429 Too Many Requests", b"{}", b"Retry-After: 0"), http("200 OK", b'{"gitVersion": "v1.99.0"}')
    async with answering(tmp_path, throttled, throttled, fine) as (cluster, peer):
        assert await cluster.version() == "v1.99.0"
        assert len(peer.requests) == 3
    async with answering(tmp_path, *[throttled] * 9) as (cluster, peer):
        with refused(Throttled):
            await cluster.version()


async def test_a_list_whose_pages_expire_is_read_again_in_one_piece(tmp_path: Path) -> None:
    first = http("200 OK", b'{"metadata": {"resourceVersion": "5", "continue": "token"}, "items": [{"metadata": {"name": "a"}}]}')
    gone = http("410 Gone", b'{"kind": "Status", "message": "expired", "code": 410}')
    whole = http("200 OK", b'{"metadata": {"resourceVersion": "7"}, "items": [{"metadata": {"name": "a"}}, {"metadata": {"name": "b"}}]}')
    async with answering(tmp_path, first, gone, whole) as (cluster, peer):
        listing = await cluster.list(CONFIG_MAP, "default")
        assert ([name_of(item) for item in listing.items], listing.resource_version) == (["a", "b"], "7")
        assert listing.items[0]["kind"] == "ConfigMap"
        assert b"limit=500" in peer.requests[0] and b"continue=token" in peer.requests[1] and b"limit" not in peer.requests[2]


async def test_answers_that_are_no_kubernetes_are_unavailable(tmp_path: Path) -> None:
    for answer in (http("200 OK", b"<html>"), http("200 OK", b"[]"), http("502 Bad Gateway", b"<html>"), b"", b"nonsense\r\n\r\n"):
        async with answering(tmp_path, answer) as (cluster, _):
            with refused(Unavailable):
                await cluster.get(CONFIG_MAP, "a", "default")


async def test_a_watch_reports_errors_inside_the_stream(tmp_path: Path) -> None:
    event = b'{"type":"ADDED","object":{"metadata":{"name":"a","resourceVersion":"6"}}}\n'
    error = b'{"type":"ERROR","object":{"kind":"Status","code":410,"message":"too old resource version"}}\n'
    seen = []
    async with answering(tmp_path, http("200 OK", event + error)) as (cluster, peer):
        with refused(Expired):
            async for change in cluster.watch(CONFIG_MAP, since="5"):
                seen.append(name_of(change.object))
        assert b"allowWatchBookmarks=true" in peer.requests[0] and b"resourceVersion=5" in peer.requests[0]
    assert seen == ["a"]


async def test_a_watch_cut_in_the_middle_or_silent_is_unavailable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with answering(tmp_path, head + b'5\r\n{"typ\r\n') as (cluster, _):
        with refused(Unavailable):
            async for _change in cluster.watch(CONFIG_MAP, since="5"):
                pass
    monkeypatch.setattr(remote, "_SILENCE_SECONDS", 0.2)

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(head)
        await reader.read()

    async with listening(tmp_path, silent) as cluster:
        with refused(Unavailable):
            async for _change in cluster.watch(CONFIG_MAP, since="5"):
                pass
