"""Ready-made environments: every form of reference, the registry's face, and what is said when there is none."""

from __future__ import annotations

import pytest
import yaml
from tests.fixtures.served import Served

from moorage.errors import Invalid
from moorage.identity.roles import Role
from moorage.server.resources.references import Resolver
from moorage.wire.assets import Environment

pytest_plugins = ["tests.fixtures.service"]
REGISTRY = "/subscriptions/s/resourceGroups/g/providers/Microsoft.MachineLearningServices/registries/azureml/environments"


async def resolved(served: Served, text: str) -> Environment:
    return await served.services.store.read(
        lambda tx: Resolver(tx, served.workspace).environment(text, target="properties.environmentId"),
    )


@pytest.mark.parametrize(
    "text",
    [
        "azureml://registries/azureml/environments/sklearn-1.5/labels/latest",
        "azureml://registries/azureml/environments/sklearn-1.5/versions/17",
        "azureml://registries/azureml/environments/sklearn-1.5",
        "azureml:AzureML-sklearn-1.5@latest",
        "azureml:AzureML-sklearn-1.5:9",
        "AzureML-sklearn-1.5:9",
        "{W}/environments/AzureML-sklearn-1.5/versions/9",
        "{W}/environments/AzureML-sklearn-1.5/labels/latest",
    ],
)
async def test_every_form_of_reference_finds_the_recipe(served: Served, text: str) -> None:
    found = await resolved(served, text.replace("{W}", served.workspace.id))
    conda = yaml.safe_load(found.conda or "")
    assert "python=3.10" in conda["dependencies"]
    assert "scikit-learn==1.5.*" in conda["dependencies"][-1]["pip"]
    assert found.image == "python:3.10-slim"
    assert found.name.endswith((":latest", ":17", ":9"))


@pytest.mark.parametrize(
    "name",
    [
        "AzureML-sklearn-1.0-ubuntu20.04-py38-cpu",
        "AzureML-ACPT-pytorch-1.13-py38-cuda11.7-gpu",
        "AzureML-lightgbm-3.2-ubuntu18.04-py37-cpu",
        "AzureML-tensorflow-2.4-ubuntu18.04-py37-cuda11-gpu",
        "AzureML-minimal-ubuntu22.04-py39-cpu-inference",
        "AzureML-mlflow-ubuntu20.04-py38-cpu-inference",
    ],
)
async def test_the_names_of_public_examples_are_known(served: Served, name: str) -> None:
    assert (await resolved(served, f"azureml:{name}@latest")).conda


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("azureml:AzureML-sklearn-7@latest", "It has, nearest first: sklearn-"),
        ("azureml://registries/azureml/environments/acpt-pytorch-9/labels/latest", "nearest first: acpt-pytorch-"),
        ("azureml://registries/azureml/environments/sklearn-1.5/labels/newest", "the only label is latest"),
        ("azureml://registries/azureml/components/train/versions/1", "it has environments only"),
        ("azureml://registries/other/environments/sklearn-1.5/labels/latest", "the one registry is 'azureml'"),
    ],
)
async def test_an_unknown_one_is_refused_with_the_list(served: Served, text: str, expected: str) -> None:
    with pytest.raises(Invalid, match="environmentId") as caught:
        await resolved(served, text)
    assert expected in caught.value.message


async def test_the_registry_lists_and_shows_them(served: Served) -> None:
    discovery = (await served.call("GET", "https://service.test:8450/registrymanagement/v1.0/registries/azureml/discovery")).json()
    base = f"{discovery['primaryRegionResourceProviderUri']}mferp/managementfrontend{REGISTRY}"
    names = [each["name"] for each in (await served.call("GET", base)).json()["value"]]
    assert "sklearn-1.5" in names and len(names) == len(set(names))
    assert (await served.call("GET", f"{base}/sklearn-1.5")).json()["properties"]["latestVersion"] == "1"
    version = (await served.call("GET", f"{base}/sklearn-1.5/versions/1")).json()
    assert version["id"] == "azureml://registries/azureml/environments/sklearn-1.5/versions/1"
    assert version["properties"]["environmentType"] == "Curated"
    missing = await served.call("GET", f"{base}/sklearn-77")
    assert missing.status_code == 404
    assert "nearest first: sklearn-" in missing.json()["error"]["message"]


async def test_a_workspace_answers_for_the_reserved_names_and_keeps_others_out(served: Served) -> None:
    listed = await served.get("/environments/AzureML-sklearn-1.5/versions")
    assert [each["name"] for each in listed["value"]] == ["1"]
    assert (await served.get("/environments/AzureML-sklearn-1.5/versions/3"))["name"] == "3"
    refused = await served.call("PUT", "/environments/AzureML-mine/versions/1", {"properties": {"image": "i"}})
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "ReservedName")


async def test_one_that_was_added_is_found_by_all_and_wins_over_the_built_in_one(served: Served) -> None:
    where = f"https://service.test:8450{REGISTRY}/sklearn-1.5/versions/"
    body = {"properties": {"image": "ours:1", "condaFile": "dependencies: [pip, {pip: [scikit-learn==1.5.2]}]"}}
    assert (await served.call("PUT", f"{where}1", body, role=Role.READER)).status_code == 403
    # The registry is everybody's, whatever group its address names.
    of_group = served.token(Role.OWNER, "/subscriptions/s/resourceGroups/g")
    refused = await served.call("PUT", f"{where}1", body, Authorization=f"Bearer {of_group}")
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "AuthorizationFailed")
    assert (await served.call("PUT", f"{where}1", body)).status_code == 201
    assert (await served.call("PUT", f"{where}2", {"properties": {"image": "ours:2"}})).status_code == 201
    assert (await resolved(served, "azureml:AzureML-sklearn-1.5@latest")).image == "ours:2"
    assert (await resolved(served, "azureml://registries/azureml/environments/sklearn-1.5/versions/1")).image == "ours:1"
    # The built-in recipe goes on standing for the original's version numbers.
    assert (await resolved(served, "azureml:AzureML-sklearn-1.5:17")).image == "python:3.10-slim"


@pytest.mark.parametrize(
    ("method", "path", "status", "expected"),
    [
        ("GET", "", 400, "it belongs to the service"),
        ("DELETE", "/azureml", 400, "it belongs to the service"),
        ("GET", "/theirs/models", 404, "no registry 'theirs'"),
        ("GET", "/azureml/models", 400, "has environments only, no models"),
        ("GET", "/azureml/components/c/versions/1", 400, "has environments only, no components"),
        ("POST", "/azureml/models/m/versions/1/package", 400, "has environments only, no models"),
        ("PUT", "/azureml/environments/sklearn-1.5", 400, "Add a version of the name"),
        ("DELETE", "/azureml/environments/sklearn-1.5/versions/1", 400, "Add a version of the name"),
        ("POST", "/azureml/import", 400, "moorage environment create --file FILE --registry-name azureml"),
    ],
)
@pytest.mark.parametrize("prefix", ["", "/mferp/managementfrontend"])
async def test_what_the_registry_has_not_is_refused_in_words_of_its_own(
    served: Served, prefix: str, method: str, path: str, status: int, expected: str
) -> None:
    answer = await served.http.request(method, prefix + REGISTRY.removesuffix("/azureml/environments") + path, json={})
    assert answer.status_code == status and expected in answer.json()["error"]["message"]


async def test_the_sdk_may_ask_where_files_go_and_an_environment_has_none(served: Served) -> None:
    place = REGISTRY.removesuffix("/environments") + "/tempdatarefs/e/versions/1"
    asset = "azureml://registries/azureml/{}/e/versions/1"
    assert (await served.http.put(place, json={"assetId": asset.format("environments")})).status_code == 409
    refused = await served.http.put(place, json={"assetId": asset.format("models")})
    assert refused.status_code == 400 and "takes no files" in refused.json()["error"]["message"]
    built = await served.http.put(REGISTRY + "/e/versions/1", json={"properties": {"build": {"contextUri": "."}}})
    assert built.status_code == 400 and built.json()["error"]["target"] == "properties.build"
