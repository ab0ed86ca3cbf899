"""Endpoints and deployments from the command line against the real service; the cluster and its router are played."""

from __future__ import annotations

import http.server
import itertools
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.embedded.client_peers import GROUP, SUBSCRIPTION, WORKSPACE, Agent, Run, agent, client, moorage, profile, service, token

from moorage import ids
from moorage.client.blobs import Container
from moorage.client.connection import Client
from moorage.client.snapshot import File
from moorage.errors import Conflict

__all__ = ["agent", "client", "moorage", "profile", "service", "token"]


class Router(http.server.BaseHTTPRequestHandler):
    """Answers as the router does for a good key, and with what a failing `run()` looks like for the pinned deployment `bad`."""

    key = ""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers["Authorization"] != f"Bearer {type(self).key}":
            return self.answer(401, b"bad key")
        if self.headers.get("azureml-model-deployment") == "bad":
            return self.answer(
                424, b"boom", **{"ms-azureml-model-error-statuscode": "500", "ms-azureml-model-error-reason": "oops", "x-request-id": "r1"}
            )
        if self.headers.get("azureml-model-deployment") == "absent":
            return self.answer(
                404, b'{"error":{"code":"NotFound","message":"The endpoint has no deployment \'absent\'.","requestId":"r2"}}'
            )
        return self.answer(200, b'{"path": "%s", "echo": %s}' % (self.path.encode(), body))

    def answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def router() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Router)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def serving(agent: Agent, router: str, moorage: Run, tmp_path: Path) -> Iterator[Path]:
    """A folder with documents, and a cluster that accepts what it is sent."""
    agent.heard(routerUrl=router)
    (tmp_path / "score").mkdir()
    (tmp_path / "score" / "score.py").write_text("def init(): ...\ndef run(raw): return raw\n")
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "w").write_text("w")
    (tmp_path / "endpoint.yml").write_text(
        "$schema: https://x/kubernetesOnlineEndpoint.schema.json\nname: digits\ncompute: azureml:local\nauth_mode: key\n"
    )
    (tmp_path / "blue.yml").write_text(
        "name: blue\nendpoint_name: digits\nmodel: {path: ./weights}\ncode_configuration: {code: ./score, scoring_script: score.py}\n"
        "environment: {image: 'python:3.11'}\nrequest_settings: {request_timeout_ms: 1500}\n"
    )
    yield tmp_path


_GENERATIONS = itertools.count(1)


class Played:
    """An endpoint or a deployment as the cluster has it."""

    def __init__(self, kind: str, *names: str, phase: str = "Succeeded", **said: Any) -> None:
        scope = ids.Workspace(SUBSCRIPTION, GROUP, WORKSPACE)
        self.key = {"kind": kind, "namespace": "default", "name": ids.kube_name(scope, *names)}
        self.status = {"phase": phase, **said}

    def report(self) -> dict[str, Any]:
        # Each is a later spec of the object than the last: an older one's status is no news to the service.
        generation = next(_GENERATIONS)
        status = {"observedGeneration": generation, **self.status}
        return {"kind": "status", "key": self.key, "uid": "u", "generation": generation, "status": status, "logsComplete": False}


@contextmanager
def reporting(agent: Agent, *played: Played) -> Iterator[None]:
    """A cluster that says again and again how these are: a command waits for what is said after its wish, and nothing here tells of that."""
    ended = threading.Event()

    def report() -> None:
        while not ended.is_set():
            agent.report(*(each.report() for each in played))
            ended.wait(0.1)

    with ThreadPoolExecutor(1) as pool:
        reports = pool.submit(report)
        try:
            yield
        finally:
            ended.set()
        reports.result()


@pytest.mark.slow  # a whole life of an endpoint, by some twenty commands
def test_a_model_is_served_and_scored(agent: Agent, serving: Path, moorage: Run, client: Client) -> None:
    endpoint = Played("OnlineEndpoint", "digits")
    with reporting(agent, endpoint):
        code, out, err = moorage("online-endpoint", "create", "-f", str(serving / "endpoint.yml"))
    assert code == 0, err
    assert json.loads(out)["provisioning_state"] == "Succeeded"
    assert moorage("online-endpoint", "create", "-f", str(serving / "endpoint.yml"))[0] == 4

    blue = Played("OnlineDeployment", "digits", "blue", phase="Creating", message="pulling the image")
    # In a process of its own, so that what it shows can be waited for.
    words = [sys.executable, "-m", "moorage.cli.main", "online-deployment", "create", "-f", str(serving / "blue.yml"), "--all-traffic"]
    with reporting(agent, endpoint, blue), subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as command:
        assert command.stdout is not None and command.stderr is not None
        err = ""
        while "deployment blue: Creating: pulling the image" not in err:
            line = command.stderr.readline()
            assert line, err
            err += line
        blue.status = {"phase": "Succeeded"}
        err += command.stderr.read()
        out = command.stdout.read()
    assert command.returncode == 0, err
    assert json.loads(out)["request_settings"]["request_timeout_ms"] == 1500
    assert "all traffic goes to blue" in err
    assert moorage("online-endpoint", "show", "-n", "digits", "--query", "traffic.blue", "-o", "tsv")[1] == "100\n"

    Router.key = moorage("online-endpoint", "get-credentials", "-n", "digits", "--query", "primaryKey", "-o", "tsv")[1].strip()
    (serving / "request.json").write_text('{"data": [1]}')
    invoke = ("online-endpoint", "invoke", "-n", "digits", "-r", str(serving / "request.json"))
    code, out, err = moorage(*invoke)
    assert code == 0, err
    assert json.loads(out) == {"path": "/api/v1/endpoint/digits/score", "echo": {"data": [1]}}
    assert moorage(*invoke, "--query", "echo.data[0]")[1] == "1\n"
    code, out, err = moorage(*invoke, "-d", "bad")
    assert (code, out) == (1, "")
    assert (
        "answered 424" in err and "the model answered 500: oops" in err and "request id r1" in err and "boom" in err and "get-logs" in err
    )
    code, _, err = moorage(*invoke, "-d", "absent")
    assert code == 1 and "answered 404 Not Found; The endpoint has no deployment 'absent'." in err and "{" not in err
    before = Router.key
    with reporting(agent, endpoint):
        code, out, err = moorage("online-endpoint", "regenerate-keys", "-n", "digits", "--yes", "-o", "json")
    assert code == 0, err
    assert json.loads(out)["primaryKey"] != before
    assert moorage(*invoke)[0] == 1
    (serving / "request.json").write_text("{")
    assert moorage(*invoke)[0] == 2

    code, out, err = moorage("online-deployment", "list", "-e", "digits", "-o", "table")
    assert code == 0 and "blue" in out, err
    code, _, err = moorage("online-deployment", "delete", "-n", "blue", "-e", "digits", "--yes")
    assert code != 0 and "traffic" in err
    assert moorage("online-deployment", "delete", "-n", "green", "-e", "digits", "--yes")[0] == 3


def test_an_endpoint_with_tokens_shows_one_and_regenerating_revokes_them(agent: Agent, serving: Path, moorage: Run) -> None:
    document = str(serving / "endpoint.yml")
    code, out, err = moorage("online-endpoint", "create", "-f", document, "-n", "tokens", "--auth-mode", "aml_token", "--no-wait")
    assert code == 0 and json.loads(out)["auth_mode"] == "aml_token", err
    shown = json.loads(moorage("online-endpoint", "get-credentials", "-n", "tokens")[1])
    assert set(shown) == {"accessToken", "tokenType", "expiryTimeUtc", "refreshAfterTimeUtc"}
    assert moorage("online-endpoint", "get-credentials", "-n", "tokens", "--query", "accessToken", "-o", "tsv")[1].count(".") == 2
    code, out, err = moorage("online-endpoint", "regenerate-keys", "-n", "tokens", "--yes", "--no-wait", "-o", "json")
    assert code == 0 and json.loads(out)["accessToken"] != shown["accessToken"], err
    (serving / "silent.yml").write_text("name: tokens\ncompute: azureml:local\ndescription: says nothing of callers\n")
    code, out, err = moorage("online-endpoint", "update", "-f", str(serving / "silent.yml"), "--no-wait")
    assert code == 0 and json.loads(out)["auth_mode"] == "aml_token", err
    code, _, err = moorage("online-endpoint", "create", "-f", document, "-n", "users", "--auth-mode", "aad_token")
    assert code == 2 and "Use AMLToken" in err


@pytest.mark.slow  # a command of its own process
def test_ctrl_c_while_something_is_deleted_says_that_the_service_goes_on(agent: Agent, serving: Path, moorage: Run) -> None:
    with reporting(agent, Played("OnlineEndpoint", "leaving")):
        assert moorage("online-endpoint", "create", "-f", str(serving / "endpoint.yml"), "-n", "leaving")[0] == 0
    # The cluster never confirms it, so that the command waits.
    words = [sys.executable, "-m", "moorage.cli.main", "online-endpoint", "delete", "-n", "leaving", "--yes"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as command:
        assert command.stderr is not None
        assert "endpoint leaving: " in command.stderr.readline()
        command.send_signal(signal.SIGINT)
        _, err = command.communicate(timeout=90)
    assert command.returncode == 130
    assert "The service goes on deleting endpoint leaving" in err and "Traceback" not in err


def test_a_deployment_that_fails_says_why_with_exit_code_1(agent: Agent, serving: Path, moorage: Run) -> None:
    with reporting(agent, Played("OnlineEndpoint", "failing")):
        assert moorage("online-endpoint", "create", "-f", str(serving / "endpoint.yml"), "-n", "failing")[0] == 0
    said = {"message": "init() failed: Traceback: ValueError: no", "reason": "InitFailed", "notices": ["it runs on Python 3.12."]}
    with reporting(agent, Played("OnlineDeployment", "failing", "blue", phase="Failed", **said)):
        code, out, err = moorage("online-deployment", "create", "-f", str(serving / "blue.yml"), "-e", "failing")
    assert (code, out) == (1, "")
    assert "init() failed: Traceback: ValueError: no" in err
    code, _, err = moorage("online-deployment", "show", "-n", "blue", "-e", "failing")
    assert code == 0 and "warning: deployment blue: it runs on Python 3.12." in err


@pytest.mark.parametrize(
    ("change", "code", "expected"),
    [
        ("instance_type=huge", 2, "huge"),
        ("model=azureml:absent:1", 2, "there is no model 'absent' of version 1"),
        ("code_configuration.scoring_script=absent.py", 2, "absent.py"),
        ("endpoint_name=nowhere", 3, "nowhere"),
    ],
)
def test_what_a_deployment_names_and_is_not_there_is_refused(
    agent: Agent, serving: Path, moorage: Run, change: str, code: int, expected: str
) -> None:
    if moorage("online-endpoint", "show", "-n", "refusing")[0] == 3:
        with reporting(agent, Played("OnlineEndpoint", "refusing")):
            assert moorage("online-endpoint", "create", "-f", str(serving / "endpoint.yml"), "-n", "refusing")[0] == 0
    words = ("--set", "endpoint_name=refusing", "--set", change)
    found, out, err = moorage("online-deployment", "create", "-f", str(serving / "blue.yml"), *words)
    assert (found, out) == (code, ""), err
    assert expected in err


def test_what_an_update_of_an_endpoint_names_and_is_not_there_is_refused_by_its_field(agent: Agent, serving: Path, moorage: Run) -> None:
    with reporting(agent, Played("OnlineEndpoint", "moved")):
        assert moorage("online-endpoint", "create", "-f", str(serving / "endpoint.yml"), "-n", "moved")[0] == 0
    code, _, err = moorage("online-endpoint", "update", "-n", "moved", "--set", "compute=azureml:absent")
    assert code == 2 and "--set compute: compute: " in err and "properties." not in err, err
    code, _, err = moorage("online-endpoint", "update", "-n", "moved", "--mirror-traffic", "blue=60")
    assert code == 2 and err.startswith("error: --mirror-traffic: mirror_traffic"), err
    code, _, err = moorage("online-endpoint", "update", "-n", "moved", "-f", str(serving / "endpoint.yml"), "--set", "compute=absent")
    assert code == 2 and ": compute: " in err and "properties." not in err, err


def test_large_files_travel_in_blocks_and_ranges(client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from moorage.client import assets, blobs

    monkeypatch.setattr(blobs, "_SINGLE_PUT", 100_000)
    monkeypatch.setattr(blobs, "_BLOCK", 70_000)
    monkeypatch.setattr(blobs, "_RANGE", 90_000)
    content = bytes(range(256)) * 1200
    source = tmp_path / "big.bin"
    source.write_bytes(content)
    sent: list[int] = []
    container: Container
    with assets.datastore(client) as container:
        container.upload([File("big.bin", source, len(content))], "big", sent=sent.append)
        (blob,) = container.listing("big/")
        assert (blob.size, sum(sent)) == (len(content), len(content))
        (path,) = container.download([blob], "big/", tmp_path / "back")
    assert path.read_bytes() == content
    assert [entry.name for entry in path.parent.iterdir()] == ["big.bin"]


@pytest.mark.parametrize("size", [300_000, 300_001])
def test_a_file_is_never_put_together_from_two_versions_of_a_blob(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    from moorage.client import assets, blobs

    # More spans than are fetched at once, so that some are asked for after the first bytes have come.
    monkeypatch.setattr(blobs, "_RANGE", 30_000)
    sources = [File("big.bin", tmp_path / name, amount) for name, amount in (("first", 300_000), ("second", size))]
    for source in sources:
        source.path.write_bytes(source.name[:1].encode() * source.size)
    container: Container
    with assets.datastore(client) as container:
        container.upload(sources[:1], f"versions{size}")
        (blob,) = container.listing(f"versions{size}/")
        begun = threading.Lock()

        def received(amount: int) -> None:
            if begun.acquire(blocking=False):
                container.upload(sources[1:], f"versions{size}")

        with pytest.raises(Conflict, match="was changed while it was fetched"):
            container.download([blob], f"versions{size}/", tmp_path / "back", received=received)
    assert not list((tmp_path / "back").iterdir())
