"""Admission webhooks, asked over HTTPS: what they change, what they refuse, and what happens when they are not there."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import httpx2
import pytest

from moorage.embedded.storage import Key

from .conftest import Keys, Served

MAPS = "/api/v1/namespaces/default/configmaps"
Response = dict[str, Any]
Answer = Callable[[dict[str, Any]], Response | Awaitable[Response]]


@dataclass
class Hook:
    """A webhook server: `answer` makes the response to a request, `seen` keeps the requests."""

    url: str
    bundle: str
    answer: Answer = field(default=lambda request: {"allowed": True})
    seen: list[dict[str, Any]] = field(default_factory=list)

    def configuration(self, kind: str, **extra: Any) -> dict[str, Any]:
        rule = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["*"], "resources": ["configmaps"]}
        hook = {
            "name": "maps.example.com",
            "clientConfig": {"url": self.url, "caBundle": self.bundle},
            "rules": [rule],
            "sideEffects": "None",
            "admissionReviewVersions": ["v1"],
            "timeoutSeconds": 30,
            **extra,
        }
        return {"metadata": {"name": "maps"}, "webhooks": [hook], "kind": f"{kind}WebhookConfiguration"}


@pytest.fixture
async def hook(keys: Keys) -> AsyncIterator[Hook]:
    bundle = base64.b64encode(keys.authority.pem).decode()
    made = Hook("", bundle)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(head.partition("content-length: ")[2].partition("\r\n")[0])
        request = json.loads(await reader.readexactly(length))["request"]
        made.seen.append(request)
        said = made.answer(request)
        response = {"uid": request["uid"], **(await said if isinstance(said, Awaitable) else said)}
        body = json.dumps({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response}).encode()
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(body) + body
        )
        await writer.drain()
        writer.close()

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(keys.certificate.certificate_path, keys.certificate.key_path)
    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    made.url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/check"
    async with server:
        yield made


async def configure(http: httpx2.AsyncClient, body: dict[str, Any]) -> None:
    plural = body["kind"].lower() + "s"
    answer = await http.post(f"/apis/admissionregistration.k8s.io/v1/{plural}", json=body)
    assert answer.status_code == 201, answer.text


def patch(*operations: dict[str, Any]) -> dict[str, Any]:
    return {"allowed": True, "patchType": "JSONPatch", "patch": base64.b64encode(json.dumps(operations).encode()).decode()}


async def test_a_mutating_webhook_changes_what_is_stored(http: httpx2.AsyncClient, hook: Hook) -> None:
    hook.answer = lambda request: (
        patch({"op": "add", "path": "/data", "value": {"by": request["operation"]}}) | {"warnings": ['mind the "gap"']}
    )
    await configure(http, hook.configuration("Mutating"))
    made = await http.post(MAPS, json={"metadata": {"name": "c"}})
    assert made.json().get("data") == {"by": "CREATE"}, made.text
    assert made.headers["warning"] == '299 - "mind the \\"gap\\""'
    changed = await http.patch(f"{MAPS}/c", content='{"data": {"x": "y"}}', headers={"content-type": "application/merge-patch+json"})
    assert changed.json()["data"] == {"by": "UPDATE"}
    first, second = hook.seen
    assert first["object"]["metadata"]["name"] == "c" and first["oldObject"] is None
    assert second["oldObject"]["data"] == {"by": "CREATE"} and second["object"]["data"] == {"by": "CREATE", "x": "y"}
    assert first["userInfo"]["username"] and first["resource"] == {"group": "", "version": "v1", "resource": "configmaps"}


async def test_a_validating_webhook_refuses_with_its_own_words_and_code(http: httpx2.AsyncClient, hook: Hook) -> None:
    await configure(http, hook.configuration("Validating"))
    await http.post(MAPS, json={"metadata": {"name": "c"}})
    hook.answer = lambda request: {"allowed": False, "status": {"message": "no", "code": 403, "reason": "Forbidden"}}
    for refused in (
        await http.post(MAPS, json={"metadata": {"name": "d"}}),
        await http.put(f"{MAPS}/c", json={"metadata": {"name": "c"}, "data": {"a": "b"}}),
        await http.delete(f"{MAPS}/c"),
    ):
        assert (refused.status_code, refused.json()["reason"]) == (403, "Forbidden")
        assert refused.json()["message"] == 'admission webhook "maps.example.com" denied the request: no'
    hook.answer = lambda request: {"allowed": False}
    silent = await http.post(MAPS, json={"metadata": {"name": "d"}})
    assert (silent.status_code, silent.json()["message"]) == (
        400,
        'admission webhook "maps.example.com" denied the request without explanation',
    )
    assert [entry["metadata"]["name"] for entry in (await http.get(MAPS)).json()["items"] if entry["metadata"]["name"] in "cd"] == ["c"]


async def test_a_webhook_that_cannot_be_reached_fails_the_write_or_is_ignored(http: httpx2.AsyncClient, hook: Hook) -> None:
    hook.url = "https://127.0.0.1:1/"
    await configure(http, hook.configuration("Validating"))
    refused = await http.post(MAPS, json={"metadata": {"name": "c"}})
    assert (refused.status_code, refused.json()["reason"]) == (500, "InternalError")
    assert refused.json()["message"].startswith(
        'Internal error occurred: failed calling webhook "maps.example.com": failed to call webhook: '
    )
    policy = [{"op": "replace", "path": "/webhooks/0/failurePolicy", "value": "Ignore"}]
    path = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations/maps"
    relaxed = await http.patch(path, content=json.dumps(policy), headers={"content-type": "application/json-patch+json"})
    assert relaxed.status_code == 200, relaxed.text
    assert (await http.post(MAPS, json={"metadata": {"name": "c"}})).status_code == 201


async def test_selectors_and_dry_runs_decide_whether_a_webhook_is_asked(http: httpx2.AsyncClient, hook: Hook) -> None:
    selector = {"matchLabels": {"checked": "yes"}}
    await configure(http, hook.configuration("Validating", objectSelector=selector, sideEffects="NoneOnDryRun"))
    await http.post(MAPS, json={"metadata": {"name": "c"}})
    assert hook.seen == []
    await http.post(f"{MAPS}?dryRun=All", json={"metadata": {"name": "d", "labels": {"checked": "yes"}}})
    assert [request["dryRun"] for request in hook.seen] == [True]


async def test_a_write_that_another_one_overtook_meanwhile_is_done_anew(http: httpx2.AsyncClient, hook: Hook) -> None:
    await http.post(MAPS, json={"metadata": {"name": "c"}, "data": {"count": "0"}})
    await configure(http, hook.configuration("Mutating"))
    merge = {"content-type": "application/merge-patch+json"}
    answers = await asyncio.gather(
        *(http.patch(f"{MAPS}/c", content=json.dumps({"data": {f"k{n}": "v"}}), headers=merge) for n in range(5))
    )
    assert [answer.status_code for answer in answers] == [200] * 5
    assert set((await http.get(f"{MAPS}/c")).json()["data"]) == {"count", "k0", "k1", "k2", "k3", "k4"}


async def test_what_a_webhook_configuration_cannot_say_is_refused(http: httpx2.AsyncClient, hook: Hook) -> None:
    for extra, words in (
        ({"name": "short"}, "should be a domain with at least three segments separated by dots"),
        ({"sideEffects": "Unknown"}, 'Unsupported value: "Unknown": supported values: "None", "NoneOnDryRun"'),
        ({"matchConditions": [{"name": "x", "expression": "true"}]}, "not supported by the embedded cluster (docs/limits.md)"),
        ({"clientConfig": {"url": "http://example.com"}}, "'https' is the only allowed URL scheme"),
    ):
        body = hook.configuration("Validating", **extra)
        answer = await http.post("/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations", json=body)
        assert answer.status_code == 422 and words in answer.json()["message"]


async def test_a_write_that_is_overtaken_every_time_ends_with_a_conflict(http: httpx2.AsyncClient, served: Served, hook: Hook) -> None:
    await http.post(MAPS, json={"metadata": {"name": "c"}})
    store, key = served.cluster.registry.store, Key("", "configmaps", "default", "c")

    async def overtake(request: dict[str, Any]) -> dict[str, Any]:
        found = store.latest(key)
        assert found is not None
        await store.put(key, {**found.manifest(), "data": {"seen": str(len(hook.seen))}})
        return {"allowed": True}

    hook.answer = overtake
    await configure(http, hook.configuration("Validating"))
    merge = {"content-type": "application/merge-patch+json"}
    assert (await http.patch(f"{MAPS}/c", content='{"data": {"x": "y"}}', headers=merge)).status_code == 409


async def test_a_deletion_spares_what_took_the_name_while_webhooks_were_asked(http: httpx2.AsyncClient, served: Served, hook: Hook) -> None:
    uid = (await http.post(MAPS, json={"metadata": {"name": "c"}})).json()["metadata"]["uid"]
    store, key = served.cluster.registry.store, Key("", "configmaps", "default", "c")

    async def replace(request: dict[str, Any]) -> dict[str, Any]:
        found = store.latest(key)
        assert found is not None
        manifest = found.manifest()
        await store.remove(key, found.manifest())
        await store.put(key, {**manifest, "metadata": {**manifest["metadata"], "uid": "another"}})
        return {"allowed": True}

    hook.answer = replace
    await configure(http, hook.configuration("Validating"))
    refused = await http.request("DELETE", f"{MAPS}/c", json={"preconditions": {"uid": uid}})
    assert refused.status_code == 409, refused.text
    assert (await http.get(f"{MAPS}/c")).json()["metadata"]["uid"] == "another"


@pytest.mark.parametrize(
    ("piece", "words"), [(b" ", "no whole answer within 1 s"), (b" " * (4 << 20), "longer than")], ids=["slow", "long"]
)
async def test_a_webhook_that_never_ends_its_answer_is_left(
    http: httpx2.AsyncClient, keys: Keys, hook: Hook, piece: bytes, words: str
) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 1000000000\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            while not writer.is_closing() and not reader.at_eof():
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0.1)
        writer.transport.abort()

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(keys.certificate.certificate_path, keys.certificate.key_path)
    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    hook.url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    async with server:
        await configure(http, hook.configuration("Validating", timeoutSeconds=1 if len(piece) == 1 else 30))
        refused = await http.post(MAPS, json={"metadata": {"name": "c"}})
    assert (refused.status_code, words in refused.json()["message"]) == (500, True), refused.text
