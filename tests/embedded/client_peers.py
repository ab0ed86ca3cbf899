"""A running service, a profile for it, an agent that plays a cluster, and the command line: fixtures of the client's tests."""

from __future__ import annotations

import base64
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.fixtures.ports import free_ports

from moorage import ids
from moorage.cli.main import main
from moorage.client.connection import Client
from moorage.client.profile import Profile, load, save
from moorage.client.transport import Transport
from moorage.identity.keyfiles import signing_key
from moorage.identity.pki import ensure_authority, ensure_server_certificate
from moorage.identity.roles import Role
from moorage.identity.tokens import Tokens

SUBSCRIPTION, GROUP, WORKSPACE = "00000000-0000-0000-0000-000000000000", "moorage", "default"
_SERVE = """
import json, sys
from pathlib import Path
from moorage.server.serve import run_server
from moorage.server.settings import Settings
home, port, certificate, key = sys.argv[1:]
settings = Settings(home=Path(home), port=int(port), tls_certificate=Path(certificate), tls_key=Path(key))
run_server(settings, lambda host, port: print(port, flush=True))
"""


class Service:
    """The service's process; it can be killed and started again on the same port."""

    def __init__(self, home: Path) -> None:
        authority = ensure_authority(home / "pki")
        self.home, self.ca = home, authority.certificate_path
        (self.port,) = free_ports(1)
        self._certificate = ensure_server_certificate(authority, home / "pki", "server", ["127.0.0.1"])
        self._process: subprocess.Popen[str] | None = None

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def start(self) -> None:
        paths = [str(self._certificate.certificate_path), str(self._certificate.key_path)]
        log = (self.home / "server.log").open("a")
        self._process = subprocess.Popen(
            [sys.executable, "-c", _SERVE, str(self.home), str(self.port), *paths], stdout=subprocess.PIPE, stderr=log, text=True
        )
        log.close()
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, (self.home / "server.log").read_text()
        self.port = int(line)

    def end(self, how: signal.Signals) -> None:
        assert self._process is not None and self._process.stdout is not None
        self._process.send_signal(how)
        self._process.wait(90)
        self._process.stdout.close()


class Agent:
    """What a cluster's agent sends, without a cluster."""

    def __init__(self, service: Service, registration: str, token: str) -> None:
        self.base = f"/gateway/v1/clusters/{registration}"
        self.transport = Transport(service.url, token=token, ca=str(service.ca))
        self.instance, self.sequence = uuid.uuid4().hex, 0

    def report(self, *reports: dict[str, Any]) -> None:
        self.sequence += 1
        body = {"instance": self.instance, "sequence": self.sequence, "reports": list(reports)}
        self.transport.request("POST", f"{self.base}/reports", json=body)

    def heard(self, **inventory: Any) -> None:
        node = {"name": "n1", "ready": True, "allocatable": {"cpu": "4", "memory": "8Gi"}}
        self.report({"kind": "inventory", "kubernetesVersion": "v1.37.0", "agentVersion": "0.1.0", "nodes": [node], **inventory})

    def status(self, key: dict[str, str], phase: str, *, complete: bool = False, **status: Any) -> dict[str, Any]:
        return {
            "kind": "status",
            "key": key,
            "uid": "u1",
            "generation": 1,
            "status": {"phase": phase, **status},
            "logsComplete": complete,
        }

    def log(self, key: dict[str, str], offset: int, text: bytes) -> dict[str, Any]:
        data = base64.b64encode(text).decode()
        return {"kind": "log", "key": key, "stream": "user_logs/std_log.txt", "offset": offset, "data": data}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    service = Service(tmp_path_factory.mktemp("service"))
    service.start()
    yield service
    service.end(signal.SIGTERM)


@pytest.fixture(scope="module")
def token(service: Service) -> str:
    return Tokens(signing_key(service.home / "server" / "keys" / "signing.pem")).issue_user("tester", {"/": Role.OWNER}, timedelta(hours=1))


@pytest.fixture
def profile(service: Service, token: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Profile:
    monkeypatch.setenv("MOORAGE_HOME", str(tmp_path / "home"))
    settings = {"url": service.url, "token": token, "ca": str(service.ca)}
    save(settings | {"subscription": SUBSCRIPTION, "resource_group": GROUP, "workspace": WORKSPACE})
    return load()


@pytest.fixture
def client(profile: Profile) -> Iterator[Client]:
    with Client(profile) as client:
        yield client


@pytest.fixture
def agent(service: Service, client: Client) -> Iterator[Agent]:
    path = str(ids.ClusterId(SUBSCRIPTION, GROUP, "c1"))
    client.apply(path, {"location": "local", "properties": {}})
    issued = client.post(f"{path}/issueAgentToken")
    agent = Agent(service, issued["registration"], issued["token"])
    agent.heard()
    if client.find(client.path("computes", "local")) is None:
        body = {"properties": {"computeType": "Kubernetes", "resourceId": path, "properties": {"namespace": "default"}}}
        client.apply(client.path("computes", "local"), body)
    yield agent
    agent.transport.close()


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def moorage(profile: Profile, capfd: pytest.CaptureFixture[str]) -> Run:
    def run(*words: str) -> tuple[int, str, str]:
        capfd.readouterr()
        code = main(list(words))
        out, err = capfd.readouterr()
        return int(code), out, err

    return run


def job_key(name: str) -> dict[str, str]:
    scope = ids.Workspace(SUBSCRIPTION, GROUP, WORKSPACE)
    return {"kind": "TrainingJob", "namespace": "default", "name": ids.kube_name(scope, name)}
