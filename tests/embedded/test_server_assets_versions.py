"""Assets, datastores and the bootstrap documents over HTTP, as the SDK's flows need them."""

from __future__ import annotations

from datetime import timedelta
from urllib.parse import parse_qs, urlsplit

import pytest
from tests.fixtures.served import BASE, Served

from moorage.identity.roles import Role
from moorage.ids import Workspace
from moorage.server.containers import blob_container
from moorage.server.founding import ensure_workspace
from moorage.store import ResourceKey

pytest_plugins = ["tests.fixtures.service"]

IMAGE = {"image": "python:3.11"}
CONDA = "channels: [conda-forge]\ndependencies:\n- python=3.11\n- pip:\n  - numpy\n"
PATH = "azureml://datastores/workspaceblobstore/paths/LocalUpload/abc/model"


async def test_the_sdk_finds_its_way_without_a_token(served: Served) -> None:
    served.http.headers["Authorization"] = ""
    (entry,) = (await served.http.get("/metadata/endpoints?api-version=2019-05-01")).json()
    assert entry["resourceManager"] == f"{BASE}/" and entry["suffixes"]["storage"] and entry["authentication"]["loginEndpoint"]
    assert (await served.http.get("/discovery")).json()["api"] == BASE
    for path in ("/healthz", "/readyz", "/metrics"):
        assert (await served.http.get(path)).status_code == 200
    refused = await served.call("GET", "")
    assert (refused.status_code, refused.json()["error"]["code"]) == (401, "AuthenticationRequired")


async def test_a_workspace_is_found_in_any_casing_and_listed(served: Served) -> None:
    workspace = await served.get("")
    assert workspace["location"] == "local" and workspace["properties"]["discoveryUrl"] == f"{BASE}/discovery"
    shouted = await served.call("GET", BASE + served.workspace.id.upper())
    assert shouted.json()["id"] == served.workspace.id
    group = f"{BASE}/subscriptions/{served.workspace.subscription}/resourceGroups/{served.workspace.resource_group}"
    for scope in (group, group.partition("/resourceGroups")[0]):
        listed = (await served.call("GET", f"{scope}/providers/Microsoft.MachineLearningServices/workspaces")).json()
        assert [each["name"] for each in listed["value"]] == ["default"]
    missing = await served.call("GET", BASE + served.workspace.id + "x")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "WorkspaceNotFound")
    assert f"of subscription '{served.workspace.subscription}'" in missing.json()["error"]["message"]


async def test_a_new_workspace_has_its_own_containers(served: Served) -> None:
    other = Workspace(served.workspace.subscription, "team", "second")
    made = await served.call("PUT", BASE + other.id, {"location": "local", "properties": {"description": "d"}, "tags": {"a": "b"}})
    assert (made.status_code, made.json()["tags"]) == (201, {"a": "b"})
    stores = (await served.call("GET", f"{BASE}{other.id}/datastores")).json()["value"]
    assert stores[0]["properties"]["containerName"] == blob_container(other) != blob_container(served.workspace)
    assert (await served.call("PUT", BASE + other.id, {}, role=Role.CONTRIBUTOR)).status_code == 403


async def test_a_workspace_answers_what_was_sent_and_is_changed_in_part(served: Served) -> None:
    other = Workspace(served.workspace.subscription, "team", "second")
    sent = {
        "identity": {"type": "SystemAssigned"},
        "properties": {"publicNetworkAccess": "Disabled", "description": "d"},
        "tags": {"a": "b"},
    }
    assert (await served.call("PUT", BASE + other.id, sent)).status_code == 201
    change = {"tags": {"c": "d"}, "identity": None, "properties": {"friendlyName": "Second", "description": None, "imageBuildCompute": "x"}}
    changed = await served.call("PATCH", BASE + other.id, change)
    assert changed.status_code == 200 and "properties.imageBuildCompute" in changed.headers["Warning"]
    for shown in (changed.json(), (await served.call("GET", BASE + other.id)).json()):
        assert (shown["identity"], shown["tags"]) == ({"type": "SystemAssigned"}, {"c": "d"})
        found = shown["properties"]
        assert (found["publicNetworkAccess"], found["description"], found["friendlyName"]) == ("Disabled", "d", "Second")
    assert (await served.call("PATCH", BASE + other.id, change, role=Role.CONTRIBUTOR)).status_code == 403
    assert (await served.call("PATCH", BASE + other.id, {"tags": []})).status_code == 400
    assert (await served.call("PATCH", BASE + other.id + "x", change)).status_code == 404


async def test_the_default_datastore_leads_to_the_facade(served: Served) -> None:
    listed = await served.get("/datastores?isDefault=true&count=30&orderByAsc=false")
    (store,) = listed["value"]
    properties = store["properties"]
    assert (store["name"], properties["datastoreType"], properties["credentials"]) == (
        "workspaceblobstore",
        "AzureBlob",
        {"credentialsType": "Sas"},
    )
    # What the SDK makes of it: everything after `#` is a fragment.
    account = urlsplit(f"https://{properties['accountName']}.blob.core.windows.net")
    assert (account.netloc, account.path) == ("service.test:8450", "/blobstore/")
    secret = (
        await served.call("POST", "/datastores/workspaceblobstore/listSecrets", {"expirableSecret": True, "expireAfterHours": 1})
    ).json()
    assert secret["secretsType"] == "Sas"
    assert parse_qs(secret["sasToken"])["sp"] == ["rlw"]
    reader = (await served.call("POST", "/datastores/workspaceblobstore/listSecrets", {}, role=Role.READER)).json()
    assert parse_qs(reader["sasToken"])["sp"] == ["rl"]


async def test_a_datastore_of_ones_own_keeps_its_secret_to_itself(served: Served) -> None:
    secrets = {"secretsType": "AccountKey", "key": "a2V5"}
    properties = {
        "datastoreType": "AzureBlob",
        "accountName": "acct",
        "containerName": "cont",
        "endpoint": "core.windows.net",
        "protocol": "https",
        "credentials": {"credentialsType": "AccountKey", "secrets": secrets},
        "unknown": [1],
    }
    made = await served.put("/datastores/mine?skipValidation=true", properties)
    assert made["properties"]["credentials"] == {"credentialsType": "AccountKey"}
    assert made["properties"]["accountName"] == "acct" and made["properties"]["unknown"] == [1]
    assert (await served.call("POST", "/datastores/mine/listSecrets", {})).json() == secrets
    assert (await served.call("POST", "/datastores/mine/listSecrets", {}, role=Role.READER)).status_code == 403
    assert (await served.call("PUT", "/datastores/workspaceblobstore", {"properties": properties})).status_code == 403
    other = blob_container(Workspace("s", "g", "other"))
    stolen = await served.call("PUT", "/datastores/thief", {"properties": {**properties, "containerName": other}})
    assert stolen.status_code == 403
    assert [(await served.call("DELETE", "/datastores/mine")).status_code for _ in range(2)] == [200, 204]
    assert (await served.call("GET", "/datastores/mine")).status_code == 404


@pytest.mark.parametrize(
    ("change", "target"),
    [
        ({"datastoreType": "Ftp"}, "properties.datastoreType"),
        ({"credentials": None}, "properties.credentials.credentialsType"),
        ({"containerName": ""}, "properties.containerName"),
        ({"credentials": {"credentialsType": "Sas", "secrets": 3}}, "properties.credentials.secrets"),
    ],
)
async def test_a_wrong_datastore_is_refused_by_field(served: Served, change: dict[str, object], target: str) -> None:
    good = {"datastoreType": "AzureBlob", "containerName": "c", "credentials": {"credentialsType": "None"}}
    answer = await served.call("PUT", "/datastores/x", {"properties": {**good, **change}})
    assert (answer.status_code, answer.json()["error"]["target"]) == (400, target)


async def test_an_environment_numbers_itself_by_conflicts(served: Served) -> None:
    """The SDK's own way: 404 means version 1; then the latest again; a conflict means the next."""
    assert (await served.call("GET", "/environments/e")).status_code == 404
    made = await served.put("/environments/e/versions/1", {**IMAGE, "condaFile": CONDA, "_source": "x", "tags": {"a": "b"}})
    assert made["id"] == f"{served.workspace.id}/environments/e/versions/1" and made["name"] == "1"
    assert made["properties"]["_source"] == "x" and made["systemData"]["createdBy"] == "ann"
    # The same content, written differently.
    rewritten = "channels:\n- conda-forge\ndependencies: ['python=3.11', {pip: [numpy]}]\n"
    await served.put("/environments/e/versions/1", {**IMAGE, "condaFile": rewritten, "description": "new"}, status=200)
    changed = await served.call("PUT", "/environments/e/versions/1", {"properties": {"image": "other"}})
    assert (changed.status_code, changed.json()["error"]["code"]) == (409, "ImmutableVersion")
    assert (await served.get("/environments/e"))["properties"]["nextVersion"] == "2"
    await served.put("/environments/e/versions/2", {"image": "other"})
    container = (await served.get("/environments/e"))["properties"]
    assert (container["latestVersion"], container["nextVersion"]) == ("2", "3")
    newest = await served.get("/environments/e/versions?$orderBy=createdtime desc&$top=1")
    assert [each["name"] for each in newest["value"]] == ["2"]


async def test_an_asset_is_found_with_the_prefix_that_the_sdk_leaves_in_its_name(served: Served) -> None:
    """Python code that says `azureml:e@latest` asks for these three."""
    await served.put("/environments/e/versions/1", dict(IMAGE))
    assert (await served.get("/environments/azureml%3Ae"))["properties"]["latestVersion"] == "1"
    assert [each["name"] for each in (await served.get("/environments/azureml:e/versions?$top=1"))["value"]] == ["1"]
    assert (await served.get("/environments/azureml:e/versions/1"))["id"] == f"{served.workspace.id}/environments/e/versions/1"
    assert (await served.call("PUT", "/environments/azureml:new/versions/1", {"properties": dict(IMAGE)})).status_code == 400


async def test_an_anonymous_environment_is_sent_on_every_use_and_listed_never(served: Served) -> None:
    path = "/environments/CliV2AnonymousEnvironment/versions/0a1b"
    assert [await served.put(path, {**IMAGE, "isAnonymous": True}, status=status) for status in (201, 200, 200)][2]["properties"][
        "isAnonymous"
    ]
    assert (await served.get("/environments"))["value"] == []


async def test_a_build_context_gets_its_dockerfile(served: Served) -> None:
    made = await served.put("/environments/b/versions/1", {"build": {"contextUri": f"{BASE}/blobstore/c/ctx/"}})
    assert made["properties"]["build"]["dockerfilePath"] == "Dockerfile"


@pytest.mark.parametrize(
    ("properties", "target", "words"),
    [
        ({}, "properties.image", "needs an image"),
        ({"image": 3}, "properties.image", "must be a text"),
        ({"condaFile": "a: ["}, "properties.condaFile", "line 1, column 5"),
        ({"condaFile": "- x"}, "properties.condaFile", "mapping"),
        ({"condaFile": "name: x"}, "properties.condaFile.dependencies", "list 'dependencies'"),
        ({"condaFile": "dependencies: [3]"}, "properties.condaFile.dependencies[0]", "Entry 1"),
        ({"condaFile": "dependencies: [a, {pip: numpy}]"}, "properties.condaFile.dependencies[1]", "Entry 2"),
        ({"condaFile": "dependencies: [a]\nchannels: x"}, "properties.condaFile.channels", "channels"),
        ({"condaFile": "a: &x 1\nb: *x\ndependencies: []"}, "properties.condaFile", "aliases"),
        ({"build": {}}, "properties.contextUri", "contextUri"),
        ({"image": "x", "isArchived": "yes"}, "properties.isArchived", "true or false"),
    ],
)
async def test_a_wrong_environment_is_refused_by_field(served: Served, properties: dict[str, object], target: str, words: str) -> None:
    answer = await served.call("PUT", "/environments/e/versions/1", {"properties": properties})
    error = answer.json()["error"]
    assert (answer.status_code, error["target"]) == (400, target)
    assert words in error["message"]
    assert (await served.call("GET", "/environments/e")).status_code == 404


@pytest.mark.parametrize(
    "path", ["/environments/-e/versions/1", "/environments/e/versions/_1", "/models/a%2Fb/versions/1", f"/data/{'x' * 256}/versions/1"]
)
async def test_names_that_are_none_are_refused(served: Served, path: str) -> None:
    assert (await served.call("PUT", path, {"properties": IMAGE})).status_code == 400


async def test_archiving_hides_and_restoring_shows(served: Served) -> None:
    await served.put("/environments/e/versions/1", IMAGE)
    await served.put("/environments/e/versions/2", {"image": "two"})
    # The SDK sends the version as it understood it, which need not be what it was sent.
    archived = await served.put("/environments/e/versions/2", {"image": "two", "isArchived": True, "lost": 1}, status=200)
    assert archived["properties"]["isArchived"] is True
    assert [each["name"] for each in (await served.get("/environments/e/versions"))["value"]] == ["1"]
    assert [each["name"] for each in (await served.get("/environments/e/versions?listViewType=ArchivedOnly"))["value"]] == ["2"]
    assert [each["name"] for each in (await served.get("/environments/e/versions?listViewType=All"))["value"]] == ["2", "1"]
    assert (await served.get("/environments/e"))["properties"]["latestVersion"] == "1"
    await served.put("/environments/e/versions/2", {"image": "two", "isArchived": False}, status=200)
    assert (await served.get("/environments/e"))["properties"]["latestVersion"] == "2"
    await served.put("/environments/e", {"isArchived": True, "tags": {"x": "y"}}, status=200)
    assert (await served.get("/environments?listViewType=ActiveOnly"))["value"] == []
    assert (await served.get("/environments?listViewType=ArchivedOnly"))["value"][0]["properties"]["tags"] == {"x": "y"}
    assert (await served.call("GET", "/environments?listViewType=Some")).status_code == 400


async def test_a_version_that_was_deleted_is_gone_and_an_empty_container_with_it(served: Served) -> None:
    await served.put("/environments/e/versions/1", IMAGE)
    assert [(await served.call("DELETE", "/environments/e/versions/1")).status_code for _ in range(2)] == [200, 204]
    assert (await served.call("GET", "/environments/e")).status_code == 404


async def test_a_model_keeps_its_files_address_in_the_long_form(served: Served) -> None:
    made = await served.put("/models/m/versions/1", {"modelUri": PATH, "modelType": "custom_model"})
    uri = made["properties"]["modelUri"]
    assert uri == f"azureml://subscriptions/{served.workspace.subscription}/resourcegroups/moorage/workspaces/default" + PATH.removeprefix(
        "azureml:/"
    )
    assert made["properties"]["flavors"] == {}
    await served.put("/models/m/versions/1", {"modelUri": uri}, status=200)
    assert (await served.call("PUT", "/models/m/versions/1", {"properties": {"modelUri": PATH + "2"}})).status_code == 409
    assert (await served.get("/models/m"))["properties"]["nextVersion"] == "2"
    elsewhere = uri.replace("workspaces/default", "workspaces/other")
    for wrong in (elsewhere, "azureml://datastores/none/paths/x", "azureml:m:1", "azureml://jobs/none/outputs/o", "what"):
        assert (await served.call("PUT", "/models/n/versions/1", {"properties": {"modelUri": wrong}})).status_code == 400, wrong


async def test_a_model_from_a_jobs_output_points_at_what_the_job_wrote(served: Served) -> None:
    container = blob_container(served.workspace)
    job = ResourceKey(served.workspace, "jobs", "j1")
    state = {"outputs": {"model": f"{container}/azureml/j1/model"}}
    await served.services.store.write(lambda tx: tx.resources.create(job, {"properties": {}}, state=state))
    early = await served.call("PUT", "/models/m/versions/1", {"properties": {"modelUri": "azureml://jobs/j1/outputs/model"}})
    assert (early.status_code, early.json()["error"]["code"]) == (400, "DataNotFound")
    await served.services.blobs.put(container, "azureml/j1/model/weights.bin", b"w")
    made = await served.put("/models/m/versions/1", {"modelUri": "azureml://jobs/j1/outputs/model"})
    assert made["properties"]["modelUri"].endswith("/datastores/workspaceblobstore/paths/azureml/j1/model/")


async def test_data_shows_its_type_on_the_container(served: Served) -> None:
    await served.put("/data/d/versions/1", {"dataType": "uri_file", "dataUri": "https://example.org/x.csv"})
    await served.put("/data/d/versions/2", {"dataType": "mltable", "dataUri": PATH, "referencedUris": [PATH]})
    container = (await served.get("/data/d"))["properties"]
    assert (container["dataType"], container["latestVersion"], container["nextVersion"]) == ("mltable", "2", "3")
    assert (await served.get("/data/d/versions/1"))["properties"]["dataUri"] == "https://example.org/x.csv"
    assert (await served.call("PUT", "/data/d/versions/3", {"properties": {"dataType": "table", "dataUri": PATH}})).status_code == 400
    foreign = f"{BASE}/blobstore/{blob_container(Workspace('s', 'g', 'other'))}/x"
    assert (await served.call("PUT", "/data/d/versions/3", {"properties": {"dataType": "uri_file", "dataUri": foreign}})).status_code == 403


async def test_code_is_uploaded_once_and_found_by_its_hash(served: Served) -> None:
    started = (await served.call("POST", "/codes/c1/versions/1/startPendingUpload", {"pendingUploadType": "TemporaryBlobReference"})).json()
    reference = started["blobReferenceForConsumption"]
    assert started["pendingUploadType"] == "TemporaryBlobReference" and reference["credential"]["credentialType"] == "SAS"
    link = reference["credential"]["sasUri"].replace("?", "/src/train.py?")
    headers = {"Authorization": "", "x-ms-blob-type": "BlockBlob"}
    assert (await served.http.put(link, content=b"print(1)", headers=headers)).status_code == 201
    properties = {
        "codeUri": reference["blobUri"] + "/src",
        "isAnonymous": True,
        "properties": {"hash_sha256": "abc", "hash_version": 202208},
    }
    await served.put("/codes/c1/versions/1", properties)
    again = await served.get("/codes/another/versions?hash=abc&hashVersion=202208&api-version=2023-04-01")
    assert [each["id"] for each in again["value"]] == [f"{served.workspace.id}/codes/c1/versions/1"]
    for other in ("hash=abd&hashVersion=202208", "hash=abc&hashVersion=1"):
        assert (await served.get(f"/codes/another/versions?{other}"))["value"] == []
    # Files that are gone are no hit.
    container = urlsplit(reference["blobUri"]).path.rpartition("/")[2]
    await served.services.store.write(lambda tx: tx.blobs.delete(container, "src/train.py"))
    assert (await served.get("/codes/another/versions?hash=abc&hashVersion=202208"))["value"] == []
    for wrong, status in (("https://elsewhere/x", 400), (f"{BASE}/blobstore/{blob_container(Workspace('s', 'g', 'o'))}/x", 403)):
        assert (await served.call("PUT", "/codes/c2/versions/1", {"properties": {**properties, "codeUri": wrong}})).status_code == status


async def test_a_component_keeps_its_specification_and_gains_what_the_sdk_reads(served: Served) -> None:
    spec = {
        "type": "command",
        "command": "echo",
        "environment": "azureml:/x",
        "$schema": "s",
        "inputs": {"n": {"type": "integer", "default": "7"}},
    }
    path = "/components/azureml_anonymous/versions/1234-5"
    made = await served.put(path, {"componentSpec": spec, "isAnonymous": True, "properties": {"client_component_hash": "h"}})
    stored = made["properties"]["componentSpec"]
    assert {name: stored[name] for name in spec} == spec
    assert (stored["name"], stored["version"], stored["is_deterministic"], stored["outputs"]) == ("azureml_anonymous", "1234-5", True, {})
    await served.put(path, {"componentSpec": spec, "isAnonymous": True}, status=200)
    assert (
        await served.call("PUT", path, {"properties": {"componentSpec": {**spec, "command": "other"}, "isAnonymous": True}})
    ).status_code == 409
    wrong = await served.call("PUT", "/components/c/versions/1", {"properties": {"componentSpec": {"type": "command", "command": "x"}}})
    assert wrong.json()["error"]["target"] == "properties.componentSpec.environment"


async def test_pages_follow_on_while_others_write(served: Served) -> None:
    for number in range(7):
        await served.put(f"/environments/e{number}/versions/1", IMAGE)
    names: list[str] = []
    url: str | None = "/environments?$top=3&listViewType=ActiveOnly"
    while url:
        page = await served.get(url)
        names += [each["name"] for each in page["value"]]
        if len(names) == 3:
            await served.put("/environments/late/versions/1", IMAGE)
            await served.call("DELETE", "/environments/e1")
        url = page["nextLink"]
        assert url is None or url.startswith(f"{BASE}/")
    assert names == [*(f"e{number}" for number in range(7)), "late"]
    for wrong in ("$skip=zzz", "$top=0", "$top=x"):
        assert (await served.call("GET", f"/environments?{wrong}")).status_code == 400


async def test_writers_can_guard_with_etags(served: Served) -> None:
    first = await served.call("PUT", "/environments/e/versions/1", {"properties": IMAGE})
    second = await served.call(
        "PUT", "/environments/e/versions/1", {"properties": {**IMAGE, "description": "d"}}, **{"If-Match": first.headers["etag"]}
    )
    assert second.status_code == 200
    stale = await served.call("PUT", "/environments/e/versions/1", {"properties": IMAGE}, **{"If-Match": first.headers["etag"]})
    assert stale.status_code == 412
    assert (await served.call("PUT", "/environments/e/versions/1", {"properties": IMAGE}, **{"If-None-Match": "*"})).status_code == 412


async def test_bodies_that_are_no_json_objects_are_refused(served: Served) -> None:
    url = served.workspace.id + "/environments/e/versions/1"
    for content, words in (
        (b"{", "line 1"),
        (b"[1]", "object"),
        (b"\xff", "UTF-8"),
        (b'{"properties": 3}', "properties"),
        (b"", "properties"),
    ):
        answer = await served.http.put(url, content=content)
        assert answer.status_code == 400 and words in answer.json()["error"]["message"], content
    big = await served.http.put(url, content=b" " * (9 * 1024 * 1024))
    assert (big.status_code, big.json()["error"]["code"]) == (413, "RequestBodyTooLarge")


async def test_roles_decide(served: Served) -> None:
    path, body = "/environments/e/versions/1", {"properties": IMAGE}
    assert (await served.call("PUT", path, body, role=Role.READER)).status_code == 403
    assert (await served.call("PUT", path, body, role=Role.CONTRIBUTOR)).status_code == 201
    elsewhere = f"Bearer {served.token(Role.OWNER, Workspace('s', 'g', 'w').id)}"
    assert (await served.call("GET", path, Authorization=elsewhere)).status_code == 403
    served.clock.time += timedelta(hours=2)
    expired = await served.call("GET", path)
    assert (expired.status_code, expired.json()["error"]["code"]) == (401, "ExpiredAuthenticationToken")


async def test_two_workspaces_share_no_asset(served: Served) -> None:
    other = Workspace("s2", "g2", "default")
    await served.services.store.write(lambda tx: ensure_workspace(tx, other, {"properties": {}}))
    await served.put("/environments/e/versions/1", IMAGE)
    assert (await served.call("GET", f"{BASE}{other.id}/environments/e")).status_code == 404


async def test_what_nobody_expected_is_a_500_without_internals(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    key = ResourceKey(served.workspace, "environments/versions", "1", "broken")
    await served.services.store.write(lambda tx: tx.resources.create(key, {"properties": {"a": 1}}))
    await served.services.store.write(lambda tx: tx.resources.update(tx.resources.get(key), body={"properties": {}}, state={}))
    await served.services.store.close()
    answer = await served.call("GET", "/environments/broken/versions/1")
    assert answer.status_code == 500 and "Traceback" not in answer.text and "executor" not in answer.text
    assert answer.headers["x-ms-request-id"] in caplog.text
