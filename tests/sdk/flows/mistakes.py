"""What people get wrong, as a table: each mistake is answered with an error of the SDK that names the field, or the thing, and the remedy."""

from __future__ import annotations

from azure.ai.ml import Input, Output
from azure.ai.ml.entities import AmlCompute, CodeConfiguration, Data, Environment, KubernetesCompute, ManagedOnlineEndpoint, Model
from azure.core.exceptions import HttpResponseError, ResourceExistsError, ResourceNotFoundError
from flows.expect import raises
from flows.jobs import job

CLUSTER = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Kubernetes/connectedClusters/nowhere"
DATASTORES = "has no datastore 'nowhere' (it has: workspaceblobstore, workspaceartifactstore). Name one of these"


def answered(kind: type[HttpResponseError], said: tuple[str, ...], call) -> None:
    """The call ends with an answer of the service of that kind, which says all of it."""
    error = raises(kind, said[0], call)
    assert isinstance(error, HttpResponseError) and error.status_code < 500
    for words in said:
        assert words in error.message, f"{words!r} is not in: {error.message}"


def of_jobs(place) -> None:
    place.ml.environments.create_or_update(Environment(name="sdk-known", version="1", image="python:3.11"))
    submitted = place.ml.jobs.create_or_update(job("echo first"))
    read = {"command": "cat ${{inputs.i}}"}
    for changes, *said in (
        (
            {"compute": "nowhere"},
            "properties.computeId: the workspace has no compute 'nowhere' (it has: local",
            "Name one of these, or attach",
        ),
        (
            {"environment": "nowhere:1"},
            "properties.environmentId: environments 'nowhere:1' does not exist",
            "Correct the name, or register it",
        ),
        ({"environment": "sdk-known:9"}, "properties.environmentId: environments 'sdk-known:9'", "it has versions 1. Name one of these"),
        (
            {"environment": "azureml://registries/azureml/environments/sklern-1.5/labels/latest"},
            "nearest first: sklearn-1.5",
            "Take one of them",
        ),
        ({"environment": "azureml://registries/theirs/environments/e/versions/1"}, "the one registry is 'azureml'", "Register the asset"),
        (
            {"instance_type": "huge"},
            "properties.resources.instanceType: the compute has no instance type 'huge'",
            "tiny. Name one of these",
        ),
        ({"name": "no name"}, "'no name' is not a job name", "Use 1 to 255 letters, digits"),
        ({"command": ""}, "properties.command: string should have at least 1 character"),
        ({"command": "cat ${{outputs.o}}"}, "properties.command: The command refers to ${{outputs.o}}", "It has: no inputs and no outputs"),
        ({"timeout": -5}, "properties.limits.timeout: '-PT5S' is not an ISO 8601 duration", "Write e.g. PT20M"),
        (
            read | {"inputs": {"i": Input(type="uri_file", path="azureml://datastores/nowhere/paths/a")}},
            "properties.inputs.i.uri",
            DATASTORES,
        ),
        (
            {"outputs": {"o": Output(type="uri_folder", path="azureml://datastores/nowhere/paths/a")}},
            "properties.outputs.o.uri",
            DATASTORES,
        ),
        (
            read | {"inputs": {"i": Input(type="uri_file", path="azureml://datastores/workspaceblobstore/paths/no/such")}},
            "properties.inputs.i.uri: nothing is stored at",
            "Upload it first, or correct the path",
        ),
        (
            read | {"inputs": {"i": Input(type="uri_file", path="azureml:nowhere:1")}},
            "properties.inputs.i.uri: data 'nowhere:1'",
            "register it first",
        ),
        (
            read | {"inputs": {"i": Input(type="uri_file", path="https://example.org/a")}},
            "properties.inputs.i.uri",
            "moorage up --url-map FILE",
        ),
        ({"name": submitted.name}, f"Job '{submitted.name}' exists already with another command", "Submit it under a new name"),
    ):
        kind = ResourceExistsError if "name" in changes and changes["name"] == submitted.name else HttpResponseError
        answered(kind, tuple(said), lambda changes=changes: place.ml.jobs.create_or_update(_job(changes)))
    for call in (place.ml.jobs.get, place.ml.jobs.stream, place.ml.jobs.download, place.ml.jobs.archive, place.ml.jobs.begin_cancel):
        said = ("Job 'nowhere' does not exist in workspace 'default'. See what there is: moorage job list.",)
        answered(ResourceNotFoundError, said, lambda call=call: call("nowhere"))


def _job(changes: dict):
    return job(**{("text" if name == "command" else name): value for name, value in changes.items()})


def of_assets_and_computes(place) -> None:
    ml = place.ml
    note = "azureml://datastores/nowhere/paths/a"
    local = ml.compute.get("local").resource_id

    def attach(**changes):
        return ml.compute.begin_attach(
            KubernetesCompute(**{"name": "sdk-mistake", "resource_id": local, "namespace": "default", **changes})
        )

    for call, *said in (
        (
            lambda: ml.environments.create_or_update(Environment(name="no name", version="1", image="i")),
            "name 'no name' must be 1 to 255 letters",
        ),
        (lambda: ml.models.create_or_update(Model(name="m", path=note)), "properties.modelUri", DATASTORES),
        (
            lambda: ml.models.create_or_update(Model(name="m", path="azureml://jobs/nowhere/outputs/o")),
            "no job 'nowhere'",
            "moorage job list",
        ),
        (lambda: ml.data.create_or_update(Data(name="d", type="uri_file", path=note)), "properties.dataUri", DATASTORES),
        (lambda: attach(name="no_name!").result(), "'no_name!' is not a compute name", "Use 1 to 64 letters"),
        (lambda: attach(namespace="No_Name").result(), "properties.properties.namespace: 'No_Name'", "Use up to 63 lower-case"),
        (lambda: attach(resource_id="nowhere").result(), "'nowhere' is not a cluster's resource id", "Use /subscriptions/S/"),
        (lambda: attach(resource_id=CLUSTER).result(), "nowhere"),
        (
            lambda: ml.compute.begin_create_or_update(AmlCompute(name="sdk-mistake", size="s")).result(),
            "properties.computeType",
            "Use type Kubernetes",
        ),
    ):
        answered(HttpResponseError, tuple(said), call)
    for call, *said in (
        (
            lambda: ml.environments.get("nowhere", version="1"),
            "Version '1' of environment 'nowhere'",
            "moorage environment list --name nowhere",
        ),
        (lambda: ml.models.get("nowhere", version="1"), "Version '1' of model 'nowhere'", "moorage model list"),
        (lambda: ml.data.get("nowhere", version="1"), "Version '1' of data asset 'nowhere'", "moorage data list"),
        (lambda: ml.components.get("nowhere", version="1"), "Version '1' of component 'nowhere'", "moorage component list"),
        (lambda: ml.datastores.get("nowhere"), "Datastore 'nowhere' does not exist in workspace 'default'", "moorage datastore list"),
        (lambda: ml.compute.get("nowhere"), "Compute target 'nowhere' does not exist", "moorage compute list"),
        (lambda: ml.online_endpoints.get("nowhere"), "Online endpoint 'nowhere' does not exist", "moorage online-endpoint list"),
        (
            lambda: ml.workspaces.get("nowhere"),
            "Workspace 'nowhere' does not exist in resource group",
            "of subscription",
            "moorage workspace create",
        ),
    ):
        answered(ResourceNotFoundError, tuple(said), call)


def of_endpoints_and_deployments(place) -> None:
    from flows.serving import ENDPOINT, deployment, give, served

    ml = place.ml
    served(place)
    give(place)
    request = place.file("request.json", "{}")
    answered(
        ResourceNotFoundError,
        ("No deployment of the endpoint gets traffic. Set its traffic",),
        lambda: ml.online_endpoints.invoke(ENDPOINT, request_file=request),
    )
    give(place, blue=100)

    def mirror(**percentages: int):
        endpoint = ml.online_endpoints.get(ENDPOINT)
        endpoint.mirror_traffic = percentages
        return ml.online_endpoints.begin_create_or_update(endpoint)

    def deploy(**changes):
        return ml.online_deployments.begin_create_or_update(deployment(place, "sdk-mistake", **changes)).result()

    managed = ManagedOnlineEndpoint(name="sdk-mistake", auth_mode="key")
    for call, *said in (
        (lambda: give(place, blue=50), "properties.traffic must add up to 100", "not 50 (blue: 50)"),
        (lambda: give(place, blue=150), "properties.traffic.blue: 150 is not a percentage between 0 and 100"),
        (
            lambda: give(place, red=100),
            "properties.traffic.red: the endpoint has no deployment 'red' (it has: blue, green). Create it before",
        ),
        (lambda: mirror(red=10), "properties.mirrorTraffic.red: the endpoint has no deployment 'red'", "Create it before"),
        (lambda: ml.online_endpoints.begin_create_or_update(managed), "properties.compute is required", "Name a Kubernetes compute"),
        (lambda: deploy(model="azureml:nowhere:1"), "properties.model: models 'nowhere:1' does not exist", "register it first"),
        (lambda: deploy(environment="nowhere:1"), "properties.environmentId: environments 'nowhere:1'", "register it first"),
        (lambda: deploy(instance_type="huge"), "properties.instanceType: the compute has no instance type 'huge'", "Name one of these"),
        (
            lambda: deploy(code_configuration=None),
            "properties.codeConfiguration is required",
            "give the code folder and the scoring script",
        ),
    ):
        answered(HttpResponseError, tuple(said), call)
    script = CodeConfiguration(code=str(place.folder / "score"), scoring_script="score.py")
    answered(
        ResourceNotFoundError,
        ("Online endpoint 'nowhere' does not exist",),
        lambda: deploy(endpoint_name="nowhere", code_configuration=script),
    )
    answered(
        ResourceNotFoundError,
        ("Online deployment 'red' of endpoint", "--endpoint-name"),
        lambda: ml.online_deployments.get("red", ENDPOINT),
    )
    answered(
        ResourceNotFoundError, ("Online deployment 'red' of endpoint",), lambda: ml.online_deployments.get_logs("red", ENDPOINT, lines=5)
    )
    answered(
        ResourceExistsError,
        ("Deployment 'blue' still gets 100 % of the endpoint's traffic. Set its traffic to 0 first",),
        lambda: ml.online_deployments.begin_delete("blue", ENDPOINT),
    )
    # As whoever comes next expects it.
    give(place)
