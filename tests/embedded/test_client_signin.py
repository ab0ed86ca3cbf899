"""Signing in: what is checked before a profile is kept, what is said when it does not work, and that the token is never shown."""

from __future__ import annotations

import io
import json
import os
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from tests.embedded.client_peers import GROUP, SUBSCRIPTION, WORKSPACE, Run, Service, moorage, profile, service, token

from moorage.client.profile import Profile, load
from moorage.identity.keyfiles import signing_key
from moorage.identity.pki import ensure_authority
from moorage.identity.roles import Role
from moorage.identity.tokens import Tokens

__all__ = ["moorage", "profile", "service", "token"]


@pytest.fixture
def home(profile: Profile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty state folder, in place of the one with a profile."""
    for name in list(os.environ):
        if name.startswith("MOORAGE_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("MOORAGE_HOME", str(tmp_path / "empty"))
    return tmp_path / "empty"


@pytest.fixture
def stranger() -> Iterator[str]:
    """An HTTP server that is no workspace service."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"api": "https://elsewhere.example.org"}')

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def give(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))


def test_somebody_signs_in_looks_who_it_is_and_signs_out(
    service: Service, token: str, home: Path, moorage: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    give(monkeypatch, f"{token}\n")
    code, out, err = moorage("login", "--url", service.url + "/", "--ca", str(service.ca), "--token-stdin")
    assert code == 0, err
    told = json.loads(out)
    assert (told["name"], told["url"], told["workspace"]) == ("tester", service.url, WORKSPACE)
    assert token not in out + err
    kept = load()
    assert (kept.token, kept.subscription, kept.resource_group, kept.ca) == (token, SUBSCRIPTION, GROUP, str(service.ca))
    assert (home / "config.toml").stat().st_mode & 0o777 == 0o600
    assert moorage("workspace", "show", "--query", "name", "-o", "tsv")[:2] == (0, f"{WORKSPACE}\n")
    code, out, err = moorage("whoami")
    seen = json.loads(out)
    assert code == 0 and seen["roles"] == [{"scope": "/", "role": "Owner"}] and seen["expires"] and token not in out + err
    assert moorage("logout")[0] == 0
    assert load().token == "" and load().url == service.url
    code, out, err = moorage("whoami")
    assert (code, out) == (5, "") and "moorage login" in err
    assert moorage("logout")[0] == 0


def test_what_does_not_work_is_said_with_its_remedy_and_nothing_is_kept(
    service: Service, token: str, home: Path, moorage: Run, tmp_path: Path, stranger: str
) -> None:
    right = tmp_path / "token"
    right.write_text(token)
    wrong = tmp_path / "wrong"
    wrong.write_text("not.a.token")
    old = tmp_path / "old"
    issuer = Tokens(signing_key(service.home / "server" / "keys" / "signing.pem"))
    old.write_text(issuer.issue_user("tester", {"/": Role.OWNER}, timedelta(days=-1)))
    two_lines = tmp_path / "two"
    two_lines.write_text("one\ntwo")
    nowhere = tmp_path / "nowhere"
    nowhere.write_text(issuer.issue_user("tester", {"/subscriptions/other": Role.OWNER}, timedelta(hours=1)))
    other_ca = ensure_authority(tmp_path / "other").certificate_path
    at, ca, with_token = ["--url", service.url], ["--ca", str(service.ca)], ["--token-file", str(right)]
    for words, expected, said in (
        ([*at, *with_token], 5, "--ca FILE"),
        ([*at, "--ca", str(other_ca), *with_token], 5, f"not signed by the authority in {other_ca}"),
        ([*at, "--ca", str(tmp_path / "absent.pem"), *with_token], 2, "there is no file"),
        ([*at, *ca, "--token-file", str(wrong)], 5, "does not take this token"),
        ([*at, *ca, "--token-file", str(old)], 5, "has expired"),
        ([*at, *ca, "--token-file", str(two_lines)], 2, "is no token"),
        ([*at, *ca, "--token-file", str(nowhere)], 3, "reaches no workspace"),
        ([*at, *ca, *with_token, "-w", "ghost"], 3, f"-w {WORKSPACE}"),
        ([*at, *ca, *with_token, "--token-stdin"], 2, "not both"),
        ([*at, *ca], 2, "--token-stdin"),
        (["--url", "https://127.0.0.1:1", *with_token], 5, "cannot reach"),
        (["--url", "http://ml.example.org", *with_token], 2, "https://"),
        (["--url", "nowhere", *with_token], 2, "is no address"),
        (["--url", "https://[nowhere", *with_token], 2, "is no address"),
        (["--url", "https://nowhere:99999", *with_token], 2, "is no address"),
        (["--url", stranger, *with_token], 2, "is no Moorage workspace service"),
        (with_token, 2, "--url is missing"),
    ):
        code, out, err = moorage("login", *words)
        assert (code, out) == (expected, ""), (words, err)
        assert said in err and "Traceback" not in err and token not in err, (words, err)
    assert not (home / "config.toml").exists()


def test_a_token_that_reaches_several_workspaces_needs_one_named(
    service: Service, token: str, profile: Profile, moorage: Run, tmp_path: Path
) -> None:
    from moorage.client.connection import Client

    with Client(profile) as owner:
        owner.put(owner.workspace.id.replace("/default", "/research"), {"location": "local"})
    file = tmp_path / "token"
    file.write_text(token)
    words = ("login", "--url", service.url, "--ca", str(service.ca), "--token-file", str(file))
    code, _, err = moorage(*words)
    assert code == 2 and "-w default" in err and "-w research" in err
    code, out, _ = moorage(*words, "-w", "RESEARCH")
    assert code == 0 and json.loads(out)["workspace"] == "research" and load().workspace == "research"


def test_the_sdks_variables_are_printed_for_every_shell_and_hold_no_secret(
    service: Service, token: str, profile: Profile, moorage: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, err = moorage("sdk", "env", "--format", "json")
    assert code == 0, err
    told = json.loads(out)
    variables = told["variables"]
    assert variables["AZUREML_DEV_URL_MFE"] == service.url and told["client"].startswith("MLClient(MoorageCredential(), '0000")
    bundle = variables["REQUESTS_CA_BUNDLE"]
    # Ours is trusted by it, and so is the rest of the world where the system names its authorities in a file.
    assert service.ca.read_text().strip() in Path(bundle).read_text()
    ssl.create_default_context(cafile=bundle)
    code, script, err = moorage("sdk", "env")
    printed = subprocess.run(
        ["sh", "-c", script + '\nprintf "%s\\n" "$AZUREML_DEV_URL_MFE" "$REQUESTS_CA_BUNDLE" "$MOORAGE_HOME"'],
        capture_output=True,
        text=True,
        check=True,
    )
    assert printed.stdout.splitlines() == [service.url, bundle, variables["MOORAGE_HOME"]]
    code, script, err = moorage("sdk", "env", "--format", "python", "--way", "D")
    compile(script, "connect.py", "exec")
    assert "cloud_metadata={'azure_portal'" in script and "AZUREML_DEV_URL_MFE" not in script
    code, text, err = moorage("sdk", "env", "--format", "ps", "--way", "B")
    assert f"$env:ARM_CLOUD_METADATA_URL = '{service.url}/metadata/endpoints?api-version=2019-05-01'" in text
    assert token not in out + script + text + err
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example.org:3128")
    assert "127.0.0.1" in json.loads(moorage("sdk", "env", "--format", "json")[1])["variables"]["NO_PROXY"]
    code, source, err = moorage("sdk", "credential")
    assert code == 0 and "class MoorageCredential" in source
