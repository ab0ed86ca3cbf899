"""Settings of the extension: what is accepted, and how a wrong one is refused."""

from __future__ import annotations

import pytest

from moorage.errors import Invalid
from moorage.extension.health import Code, CrashLoop, preflight, supported_version, why_not_ready
from moorage.extension.manifests import NAMESPACE, Connection, components, render
from moorage.extension.settings import KEYS, RouterService, parse_settings

FIRST_LIGHT = {
    "enableTraining": "True",
    "enableInference": "True",
    "inferenceRouterServiceType": "ClusterIP",
    "allowInsecureConnections": "True",
    "inferenceRouterHA": "False",
}
CONNECTION = Connection("https://127.0.0.1:8450", "reg", "s3cret-token", "PEM")


def test_the_documented_settings_are_read_whatever_their_case() -> None:
    settings = parse_settings({key.upper(): value.lower() for key, value in FIRST_LIGHT.items()} | {"nodeSelector.pool": "ml"})
    assert settings.training and settings.inference and settings.allow_insecure and not settings.router_ha
    assert settings.router_service is RouterService.CLUSTER_IP
    assert settings.node_selector == {"pool": "ml"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"enableTrainin": "True"}, "Did you mean enableTraining?"),
        ({"enableTraining": "yes"}, "neither True nor False"),
        ({"inferenceRouterServiceType": "external"}, "loadBalancer, nodePort or clusterIP"),
        ({"inferenceRouterHA": "True"}, "inferenceRouterHA=False"),
        ({"allowInsecureConnections": "False"}, "allowInsecureConnections=True"),
        ({"sslSecret": "cert"}, "sslSecret=cert is not possible in this version"),
        ({"installNvidiaDevicePlugin": "True"}, "install it yourself"),
        ({"internalLoadBalancerProvider": "azure"}, "AKS"),
        ({"nodeSelector.": "x"}, "nodeSelector.KEY=VALUE"),
    ],
)
def test_a_wrong_setting_is_refused_with_its_key_and_the_remedy(change: dict[str, str], said: str) -> None:
    with pytest.raises(Invalid) as caught:
        parse_settings(FIRST_LIGHT | change)
    assert said in caught.value.message
    assert caught.value.target is not None and caught.value.target.lower() in {key.lower() for key in change}


def test_every_finding_is_told_at_once() -> None:
    with pytest.raises(Invalid) as caught:
        parse_settings({"enableInference": "True"})
    assert {detail.target for detail in caught.value.details} == {
        "inferenceRouterServiceType",
        "allowInsecureConnections",
        "inferenceRouterHA",
    }


def test_neither_training_nor_inference_is_refused() -> None:
    with pytest.raises(Invalid, match="enableTraining=True, enableInference=True, or both"):
        parse_settings({})


def test_a_protected_setting_is_named_and_its_value_never_shown() -> None:
    with pytest.raises(Invalid) as caught:
        parse_settings(FIRST_LIGHT, {"sslKeyPemFile": "/home/me/very-secret.pem"})
    assert "sslKeyPemFile" in caught.value.message and "very-secret" not in caught.value.message


def test_leaving_the_defaults_of_what_is_not_bundled_out_is_accepted() -> None:
    assert not any(key.refused_when == "false" for key in KEYS)
    parse_settings(FIRST_LIGHT | {"installPromOp": "False", "installVolcano": "false"})


def test_training_only_installs_no_router() -> None:
    settings = parse_settings({"enableTraining": "True"})
    names = {(each["kind"], each["metadata"]["name"]) for each in render("moorage", settings, CONNECTION)}
    assert ("Deployment", "gateway") in names
    assert not any(name.startswith("azureml-fe") for _, name in names)


def test_all_of_it_lives_in_one_namespace_and_bears_our_label() -> None:
    for each in render("moorage", parse_settings(FIRST_LIGHT), CONNECTION):
        assert each["metadata"].get("namespace", NAMESPACE) == NAMESPACE
        assert each["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "moorage"


def test_the_token_stands_in_one_secret_only() -> None:
    holders = [each["kind"] for each in render("moorage", parse_settings(FIRST_LIGHT), CONNECTION) if "s3cret-token" in repr(each)]
    assert holders == ["Secret"]


def test_our_pods_pass_the_restricted_pod_security_standard() -> None:
    for each in render("moorage", parse_settings(FIRST_LIGHT), CONNECTION):
        if each["kind"] != "Deployment":
            continue
        pod = each["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert set(container["resources"]) == {"requests", "limits"}


def test_the_router_may_read_no_secret() -> None:
    roles = {
        each["metadata"]["name"]: each
        for each in render("moorage", parse_settings(FIRST_LIGHT), CONNECTION)
        if each["kind"] == "ClusterRole"
    }
    assert all("secrets" not in rule["resources"] for rule in roles["moorage-azureml-fe-v2"]["rules"])


def test_each_component_of_the_documentation_has_a_state() -> None:
    rows = {row.name: row for row in components(parse_settings(FIRST_LIGHT))}
    assert rows["aml-operator"].carried_by == "gateway"
    assert rows["azureml-fe-v2"].carried_by == "azureml-fe-v2"
    assert rows["prometheus-operator"].carried_by is None and rows["prometheus-operator"].note


@pytest.mark.parametrize(
    ("version", "fits"), [("v1.37.0", True), ("v1.35.9", True), ("v1.34.1", False), ("v1.38.0", False), ("1.36", True), ("odd", None)]
)
def test_the_window_of_supported_versions_is_three_minors(version: str, fits: bool | None) -> None:
    assert supported_version(version) is fits


def node(*, ready: bool = True, **labels: str) -> dict[str, object]:
    return {"metadata": {"name": "n", "labels": labels}, "status": {"conditions": [{"type": "Ready", "status": str(ready)}]}}


def test_no_fitting_node_stops_the_install() -> None:
    settings = parse_settings(FIRST_LIGHT | {"nodeSelector.pool": "ml"})
    findings = preflight(settings, "v1.37.0", [node(pool="other"), node(ready=False, pool="ml")], [])
    assert [finding.code for finding in findings] == [Code.INSUFFICIENT_NODE]
    assert findings[0].critical and "pool=ml" in str(findings[0])


def test_nodes_are_chosen_for_the_extensions_pods_and_for_workloads() -> None:
    settings = parse_settings(FIRST_LIGHT | {"nodeSelector.pool": "ml", "nodeSelector.example.com/zone": "a"})
    pods = {
        each["metadata"]["name"]: each["spec"]["template"]["spec"]
        for each in render("x", settings, CONNECTION)
        if each["kind"] == "Deployment"
    }
    for pod in pods.values():
        assert pod["nodeSelector"] == {"kubernetes.io/os": "linux", "pool": "ml", "example.com/zone": "a"}
    arguments = pods["gateway"]["containers"][0]["args"]
    assert [each for each in arguments if "selector" in each] == ["--node-selector=pool=ml", "--node-selector=example.com/zone=a"]


def test_an_object_of_another_owner_is_named_with_the_command_that_adopts_it() -> None:
    foreign = {"kind": "ClusterRole", "metadata": {"name": "moorage-gateway", "labels": {"app.kubernetes.io/managed-by": "Helm"}}}
    findings = preflight(parse_settings(FIRST_LIGHT), "v1.37.0", [node()], [foreign])
    assert findings[0].code is Code.FE_ROLE_CONFLICT
    assert "belongs to Helm" in str(findings[0]) and "kubectl label clusterrole moorage-gateway" in str(findings[0])


def test_a_pod_that_is_not_ready_says_why() -> None:
    waiting = {
        "status": {
            "containerStatuses": [
                {
                    "name": "agent",
                    "state": {"waiting": {"reason": "CrashLoopBackOff"}},
                    "lastState": {"terminated": {"exitCode": 2, "message": "no url"}},
                }
            ]
        }
    }
    assert why_not_ready(waiting) == "container agent waits: CrashLoopBackOff; its last run ended with exit code 2: no url"
    assert why_not_ready({"status": {"conditions": [{"type": "Ready", "status": "True"}]}}) == ""


def crashing(restarts: int, reason: str = "CrashLoopBackOff") -> dict[str, object]:
    state = {"waiting": {"reason": reason}} if reason else {"running": {}}
    return {
        "metadata": {"name": "p", "uid": "u"},
        "status": {"containerStatuses": [{"name": "agent", "restartCount": restarts, "state": state}]},
    }


def test_a_container_that_keeps_ending_while_we_wait_is_hopeless_and_one_that_did_before_is_not() -> None:
    watched = CrashLoop()
    assert [watched([crashing(restarts)]) for restarts in (7, 8, 9, 10)] == [False, False, False, True]
    patient = CrashLoop()
    assert [patient([crashing(restarts, "")]) for restarts in (0, 3, 5)] == [False, False, False]
