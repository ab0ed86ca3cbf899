"""Endpoint, deployment and compute bodies, their manifests and their refusals."""

from __future__ import annotations

import pytest

from moorage.errors import Conflict, Invalid
from moorage.ids import Workspace, kube_name
from moorage.specs.computes import check_version, choose_instance_type, known_instance_types
from moorage.specs.endpoints import check_deployment_name, check_endpoint_name, check_no_traffic, check_traffic
from moorage.specs.instance_type import BUILT_IN
from moorage.specs.manifest import Manifest
from moorage.wire import deployments, endpoints
from moorage.wire.assets import DeploymentAssets, Environment, Model, read_environment
from moorage.wire.computes import read_compute, read_identity
from moorage.wire.manifests import Placement, online_deployment, online_endpoint

WS = Workspace("s", "g", "w")
PLACE = Placement(WS, "local", "ml")


def test_an_endpoint_is_rendered_with_digests_and_the_deployments_own_spelling() -> None:
    endpoint = endpoints.read_endpoint(
        {"authMode": "Key", "compute": WS.child("computes", "local"), "traffic": {"blue": 90, "green": 10, "old": 0}, "mirrorTraffic": {}}
    )
    manifest = online_endpoint(PLACE, "digits", endpoint, key_digests=["a" * 64], deployments=["Blue", "green"])
    assert manifest["metadata"]["name"] == kube_name(WS, "digits")
    assert manifest["spec"] == {
        "subscription": "s",
        "resourceGroup": "g",
        "workspace": "w",
        "compute": "local",
        "endpoint": "digits",
        "authMode": "Key",
        "keySha256": ["a" * 64],
        "traffic": {"Blue": 90, "green": 10},
    }


def test_an_endpoint_is_answered_without_its_keys() -> None:
    assert endpoints.answered({"compute": "c", "keys": {"primaryKey": "secret"}, "authMode": "aml_token"}) == {
        "compute": "c",
        "properties": {},
        "traffic": {},
        "mirrorTraffic": {},
        "authMode": "AMLToken",
    }


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ({}, "properties.compute is required"),
        ({"compute": "c", "authMode": "Basic"}, "'Basic' is unknown. Use Key or AMLToken"),
        ({"compute": "c", "traffic": {"blue": "90"}}, "properties.traffic.blue"),
    ],
)
def test_a_wrong_endpoint_is_refused_by_field(raw: Manifest, words: str) -> None:
    with pytest.raises(Invalid) as caught:
        endpoints.read_endpoint(raw)
    assert words in caught.value.message


@pytest.mark.parametrize(
    ("traffic", "mirror", "words"),
    [
        ({"blue": 90}, {}, "must add up to 100 (or 0 to stop all traffic), not 90 (blue: 90)"),
        ({"red": 100}, {}, "has no deployment 'red' (it has: blue, green, other)"),
        ({"blue": 150, "green": -50}, {}, "150 is not a percentage between 0 and 100"),
        ({"blue": 100}, {"green": 60}, "60 is not a percentage between 0 and 50"),
        ({"blue": 100}, {"blue": 10}, "live traffic or mirrored traffic, not both"),
        ({"blue": 100}, {"Blue": 10}, "live traffic or mirrored traffic, not both"),
        ({"blue": 100}, {"green": 10, "other": 10}, "only one deployment can be mirrored to, not green, other"),
        ({"blue": 100}, {"green": -1}, "-1 is not a percentage between 0 and 50"),
        ({"blue": 100}, {"green": 10, "red": 10}, "has no deployment 'red'"),
    ],
)
def test_a_split_that_does_not_add_up_is_refused(traffic: dict[str, int], mirror: dict[str, int], words: str) -> None:
    with pytest.raises(Invalid) as caught:
        check_traffic(traffic, mirror, ["blue", "green", "other"])
    assert words in caught.value.message


def test_a_good_split_passes_whatever_the_case() -> None:
    check_traffic({"blue": 100}, {"green": 10}, ["Blue", "Green"])
    check_traffic({}, {}, [])
    check_traffic({"gone": 0}, {}, [])


def test_a_deployment_with_traffic_is_not_deleted() -> None:
    check_no_traffic("blue", {"blue": 0}, {"blue": 0})
    with pytest.raises(Conflict, match="still gets 10 %"):
        check_no_traffic("Blue", {"blue": 10}, {})
    with pytest.raises(Conflict, match="still gets copies of 5 %"):
        check_no_traffic("Blue", {}, {"blue": 5})


@pytest.mark.parametrize("name", ["ab", "1abc", "a" * 33, "a_b", "abc-"])
def test_names_outside_the_rule_are_refused(name: str) -> None:
    with pytest.raises(Invalid, match="3 to 32"):
        check_endpoint_name(name)
    with pytest.raises(Invalid, match="3 to 32"):
        check_deployment_name(name)


DEPLOYMENT: Manifest = {
    "endpointComputeType": "Kubernetes",
    "model": WS.child("models", "m", "versions", "1"),
    "environmentId": WS.child("environments", "e", "versions", "1"),
    "codeConfiguration": {"codeId": WS.child("codes", "c", "versions", "1"), "scoringScript": "score.py"},
    "instanceType": "gpu",
    "environmentVariables": {"A": "b"},
    "containerResourceRequirements": {
        "containerResourceRequests": {"cpu": "100m", "memory": "0.2Gi"},
        "containerResourceLimits": {"cpu": 1, "gpu": "1"},
    },
    "scaleSettings": {
        "scaleType": "TargetUtilization",
        "minInstances": 1,
        "maxInstances": 3,
        "pollingInterval": "PT10S",
        "targetUtilizationPercentage": 70,
    },
    "requestSettings": {"requestTimeout": "PT3S", "maxConcurrentRequestsPerInstance": 2, "maxQueueWait": "PT0.5S"},
    "livenessProbe": {"failureThreshold": 3, "timeout": "PT2S", "period": "PT10S", "initialDelay": "PT10S"},
}


def test_a_whole_deployment_becomes_a_whole_online_deployment() -> None:
    assets = DeploymentAssets(Environment("e:1", image="img"), "K-code-1/src", Model("m", "1", "K-blob/m/model.pkl", "file"))
    manifest = online_deployment(PLACE, "digits", "blue", deployments.read_deployment(DEPLOYMENT), assets, replicas=2)
    assert manifest["metadata"]["name"] == kube_name(WS, "digits", "blue")
    assert manifest["metadata"]["labels"]["moorage.dev/deployment"] == "blue"
    assert manifest["spec"] == {
        "subscription": "s",
        "resourceGroup": "g",
        "workspace": "w",
        "compute": "local",
        "endpoint": "digits",
        "deployment": "blue",
        "model": {"name": "m", "version": "1", "uri": "K-blob/m/model.pkl", "kind": "file"},
        "code": {"uri": "K-code-1/src", "scoringScript": "score.py"},
        "environment": {"name": "e:1", "image": "img"},
        "environmentVariables": {"A": "b"},
        "instanceType": "gpu",
        "resources": {"requests": {"cpu": "100m", "memory": "0.2Gi"}, "limits": {"cpu": "1", "nvidia.com/gpu": "1"}},
        "replicas": 2,
        "scale": {
            "type": "TargetUtilization",
            "minInstances": 1,
            "maxInstances": 3,
            "targetUtilizationPercentage": 70,
            "pollingIntervalSeconds": 10,
        },
        "requests": {"timeoutMilliseconds": 3000, "queueWaitMilliseconds": 500, "concurrencyPerInstance": 2},
        "livenessProbe": {"initialDelaySeconds": 10, "periodSeconds": 10, "timeoutSeconds": 2, "failureThreshold": 3},
        "progressDeadlineSeconds": 1200,
    }


def test_sending_back_the_answered_defaults_changes_nothing_in_the_cluster() -> None:
    assets = DeploymentAssets(Environment("e:1", image="img"), "K-code-1/src")
    plain = {"environmentId": "e", "codeConfiguration": {"codeId": "c", "scoringScript": "score.py"}}
    first, again = (
        online_deployment(PLACE, "digits", "blue", deployments.read_deployment(raw), assets, replicas=1)
        for raw in (plain, deployments.answered(plain))
    )
    assert first == again


def test_a_deployment_is_answered_with_the_defaults_a_client_needs() -> None:
    answer = deployments.answered({"environmentId": "e", "$schema": "kept"})
    assert answer["scaleSettings"] == {"scaleType": "Default"}
    assert answer["containerResourceRequirements"] == {} and answer["endpointComputeType"] == "Kubernetes"
    assert answer["requestSettings"] == {"requestTimeout": "PT5S", "maxQueueWait": "PT0.5S", "maxConcurrentRequestsPerInstance": 1}
    assert answer["$schema"] == "kept"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"environmentVariables": {"A": "\0"}}, "properties.environmentVariables.A: contains a NUL character"),
        ({"requestSettings": {"requestTimeout": "3s"}}, "properties.requestSettings.requestTimeout: '3s'"),
        (
            {"scaleSettings": {"scaleType": "TargetUtilization", "minInstances": 4, "maxInstances": 3}},
            "minInstances 4 is more than maxInstances 3",
        ),
        ({"endpointComputeType": "Managed"}, "'Managed' deployments do not exist here"),
        ({"environmentId": None}, "properties.environmentId"),
    ],
)
def test_a_wrong_deployment_is_refused_by_field(change: Manifest, words: str) -> None:
    with pytest.raises(Invalid) as caught:
        deployments.read_deployment({**DEPLOYMENT, **change})
    assert words in caught.value.message


def test_the_default_instance_type_is_there_without_an_object_and_yields_to_one() -> None:
    assert known_instance_types([])["defaultinstancetype"] == BUILT_IN
    own = {"metadata": {"name": "defaultinstancetype"}, "spec": {"resources": {"limits": {"cpu": 4}, "requests": {"cpu": 2}}}}
    assert known_instance_types([own])["defaultinstancetype"].resources() == {"requests": {"cpu": "2"}, "limits": {"cpu": "4"}}


def test_an_unknown_instance_type_is_refused_with_the_list() -> None:
    with pytest.raises(Invalid, match=r"no instance type 'huge'\. It has: defaultinstancetype"):
        choose_instance_type("huge", known_instance_types([]), target="properties.resources.instanceType")


@pytest.mark.parametrize("version", ["v1.35.0", "1.37.9-k3s1", "v1.36.2"])
def test_supported_versions_pass(version: str) -> None:
    check_version(version, cluster="c")


@pytest.mark.parametrize("version", ["v1.34.9", "v1.38.0", "v2.0.0", ""])
def test_versions_outside_the_window_are_refused(version: str) -> None:
    with pytest.raises(Invalid, match=r"supported are 1\.35 to 1\.37"):
        check_version(version, cluster="c")


def test_a_compute_of_another_type_or_with_a_bad_namespace_is_refused() -> None:
    with pytest.raises(Invalid, match="not 'AmlCompute'"):
        read_compute({"computeType": "AmlCompute"})
    with pytest.raises(Invalid, match="'Team_A' is not a Kubernetes namespace"):
        read_compute({"computeType": "Kubernetes", "resourceId": "r", "properties": {"namespace": "Team_A"}})


def test_an_identity_has_arms_spelling_whatever_the_client_wrote() -> None:
    assert read_identity({"type": "Systemassigned"}) == {"type": "SystemAssigned"}
    assert read_identity({"type": "system_assigned, UserAssigned"}) == {"type": "SystemAssigned,UserAssigned"}
    assert read_identity(None) is None
    with pytest.raises(Invalid, match=r"identity\.type"):
        read_identity({"type": "root"})


def test_a_build_context_of_the_registry_and_an_empty_environment_are_refused() -> None:
    with pytest.raises(Invalid, match="only a workspace's own environments are built"):
        read_environment("e", "1", {"build": {"contextUri": "x"}}, target="t")
    with pytest.raises(Invalid, match="neither an image nor a conda file"):
        read_environment("e", "1", {}, target="t")
