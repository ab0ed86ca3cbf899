"""Online endpoints and deployments (contract 7)."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable

from azure.ai.ml import load_online_deployment, load_online_endpoint
from azure.ai.ml.entities import (
    CodeConfiguration,
    DataCollector,
    DeploymentCollection,
    Environment,
    KubernetesOnlineDeployment,
    KubernetesOnlineEndpoint,
    Model,
    OnlineRequestSettings,
    ProbeSettings,
    ResourceRequirementsSettings,
    ResourceSettings,
    TargetUtilizationScaleSettings,
)
from azure.ai.ml.exceptions import ValidationException
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError
from flows.expect import names, raises, until
from flows.jobs import IMAGE, TINY

ENDPOINT = "sdk-endpoint"
SCORE = """
import glob, json, os

def init():
    global words
    folder = os.environ.get("AZUREML_MODEL_DIR")
    words = [open(each).read() for each in glob.glob(folder + "/**/*.txt", recursive=True)] if folder else []

def run(raw):
    print("asked", raw)
    return {"from": os.environ["COLOUR"], "model": words, "sent": json.loads(raw)}
"""


def deployment(place, colour: str, **changes) -> KubernetesOnlineDeployment:
    place.file("score/score.py", SCORE)
    given = {
        "name": colour,
        "endpoint_name": ENDPOINT,
        "code_configuration": CodeConfiguration(code=str(place.folder / "score"), scoring_script="score.py"),
        "environment": Environment(image=IMAGE),
        "environment_variables": {"COLOUR": colour},
        "instance_type": TINY,
        "instance_count": 1,
    }
    return KubernetesOnlineDeployment(**{**given, **changes})


def served(place):
    """An endpoint with a blue and a green deployment, made once."""
    if "served" in place.shared:
        return
    endpoint = KubernetesOnlineEndpoint(name=ENDPOINT, compute="local", auth_mode="key", description="d", tags={"a": "b"})
    made = place.ml.online_endpoints.begin_create_or_update(endpoint).result()
    assert made.provisioning_state == "Succeeded" and made.scoring_uri.endswith(f"/{ENDPOINT}/score")
    model = Model(name="served", version="1", path=place.file("model.txt", "the model"))
    blue = place.ml.online_deployments.begin_create_or_update(deployment(place, "blue", model=model)).result()
    assert blue.provisioning_state == "Succeeded"
    green = deployment(
        place,
        "green",
        model=model,
        resources=ResourceRequirementsSettings(
            requests=ResourceSettings(cpu="50m", memory="64Mi"), limits=ResourceSettings(cpu="1", memory="256Mi")
        ),
        request_settings=OnlineRequestSettings(request_timeout_ms=3000, max_concurrent_requests_per_instance=2, max_queue_wait_ms=500),
        liveness_probe=ProbeSettings(failure_threshold=30, success_threshold=1, timeout=2, period=10, initial_delay=10),
        readiness_probe=ProbeSettings(failure_threshold=30, success_threshold=1, timeout=2, period=1, initial_delay=1),
        scale_settings=TargetUtilizationScaleSettings(
            min_instances=1, max_instances=3, polling_interval=10, target_utilization_percentage=70
        ),
        data_collector=DataCollector(
            collections={"model_inputs": DeploymentCollection(enabled="true", sampling_rate=0.5)}, rolling_rate="hour"
        ),
        app_insights_enabled=False,
        description="the second",
        tags={"c": "d"},
    )
    place.ml.online_deployments.begin_create_or_update(green).result()
    place.shared["served"] = True


def give(place, **traffic: int) -> None:
    endpoint = place.ml.online_endpoints.get(ENDPOINT)
    endpoint.traffic = traffic
    place.ml.online_endpoints.begin_create_or_update(endpoint).result()


def ask(place, deployment_name: str | None = None) -> dict:
    request = place.file("request.json", json.dumps({"x": 1}))
    # The SDK keeps the header of a named deployment for later calls of this process (contract, pitfall 17), so it is always named.
    return json.loads(place.ml.online_endpoints.invoke(ENDPOINT, request_file=request, deployment_name=deployment_name))


def score(uri: str, key: str, body: bytes = b'{"x": 2}', **headers: str) -> dict:
    request = urllib.request.Request(uri, body, {"Authorization": f"Bearer {key}", "Content-Type": "application/json", **headers})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.loads(answer.read())


def answered(call: Callable[[], dict]) -> dict:
    """The answer; nothing while there is none but a status: a busy machine does not keep the few seconds a deployment is given."""
    try:
        return call()
    except (urllib.error.HTTPError, HttpResponseError):
        return {}


def comes(call: Callable[[], dict], expected: dict) -> None:
    """Wait for an answer with these fields: an operation waits for the cluster to have its change, not for the router to have read it."""

    def holds() -> bool:
        found = answered(call)
        return {**found, **expected} == found

    until(holds, f"the answer has {expected}")


def an_endpoint_with_two_deployments_is_made_shown_and_listed(place) -> None:
    served(place)
    shown = place.ml.online_endpoints.get(ENDPOINT)
    assert isinstance(shown, KubernetesOnlineEndpoint) and shown.compute.endswith("local") and shown.tags == {"a": "b"}
    assert shown.traffic == {"blue": 0, "green": 0}
    assert ENDPOINT in names(place.ml.online_endpoints.list())
    assert names(place.ml.online_deployments.list(ENDPOINT)) == {"blue", "green"}
    raises(ResourceNotFoundError, "nowhere", place.ml.online_endpoints.get, "nowhere")


def a_deployment_comes_back_with_every_field(place) -> None:
    served(place)
    green = place.ml.online_deployments.get("green", ENDPOINT)
    assert (green.instance_count, green.instance_type, green.description, green.tags) == (1, TINY, "the second", {"c": "d"})
    assert green.request_settings.max_concurrent_requests_per_instance == 2 and green.request_settings.request_timeout_ms == 3000
    assert green.resources.limits.memory == "256Mi" and green.resources.requests.cpu == "50m"
    assert (green.scale_settings.min_instances, green.scale_settings.max_instances) == (1, 3)
    assert green.liveness_probe.initial_delay == 10 and green.readiness_probe.period == 1
    assert set(green.data_collector.collections) == {"model_inputs"} and green.data_collector.rolling_rate == "hour"
    assert green.environment_variables["COLOUR"] == "green" and green.model.endswith("served/versions/1")
    blue = place.ml.online_deployments.get("blue", ENDPOINT)
    assert blue.scale_settings.type.lower() == "default"


def traffic_decides_who_answers(place) -> None:
    served(place)
    give(place, blue=100)
    assert place.ml.online_endpoints.get(ENDPOINT).traffic == {"blue": 100, "green": 0}
    keys = place.ml.online_endpoints.get_keys(ENDPOINT)
    uri = place.ml.online_endpoints.get(ENDPOINT).scoring_uri
    comes(lambda: score(uri, keys.primary_key), {"from": "blue", "model": ["the model"], "sent": {"x": 2}})
    give(place, blue=50, green=50)
    both = {"blue", "green"}
    until(lambda: both <= {answered(lambda: score(uri, keys.primary_key)).get("from") for _ in range(40)}, "each of two gets its half")
    comes(lambda: score(uri, keys.primary_key, **{"azureml-model-deployment": "green"}), {"from": "green"})
    raises(HttpResponseError, "100", lambda: give(place, blue=50))


def a_named_deployment_is_invoked(place) -> None:
    served(place)
    give(place, blue=100)
    comes(lambda: ask(place, "green"), {"from": "green", "model": ["the model"], "sent": {"x": 1}})
    comes(lambda: ask(place, "blue"), {"from": "blue"})


def mirrored_requests_reach_the_other_deployment_and_not_the_caller(place) -> None:
    served(place)
    endpoint = place.ml.online_endpoints.get(ENDPOINT)
    endpoint.traffic, endpoint.mirror_traffic = {"blue": 100}, {"green": 50}
    place.ml.online_endpoints.begin_create_or_update(endpoint).result()
    key = place.ml.online_endpoints.get_keys(ENDPOINT).primary_key
    comes(lambda: score(endpoint.scoring_uri, key), {"from": "blue"})

    def copied() -> bool:
        comes(
            lambda: score(endpoint.scoring_uri, key, b'{"copied": true}'),
            {"from": "blue", "model": ["the model"], "sent": {"copied": True}},
        )
        return 'asked {"copied": true}' in place.ml.online_deployments.get_logs("green", ENDPOINT, lines=200)

    until(copied, "green gets copies")
    deleted = raises(HttpResponseError, "copies", lambda: place.ml.online_deployments.begin_delete("green", ENDPOINT).result())
    assert "50 %" in str(deleted)
    for mirror, said in (
        ({"green": 60}, "between 0 and 50"),
        ({"blue": 10}, "not both"),
        ({"green": 10, "red": 10}, "no deployment 'red'"),
    ):
        endpoint.mirror_traffic = mirror
        raises(HttpResponseError, said, lambda: place.ml.online_endpoints.begin_create_or_update(endpoint).result())
    # The SDK does not read it back, so that the next update sends none, and green may have traffic again.
    give(place, green=100)


def keys_are_shown_and_made_anew(place) -> None:
    served(place)
    give(place, blue=100)
    uri = place.ml.online_endpoints.get(ENDPOINT).scoring_uri
    before = place.ml.online_endpoints.get_keys(ENDPOINT)
    place.ml.online_endpoints.begin_regenerate_keys(ENDPOINT, key_type="secondary").result()
    after = place.ml.online_endpoints.get_keys(ENDPOINT)
    assert after.primary_key == before.primary_key and after.secondary_key != before.secondary_key
    for key in (after.primary_key, after.secondary_key):
        comes(lambda key=key: score(uri, key), {"from": "blue"})
    error = raises(urllib.error.HTTPError, "401", score, uri, before.secondary_key)
    assert isinstance(error, urllib.error.HTTPError)


def the_logs_of_a_deployment_are_read(place) -> None:
    served(place)
    comes(lambda: ask(place, "blue"), {"from": "blue"})
    until(lambda: "asked" in place.ml.online_deployments.get_logs("blue", ENDPOINT, lines=50), "what the script prints is in the log")
    assert isinstance(place.ml.online_deployments.get_logs("blue", ENDPOINT, lines=10, container_type="storage-initializer"), str)


def a_deployment_is_updated_in_place(place) -> None:
    served(place)
    # Not the one with a data collector: the SDK cannot send back what it fetched of that.
    for colour in ("navy", "blue"):
        changed = place.ml.online_deployments.get("blue", ENDPOINT)
        changed.environment_variables["COLOUR"] = colour
        place.ml.online_deployments.begin_create_or_update(changed).result()
        comes(lambda: ask(place, "blue"), {"from": colour})


def a_deployment_whose_script_fails_says_why(place) -> None:
    served(place)
    place.file("bad/score.py", "def init():\n    raise ValueError('no model here')\n\ndef run(raw):\n    return 1\n")
    bad = deployment(place, "bad", code_configuration=CodeConfiguration(code=str(place.folder / "bad"), scoring_script="score.py"))
    raises(HttpResponseError, "no model here", lambda: place.ml.online_deployments.begin_create_or_update(bad).result())
    assert place.ml.online_deployments.get("bad", ENDPOINT).provisioning_state == "Failed"
    place.ml.online_deployments.begin_delete("bad", ENDPOINT).result()
    raises(ResourceNotFoundError, "bad", place.ml.online_deployments.get, "bad", ENDPOINT)


def an_endpoint_of_yaml_files_serves_and_is_deleted(place) -> None:
    place.file("score/score.py", SCORE)
    endpoint = load_online_endpoint(
        place.file(
            "endpoint.yml",
            "$schema: https://azuremlschemas.azureedge.net/latest/kubernetesOnlineEndpoint.schema.json\nname: yaml-endpoint\n"
            "compute: azureml:local\nauth_mode: key\n",
        )
    )
    place.ml.online_endpoints.begin_create_or_update(endpoint).result()
    made = load_online_deployment(
        place.file(
            "deployment.yml",
            "$schema: https://azuremlschemas.azureedge.net/latest/kubernetesOnlineDeployment.schema.json\nname: only\n"
            "type: kubernetes\nendpoint_name: yaml-endpoint\ncode_configuration:\n  code: score\n  scoring_script: score.py\n"
            f"environment:\n  image: {IMAGE}\nenvironment_variables:\n  COLOUR: yaml\ninstance_type: {TINY}\ninstance_count: 1\n",
        )
    )
    place.ml.online_deployments.begin_create_or_update(made, local=False).result()
    endpoint = place.ml.online_endpoints.get("yaml-endpoint")
    endpoint.traffic = {"only": 100}
    place.ml.online_endpoints.begin_create_or_update(endpoint).result()
    keys = place.ml.online_endpoints.get_keys("yaml-endpoint")
    comes(lambda: score(endpoint.scoring_uri, keys.primary_key), {"from": "yaml"})
    raises(HttpResponseError, "traffic", lambda: place.ml.online_deployments.begin_delete("only", "yaml-endpoint").result())
    place.ml.online_endpoints.begin_delete("yaml-endpoint").result()
    raises(ResourceNotFoundError, "yaml-endpoint", place.ml.online_endpoints.get, "yaml-endpoint")


def what_is_wrong_with_an_endpoint_is_said_at_once(place) -> None:
    unknown = KubernetesOnlineEndpoint(name="sdk-wrong", compute="nowhere", auth_mode="key")
    raises(HttpResponseError, "nowhere", lambda: place.ml.online_endpoints.begin_create_or_update(unknown).result())
    raises(ResourceNotFoundError, "sdk-wrong", place.ml.online_endpoints.get, "sdk-wrong")


def online_token_endpoint(place) -> None:
    """An endpoint with tokens is made, asked for one, and scored with it."""
    for name in ("sdk-token", "sdk-token-other"):
        endpoint = KubernetesOnlineEndpoint(name=name, compute="local", auth_mode="aml_token")
        made = place.ml.online_endpoints.begin_create_or_update(endpoint).result()
        assert made.auth_mode == "aml_token" and made.provisioning_state == "Succeeded"
    place.ml.online_deployments.begin_create_or_update(deployment(place, "only", endpoint_name="sdk-token")).result()
    uri, pinned = place.ml.online_endpoints.get("sdk-token").scoring_uri, {"azureml-model-deployment": "only"}
    token, theirs = (place.ml.online_endpoints.get_keys(name) for name in ("sdk-token", "sdk-token-other"))
    assert type(token).__name__ == "EndpointAuthToken" and token.token_type == "Bearer"
    assert token.expiry_time_utc - token.refresh_after_time_utc == 1800
    comes(lambda: score(uri, token.access_token, **pinned), {"from": "only"})
    request = place.file("request.json", json.dumps({"x": 1}))
    assert json.loads(place.ml.online_endpoints.invoke("sdk-token", request_file=request, deployment_name="only"))["from"] == "only"
    raises(urllib.error.HTTPError, "403", lambda: score(uri, theirs.access_token, **pinned))
    raises(urllib.error.HTTPError, "401", lambda: score(uri, token.access_token[:-2], **pinned))
    raises(ValidationException, "does not use keys", lambda: place.ml.online_endpoints.begin_regenerate_keys("sdk-token").result())
    for name in ("sdk-token", "sdk-token-other"):
        place.ml.online_endpoints.begin_delete(name).result()


def an_endpoint_with_tokens_of_users_is_refused(place) -> None:
    endpoint = KubernetesOnlineEndpoint(name="sdk-users", compute="local", auth_mode="aad_token")
    raises(HttpResponseError, "AuthModeNotSupported", lambda: place.ml.online_endpoints.begin_create_or_update(endpoint).result())
    raises(ResourceNotFoundError, "sdk-users", place.ml.online_endpoints.get, "sdk-users")
