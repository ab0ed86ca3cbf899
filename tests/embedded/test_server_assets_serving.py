"""The service as a process: real TLS, a graceful stop, a port that is taken, and bytes that stream over a socket."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path

import httpx2
import pytest

from moorage.errors import Invalid, Unavailable
from moorage.identity.keyfiles import signing_key
from moorage.identity.pki import ensure_authority, ensure_server_certificate
from moorage.identity.roles import Role
from moorage.identity.tokens import Tokens
from moorage.server.containers import blob_container
from moorage.server.serve import serve
from moorage.server.settings import Settings

_SERVE = """
from moorage.server.serve import run_server
from moorage.server.serve import serve
from moorage.server.settings import Settings
run_server(Settings(), lambda host, port: print(port, flush=True))
"""


@contextmanager
def _running(home: Path, **settings: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    environment = {**os.environ, "MOORAGE_HOME": str(home), "MOORAGE_PORT": "0", **settings}
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", _SERVE], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout is not None
        try:
            yield process, int(process.stdout.readline() or 0)
        finally:
            if process.poll() is None:
                process.kill()


@pytest.mark.slow  # processes of its own
def test_the_sdks_transport_works_over_tls_and_survives_a_kill(tmp_path: Path) -> None:
    authority = ensure_authority(tmp_path / "pki")
    certificate = ensure_server_certificate(authority, tmp_path / "pki", "server", ["127.0.0.1"])
    tls = {"MOORAGE_TLS_CERTIFICATE": str(certificate.certificate_path), "MOORAGE_TLS_KEY": str(certificate.key_path)}
    trusted = ssl.create_default_context(cafile=str(tmp_path / "pki" / "ca.pem"))
    settings = Settings(home=tmp_path / "home")
    token = Tokens(signing_key(settings.keys / "signing.pem")).issue_user("ann", {"/": Role.OWNER}, timedelta(hours=1))
    headers = {"Authorization": f"Bearer {token}"}
    workspace, data = settings.default_workspace, os.urandom(17 * 1024 * 1024)

    def pieces() -> Iterator[bytes]:
        for at in range(0, len(data), 100_000):
            yield data[at : at + 100_000]

    with (
        _running(settings.home, **tls) as (process, port),
        httpx2.Client(base_url=f"https://127.0.0.1:{port}", verify=trusted, headers=headers, timeout=60) as http,
    ):
        blob = f"/blobstore/{blob_container(workspace)}/big%20file"
        assert http.put(blob, content=pieces(), headers={"x-ms-blob-type": "BlockBlob"}).status_code == 201
        assert http.put(f"{workspace.id}/environments/e/versions/1", json={"properties": {"image": "x"}}).status_code == 201
        process.kill()
    with (
        _running(settings.home, **tls) as (process, port),
        httpx2.Client(base_url=f"https://127.0.0.1:{port}", verify=trusted, headers=headers, timeout=60) as http,
    ):
        assert http.get(blob).content == data
        assert http.get(f"{workspace.id}/environments/e").json()["properties"]["latestVersion"] == "1"
        store = http.get(f"{workspace.id}/datastores/workspaceblobstore").json()["properties"]
        assert store["accountName"] == f"127.0.0.1:{port}/blobstore/#"
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
        assert (process.returncode, errors) == (0, "")


@pytest.mark.slow  # large bodies
def test_a_client_that_goes_away_leaves_no_half_blob(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    token = Tokens(signing_key(settings.keys / "signing.pem")).issue_user("ann", {"/": Role.OWNER}, timedelta(hours=1))
    path = f"/blobstore/{blob_container(settings.default_workspace)}/x"
    with _running(settings.home) as (process, port):
        with closing(socket.create_connection(("127.0.0.1", port))) as client:
            client.sendall(
                f"PUT {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nContent-Length: 99999999\r\n\r\n".encode()
                + b"x" * 99999
            )
        with httpx2.Client(base_url=f"http://127.0.0.1:{port}", headers={"Authorization": f"Bearer {token}"}, timeout=60) as http:
            assert http.get(path).status_code == 404
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
        assert (process.returncode, errors) == (0, "")


async def test_a_port_that_is_taken_and_tls_files_that_are_missing_are_said_so(tmp_path: Path) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(Unavailable, match=f"{port}.*Another process listens there"):
            await serve(Settings(home=tmp_path, port=port))
    with pytest.raises(Invalid, match=r"/nowhere.pem does not exist"):
        await serve(Settings(home=tmp_path, tls_certificate=Path("/nowhere.pem"), tls_key=Path("/nowhere.key")))
    with pytest.raises(Invalid, match="both"):
        await serve(Settings(home=tmp_path, tls_certificate=Path("/nowhere.pem")))
