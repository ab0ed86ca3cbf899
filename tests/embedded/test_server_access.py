"""Who may do what over HTTP, and that whatever a client sends is answered by an error it can read, never by a failure of the service."""

from __future__ import annotations

import json
import re
from datetime import timedelta

import pytest
from tests.embedded.server_workloads_peers import CLUSTER, job_body
from tests.fixtures.served import BASE, Served

from moorage.identity import links
from moorage.identity.roles import Role
from moorage.ids import Workspace
from moorage.server.arm import Route
from moorage.server.parts import ROUTES

pytest_plugins = ["tests.fixtures.service"]

EVERY = [route for table in ROUTES for route in table]
AGENTS = "/gateway/v1/clusters/"


def address(route: Route, workspace: Workspace) -> str:
    """A path that leads to the route."""
    names = {"subscription": workspace.subscription, "group": workspace.resource_group, "workspace": workspace.name}
    return BASE + re.sub(r"\{(\w+)\}", lambda found: names.get(found[1], "x"), route.pattern)


async def test_every_route_wants_a_users_token_but_the_two_by_which_the_sdk_finds_its_way(served: Served) -> None:
    pod, _ = served.services.tokens.issue_workload("jobs/j", read=["c/p"], write=["c/q"], lifetime=timedelta(hours=1))
    assert {route.pattern for route in EVERY if route.public and AGENTS not in route.pattern} == {"/discovery", "/metadata/endpoints"}
    for route in EVERY:
        if route.public and AGENTS not in route.pattern:
            continue
        for credential in ("", "Basic YTpi", "Bearer x", "Bearer a.b.c", f"Bearer {pod}"):
            answer = await served.call(route.method, address(route, served.workspace), {}, Authorization=credential)
            assert answer.status_code == 401, (route.method, route.pattern, credential[:9], answer.text)


async def test_a_reader_changes_nothing_and_sees_no_secret(served: Served) -> None:
    reading = {"listSecrets", "listNodes", "rundata", "batchGetResolvedUris"}
    for route in EVERY:
        if route.public or route.method == "GET" or route.pattern.rpartition("/")[2] in reading:
            continue
        answer = await served.call(route.method, address(route, served.workspace), {}, role=Role.READER)
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "AuthorizationFailed"), (route.method, route.pattern)
    link = (await served.call("POST", "/datastores/workspaceblobstore/listSecrets", {}, role=Role.READER)).json()["sasToken"]
    container = (await served.get("/datastores/workspaceblobstore"))["properties"]["containerName"]
    put = await served.http.put(f"{BASE}/blobstore/{container}/x?{link}", content=b"1", headers={"Authorization": ""})
    assert put.status_code == 403


async def test_a_link_for_one_uploads_folder_opens_no_other_container(served: Served) -> None:
    def link(answer: dict[str, dict[str, dict[str, str]]]) -> tuple[str, str]:
        uri, _, query = answer["blobReferenceForConsumption"]["credential"]["sasUri"].partition("?")
        return uri, query

    one, other = [link((await served.call("POST", f"/codes/{name}/versions/1/startPendingUpload", {})).json()) for name in "ab"]
    nobody = {"Authorization": "", "x-ms-blob-type": "BlockBlob"}
    assert (await served.http.put(f"{one[0]}/src/a.py?{one[1]}", content=b"1", headers=nobody)).status_code == 201
    default = (await served.get("/datastores/workspaceblobstore"))["properties"]["containerName"]
    for uri, query in ((one[0], other[1]), (f"{BASE}/blobstore/{default}", one[1]), (one[0], re.sub(r"sp=\w+", "sp=rlwd", one[1]))):
        for method, path, listing in (("GET", "/src/a.py", ""), ("PUT", "/src/a.py", ""), ("GET", "", "&restype=container&comp=list")):
            answer = await served.http.request(method, f"{uri}{path}?{query}{listing}", content=b"2", headers=nobody)
            assert answer.status_code == 403, (method, uri, query)
    assert (await served.http.delete(f"{one[0]}/src/a.py?{one[1]}", headers=nobody)).status_code == 403


@pytest.mark.parametrize("signature", ["", "x", "%C3%A9", "%00"])
async def test_a_signature_that_is_none_is_refused(served: Served, signature: str) -> None:
    until = served.clock.time + timedelta(hours=1)
    for rest in ("", f"&sr=c&sp={links.READ}&se={until:%Y-%m-%dT%H:%M:%SZ}", "&sr=b&pth=%FF&se=never"):
        answer = await served.http.get(f"{BASE}/blobstore/abc/x?sig={signature}{rest}", headers={"Authorization": ""})
        assert (answer.status_code, answer.headers["x-ms-error-code"]) == (403, "AuthenticationFailed")


async def test_a_role_on_a_workspace_is_enough_to_follow_its_operations_and_no_others(served: Served) -> None:
    mine, other = served.workspace, Workspace(served.workspace.subscription, served.workspace.resource_group, "other")

    async def follow(workspace: Workspace, kind: str) -> int:
        operation = await served.services.store.write(lambda tx: tx.operations.start(workspace, f"{workspace.id}/computes/c", "create"))
        path = f"/subscriptions/{mine.subscription}/providers/Microsoft.MachineLearningServices/locations/local/{kind}/{operation.id}"
        token = f"Bearer {served.token(Role.CONTRIBUTOR, mine.id)}"
        return (await served.call("GET", BASE + path, Authorization=token)).status_code

    assert await follow(mine, "operationsStatus") == 200
    assert await follow(mine, "operationResults") == 202
    assert await follow(other, "operationsStatus") == 403
    assert await follow(other, "operationResults") == 403


@pytest.mark.parametrize(
    "text",
    [
        '{"properties":{"image":"i","tags":{"a":1e400}}}',
        '{"properties":{"image":"i","tags":{"a":NaN}}}',
        '{"properties":{"image":"i","tags":{"a":-Infinity}}}',
        '{"properties":{"image":"i","description":"\\ud800"}}',
        '{"properties":' + "[" * 50_000,
    ],
)
async def test_a_body_that_json_cannot_hold_is_refused_before_it_is_stored(served: Served, text: str) -> None:
    answer = await served.http.put(f"{BASE}{served.workspace.id}/environments/e/versions/1", content=text.encode())
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "InvalidRequestContent")
    assert (await served.get("/environments"))["value"] == []
    whole = await served.http.put(
        f"{BASE}{served.workspace.id}/environments/e/versions/1",
        content=json.dumps({"properties": {"image": "i", "description": "\U0001f6f6 \u0000"}}).encode(),
    )
    assert whole.json()["properties"]["description"] == "\U0001f6f6 \u0000"


async def test_a_cursor_beyond_any_row_is_refused(served: Served) -> None:
    for cursor in ("eyJhZnRlciI6IDk5OTk5OTk5OTk5OTk5OTk5OTk5OTl9", "eyJhZnRlciI6IC0xfQ"):
        assert (await served.call("GET", f"/models?$skip={cursor}")).status_code == 400


async def test_one_odd_job_or_cluster_cannot_spoil_the_list(served: Served) -> None:
    refused = await served.call("PUT", BASE + CLUSTER, {"location": "l", "properties": "text"})
    assert (refused.status_code, refused.json()["error"]["target"]) == (400, "properties")
    for field, value, target in (
        ("services", "text", "properties.services"),
        ("services", {"a": 1}, "properties.services.a"),
        ("identity", {"clientId": "x"}, "properties.identity.identityType"),
    ):
        answer = await served.call("PUT", "/jobs/j1", job_body(**{field: value}))
        assert (answer.status_code, answer.json()["error"]["target"]) == (400, target)
    assert (await served.get("/jobs"))["value"] == []
