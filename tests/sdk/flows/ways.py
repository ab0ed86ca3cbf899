"""Flows through every kind of connection the SDK makes: management, storage, run history, data plane, registries."""

from __future__ import annotations

from uuid import uuid4

from azure.ai.ml import Input, Output
from azure.ai.ml.constants import AssetTypes
from azure.ai.ml.entities import BuildContext, Data, Environment, Model
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError
from flows.expect import names, raises
from flows.jobs import files, job, streamed


def files_go_up_a_job_runs_and_its_files_come_down(place) -> None:
    assert place.ml.workspaces.get(place.scope["workspace"]).discovery_url.startswith(place.url)
    place.file("src/main.py", "import sys; open(sys.argv[2] + '/copy.txt', 'w').write(open(sys.argv[1]).read()); print('copied')\n")
    submitted = place.ml.jobs.create_or_update(
        job(
            "python main.py ${{inputs.i}} ${{outputs.o}}",
            code=str(place.folder / "src"),
            inputs={"i": Input(type=AssetTypes.URI_FILE, path=place.file("in.txt", "there and back"))},
            outputs={"o": Output(type=AssetTypes.URI_FOLDER)},
        )
    )
    assert "copied" in streamed(place, submitted.name)
    place.ml.jobs.download(submitted.name, download_path=str(place.folder / "got"), all=True)
    assert files(place.folder / "got")["named-outputs/o/copy.txt"] == "there and back"


def the_registry_has_environments_to_list_to_get_and_to_add_to(place) -> None:
    registry = place.registry("azureml")
    assert {"sklearn-1.5", "AzureML-sklearn-1.5"} & names(registry.environments.list())
    assert [each.version for each in registry.environments.list(name="sklearn-1.5")] == ["1"]
    latest = registry.environments.get("sklearn-1.5", label="latest")
    assert latest.image == "python:3.10-slim" and latest.id == "azureml://registries/azureml/environments/sklearn-1.5/versions/1"
    assert registry.environments.get("sklearn-1.5", version="1").conda_file == latest.conda_file
    raises(HttpResponseError, "nearest first: sklearn-1.5", lambda: registry.environments.get("sklearn-9.9", label="latest"))
    raises(ResourceNotFoundError, "nearest first: sklearn-1.5", lambda: registry.environments.get("sklearn-9.9", version="1"))
    # The registry is everybody's: the flow's other runs add to it as well.
    name = f"sdk-{uuid4().hex[:8]}"
    made = registry.environments.create_or_update(Environment(name=name, version="1", image="python:3.11"))
    numbered = registry.environments.create_or_update(Environment(name=name, image="python:3.12"))
    assert (made.image, numbered.version) == ("python:3.11", "2")
    assert registry.environments.get(name, label="latest").image == "python:3.12"
    submitted = place.ml.jobs.create_or_update(job("echo of the registry", environment=numbered.id))
    assert "of the registry" in streamed(place, submitted.name)


def what_the_registry_has_not_is_said_in_its_own_words(place) -> None:
    registry = place.registry("azureml")
    raises(ResourceNotFoundError, "no registry 'theirs' here; the one there is is 'azureml'", place.registry, "theirs")
    note = place.file("note.txt", "n")
    place.file("context/Dockerfile", "FROM python:3.11\n")
    built = Environment(name="sdk-built", version="1", build=BuildContext(path=str(place.folder / "context")))
    raises(HttpResponseError, "an image and a conda file", registry.environments.create_or_update, built)
    for kind, calls in (
        ("models", (lambda: list(registry.models.list()), lambda: registry.models.get("m", version="1"))),
        ("components", (lambda: list(registry.components.list()), lambda: registry.components.get("c", label="latest"))),
        ("data", (lambda: list(registry.data.list()), lambda: registry.data.get("d", version="1"))),
    ):
        for call in calls:
            error = raises(HttpResponseError, f"Registry 'azureml' has environments only, no {kind}. Register it in the workspace", call)
            assert not isinstance(error, ResourceNotFoundError)
    raises(HttpResponseError, "Register it in the workspace", registry.models.create_or_update, Model(name="m", version="1", path=note))
    raises(
        HttpResponseError,
        "Register it in the workspace",
        registry.data.create_or_update,
        Data(name="d", version="1", path=note, type="uri_file"),
    )
    place.ml.environments.create_or_update(Environment(name="sdk-shared", version="1", image="python:3.11"))
    shared = {"share_with_name": "s", "share_with_version": "1", "registry_name": "azureml"}
    raises(HttpResponseError, "--registry-name azureml", lambda: place.ml.environments.share("sdk-shared", "1", **shared))
    raises(HttpResponseError, "it belongs to the service", lambda: list(place.ml.registries.list()))
