"""The scoring server as a pod runs it: a plain interpreter without Moorage, real sockets."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from moorage.podside.install import install_scoring

PLAIN_PYTHON = str(Path(getattr(sys, "_base_executable", sys.executable)).resolve())


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("podside")
    install_scoring(folder)
    return folder


@dataclass
class Reply:
    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> object:
        return json.loads(self.body)


@dataclass
class Server:
    process: subprocess.Popen[str]
    port: int
    lines: list[str]
    read: threading.Condition

    def says(self, *words: str) -> str:
        """What it has printed, once the words are in it: they come through a pipe, and may come after the answer to a request."""
        with self.read:
            self.read.wait_for(lambda: all(each in "".join(self.lines) for each in words), timeout=90)
            return "".join(self.lines)

    def ask(self, method: str, path: str, body: str | bytes = b"", **headers: str) -> Reply:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body=body, headers={name.replace("_", "-"): value for name, value in headers.items()})
            response = connection.getresponse()
            return Reply(response.status, {name.lower(): value for name, value in response.getheaders()}, response.read())
        finally:
            connection.close()


def start(installed: Path, code: Path, **environment: str) -> subprocess.Popen[str]:
    variables = {
        "PATH": os.environ["PATH"],
        "POD_IP": "127.0.0.1",
        "AZUREML_SCORING_PORT": "0",
        "AML_APP_ROOT": str(code),
        "AZUREML_ENTRY_SCRIPT": "score.py",
        **environment,
    }
    command = [PLAIN_PYTHON, "-u", str(installed / "moorage_scoring")]
    return subprocess.Popen(command, cwd=code, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@contextmanager
def serving(installed: Path, code: Path, **environment: str) -> Iterator[Server]:
    process = start(installed, code, **environment)
    assert process.stdout is not None
    lines: list[str] = []
    port = 0
    for line in process.stdout:
        lines.append(line)
        if found := re.match(r"Serving on .*:(\d+) ", line):
            port = int(found[1])
            break
    assert port, "".join(lines)
    server = Server(process, port, lines, threading.Condition())

    def listen() -> None:
        for line in process.stdout or ():
            with server.read:
                lines.append(line)
                server.read.notify_all()

    reader = threading.Thread(target=listen)
    reader.start()
    try:
        yield server
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=90)
        reader.join(timeout=90)
        process.stdout.close()


def script(folder: Path, text: str, name: str = "score.py") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(text)
    return folder


PLAIN = """
import json, os
from helper import double
class Array:
    def tolist(self): return [1.5, 2.5]
def init():
    global model
    model = 7
    print("init was here")
def run(raw_data, request_headers):
    assert isinstance(raw_data, str)
    data = json.loads(raw_data)
    if data == "fail": raise ValueError("no good")
    if data == "exit": raise SystemExit(9)
    if data == "array": return {"array": Array()}
    if data == "object": return object()
    if data == "text": return "text"
    return {"model": model, "data": data, "double": double(2), "header": request_headers.get("x-mine")}
"""


@pytest.fixture(scope="module")
def plain(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    code = script(tmp_path_factory.mktemp("code"), PLAIN)
    (code / "helper.py").write_text("def double(x):\n    return 2 * x\n")
    with serving(
        installed, code, SERVICE_NAME="digits", SERVICE_PATH_PREFIX="api/v1/endpoint/digits", AML_CORS_ORIGINS="http://a.example"
    ) as server:
        yield server


def test_the_health_probe_answers_once_init_is_done(plain: Server) -> None:
    reply = plain.ask("GET", "/")
    assert (reply.status, reply.body) == (200, b"Healthy")
    assert "init was here\n" in plain.says("init was here\n")


def test_an_undecorated_run_gets_text_and_its_result_is_json(plain: Server) -> None:
    reply = plain.ask("POST", "/score", '{"a": 1}', x_mine="yes", x_request_id="r1")
    assert reply.json() == {"model": 7, "data": {"a": 1}, "double": 4, "header": "yes"}
    assert reply.headers["content-type"] == "application/json"
    assert reply.headers["x-request-id"] == "r1"
    assert reply.headers["x-ms-request-id"] == "r1"
    assert reply.headers["x-ms-run-function-failed"] == "False"
    assert re.fullmatch(r"\d+\.\d{3}", reply.headers["x-ms-run-fn-exec-ms"])
    assert plain.ask("POST", "/score", '"text"').body == b'"text"'


def test_query_parameters_become_a_json_object(plain: Server) -> None:
    reply = plain.ask("GET", "/score?a=1&b=[1,2]&c=x&d=1&d=y")
    assert reply.json()["data"] == {"a": 1, "b": [1, 2], "c": "x", "d": [1, "y"]}  # type: ignore[index]


def test_arrays_are_sent_as_lists(plain: Server) -> None:
    assert plain.ask("POST", "/score", '"array"').json() == {"array": [1.5, 2.5]}


@pytest.mark.parametrize("wish", ["fail", "exit", "object"])
def test_a_failing_run_is_a_500_and_its_traceback_is_logged_with_the_request_id(plain: Server, wish: str) -> None:
    reply = plain.ask("POST", "/score", json.dumps(wish), x_request_id=f"bad-{wish}")
    assert reply.status == 500
    assert reply.headers["x-ms-run-function-failed"] == "True"
    assert "scoring script" in reply.json()["message"]  # type: ignore[index]
    assert plain.ask("GET", "/").status == 200
    expected = [f"Request bad-{wish}: run() failed", *(['raise ValueError("no good")'] if wish == "fail" else [])]
    log = plain.says(*expected)
    assert all(each in log for each in expected), log
    if wish == "fail":
        assert "moorage_scoring" not in log


def test_ids_that_are_too_long_are_refused(plain: Server) -> None:
    assert plain.ask("POST", "/score", "1", x_request_id="x" * 101).status == 431
    assert plain.ask("POST", "/score", "1", x_ms_client_request_id="x" * 101).status == 431


def test_other_methods_paths_and_bytes_are_refused(plain: Server) -> None:
    assert plain.ask("DELETE", "/score").status == 405
    assert plain.ask("GET", "/nothing").status == 404
    assert plain.ask("POST", "/score", b"\xff\xfe").status == 400
    preflight = plain.ask("OPTIONS", "/score", Origin="http://a.example")
    assert (preflight.status, preflight.headers["access-control-allow-origin"]) == (200, "http://a.example")


def test_the_description_names_the_scoring_path(plain: Server) -> None:
    assert plain.ask("GET", "/swagger.json").json()["swagger"] == "2.0"  # type: ignore[index]
    assert plain.ask("GET", "/swagger.json?version=3.1").json()["openapi"] == "3.1.0"  # type: ignore[index]
    assert plain.ask("GET", "/swagger.json?version=9").status == 404


def test_a_raw_request_and_response_pass_through(installed: Path, tmp_path: Path) -> None:
    code = script(
        tmp_path,
        "from azureml.contrib.services.aml_request import AMLRequest, rawhttp\n"
        "from azureml_inference_server_http.api.aml_response import AMLResponse\n"
        "def init(): pass\n"
        "@rawhttp\n"
        "def run(request):\n"
        "    if request.method == 'GET': return AMLResponse({'q': request.args.get('q')}, 503, json_str=True)\n"
        "    return AMLResponse(request.get_data()[::-1], 201, {'Content-Type': 'image/x', 'X-Own': '1'})\n",
    )
    with serving(installed, code) as server:
        reply = server.ask("POST", "/score", b"\x00\x01\xff")
        assert (reply.status, reply.body) == (201, b"\xff\x01\x00")
        assert (reply.headers["content-type"], reply.headers["x-own"]) == ("image/x", "1")
        reply = server.ask("GET", "/score?q=5")
        assert (reply.status, reply.json(), reply.headers["x-ms-run-function-failed"]) == (503, {"q": "5"}, "True")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("import json\ndef init():\n    raise RuntimeError('no model here')\ndef run(data): pass\n", "RuntimeError: no model here"),
        ("import nothing_of_the_kind\n", "No module named 'nothing_of_the_kind'"),
        ("def init(): pass\n", "has no function run()"),
        ("import sys\ndef init(): sys.exit(0)\ndef run(data): pass\n", "SystemExit: 0"),
    ],
)
def test_a_script_that_cannot_serve_ends_with_code_3_and_says_why(installed: Path, tmp_path: Path, text: str, expected: str) -> None:
    process = start(installed, script(tmp_path, text))
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 3
    assert expected in output


def test_a_request_in_flight_is_finished_after_sigterm(installed: Path, tmp_path: Path) -> None:
    code = script(
        tmp_path,
        "import pathlib, time\n"
        "def init(): pass\n"
        "def run(data):\n"
        "    pathlib.Path('entered').touch()\n"
        "    while not pathlib.Path('go').exists(): time.sleep(0.02)\n"
        "    return 'done'\n",
    )
    replies: list[Reply] = []
    with serving(installed, code) as server:
        asking = threading.Thread(target=lambda: replies.append(server.ask("POST", "/score", "1")))
        asking.start()
        while not (code / "entered").exists():
            threading.Event().wait(0.02)
        server.process.send_signal(signal.SIGTERM)
        (code / "go").touch()
        asking.join(timeout=60)
        assert server.process.wait(timeout=60) == 0
    assert replies[0].json() == "done"


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_server_that_is_told_to_end_as_it_begins_does_so(installed: Path, tmp_path: Path, workers: str) -> None:
    code = script(tmp_path, "def init(): pass\ndef run(data): return data\n")
    for _ in range(3):
        with serving(installed, code, WORKER_COUNT=workers) as server:
            server.process.send_signal(signal.SIGTERM)
            assert server.process.wait(timeout=60) == 0


def test_a_server_that_is_told_to_end_in_init_does_so_at_once(installed: Path, tmp_path: Path) -> None:
    code = script(tmp_path, "import time\ndef init():\n    print('in init', flush=True)\n    time.sleep(600)\ndef run(data): return data\n")
    process = start(installed, code)
    assert process.stdout is not None
    while "in init" not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 143 and "failed" not in output


def test_a_request_through_a_kept_connection_is_answered_after_sigterm(installed: Path, tmp_path: Path) -> None:
    code = script(tmp_path, "def init(): pass\ndef run(data): return data\n")
    with serving(installed, code) as server:
        kept = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        for text in ("before", "after"):
            kept.request("POST", "/score", text)
            answer = kept.getresponse()
            assert (answer.status, json.loads(answer.read())) == (200, text)
            if text == "before":
                server.process.send_signal(signal.SIGTERM)
                assert "Told to end" in server.says("Told to end")
        kept.close()
        assert server.process.wait(timeout=60) == 0


def test_a_scoring_timeout_answers_and_the_server_lives_on(installed: Path, tmp_path: Path) -> None:
    # It ends only after its answer, however late the server's clock is looked at.
    text = "import pathlib, time\ndef init(): pass\ndef run(data):\n    while not pathlib.Path('go').exists(): time.sleep(0.02)\n    return 1\n"
    code = script(tmp_path, text)
    with serving(installed, code, SCORING_TIMEOUT_MS="100") as server:
        reply = server.ask("POST", "/score", "1")
        assert (reply.status, reply.json()) == (500, {"message": "Scoring timeout after 100 ms"})
        assert server.ask("GET", "/").status == 200
        (code / "go").touch()


def test_several_workers_share_one_address(installed: Path, tmp_path: Path) -> None:
    code = script(tmp_path, "import os\ndef init(): pass\ndef run(data): return os.getpid()\n")
    with serving(installed, code, WORKER_COUNT="2") as server:
        first = server.ask("POST", "/score", "1").json()
        assert isinstance(first, int)
        assert first != server.process.pid


def test_the_users_own_packages_come_before_the_borrowed_ones(installed: Path, tmp_path: Path) -> None:
    own = tmp_path / "own"
    (own / "click").mkdir(parents=True)
    (own / "click" / "__init__.py").write_text("mine = True\n")
    code = script(
        tmp_path / "code", "import click, server, borrow\ndef init(): pass\ndef run(data): return [click.mine, server.mine, borrow.mine]\n"
    )
    script(code, "mine = True\n", "server.py")
    script(code, "mine = True\n", "borrow.py")
    process = start(installed, code, PYTHONPATH=str(own))
    # uvicorn needs the real click, so that it does not get as far as serving; which click was taken is the point.
    output, _ = process.communicate(timeout=60)
    assert "init() is done" in output
    assert "has no attribute" in output
