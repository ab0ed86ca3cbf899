"""Documents as ARM bodies, as the original's SDK puts them on the wire."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moorage.cli import entities
from moorage.errors import Invalid
from moorage.ids import Workspace
from moorage.specs.manifest import Manifest
from moorage.wire.documents import assets
from moorage.wire.documents.document import Kind, body, load, uses
from moorage.wire.documents.references import Local, Named, ResourceId, Uri, parse_reference
from moorage.wire.documents.settings import steps
from moorage.wire.documents.shapes import Plain, Reading
from moorage.wire.documents.source import read
from moorage.wire.documents.uses import Role

W = Workspace("s", "g", "w")


def arm(kind: Kind, text: str, resolved: dict[str, str] | None = None) -> Manifest:
    return body(load(kind, text, name="d.yml", folder=Path("/x")), W, resolved or {})


def test_a_command_job_has_the_contract_s_body() -> None:
    text = """
type: command
display_name: Digits
experiment_name: digits
description: d
command: python train.py --n ${{inputs.n}} --out ${{outputs.out}}
code: ./src
environment: azureml:sk:1
compute: azureml:k8s
environment_variables: {MYVAR: v1, COUNT: 3, FLAG: true}
inputs:
  n: 7
  lr: 3.5
  flag: true
  f: {type: uri_file, path: in.csv, mode: ro_mount}
  a: {type: uri_file, path: azureml:d1:1}
  m: {type: custom_model, path: azureml:m1:1}
  w: {type: uri_file, path: 'https://h/x'}
  k: {path: azureml://jobs/j/outputs/o}
outputs:
  out:
  p: {type: uri_folder, path: 'azureml://datastores/workspaceblobstore/paths/o/${{name}}/', mode: upload}
  reg: {type: mltable, name: reg, version: 2}
resources: {instance_type: gpu, instance_count: 2, shm_size: 3g, docker_args: --x}
distribution: {type: pytorch, process_count_per_instance: 2}
limits: {timeout: 1200}
queue_settings: {job_tier: standard, priority: medium}
identity: {type: managed, client_id: c}
services: {jl: {type: jupyter_lab, nodes: all}, ssh: {type: ssh, ssh_public_keys: k}, tb: {type: tensor_board, log_dir: l}}
"""
    document = load(Kind.JOB, text, name="d.yml", folder=Path("/x"))
    wanted = uses(document)
    assert [(use.field, use.role) for use in wanted] == [
        ("code", Role.CODE),
        ("environment", Role.ENVIRONMENT),
        ("inputs.f.path", Role.DATA),
        ("inputs.a.path", Role.DATA),
        ("inputs.m.path", Role.MODEL),
        ("inputs.w.path", Role.DATA),
        ("inputs.k.path", Role.DATA),
    ]
    found = body(document, W, {use.field: f"<{use.field}>" for use in wanted})["properties"]
    assert found == {
        "jobType": "Command",
        "displayName": "Digits",
        "experimentName": "digits",
        "description": "d",
        "command": "python train.py --n ${{inputs.n}} --out ${{outputs.out}}",
        "codeId": "<code>",
        "environmentId": "<environment>",
        "computeId": f"{W.id}/computes/k8s",
        "environmentVariables": {"MYVAR": "v1", "COUNT": "3", "FLAG": "true"},
        "tags": {},
        "properties": {},
        "isArchived": False,
        "inputs": {
            "n": {"jobInputType": "literal", "value": "7"},
            "lr": {"jobInputType": "literal", "value": "3.5"},
            "flag": {"jobInputType": "literal", "value": "True"},
            "f": {"jobInputType": "uri_file", "uri": "<inputs.f.path>", "mode": "ReadOnlyMount"},
            "a": {"jobInputType": "uri_file", "uri": "<inputs.a.path>"},
            "m": {"jobInputType": "custom_model", "uri": "<inputs.m.path>"},
            "w": {"jobInputType": "uri_file", "uri": "<inputs.w.path>"},
            "k": {"jobInputType": "uri_folder", "uri": "<inputs.k.path>"},
        },
        "outputs": {
            "out": {"jobOutputType": "uri_folder", "mode": "ReadWriteMount"},
            "p": {"jobOutputType": "uri_folder", "mode": "Upload", "uri": "azureml://datastores/workspaceblobstore/paths/o/${{name}}/"},
            "reg": {"jobOutputType": "mltable", "mode": "ReadWriteMount", "assetName": "reg", "assetVersion": "2"},
        },
        "resources": {"instanceType": "gpu", "instanceCount": 2, "shmSize": "3g", "dockerArgs": "--x"},
        "distribution": {"distributionType": "PyTorch", "processCountPerInstance": 2},
        "limits": {"jobLimitsType": "Command", "timeout": "PT20M"},
        "queueSettings": {"jobTier": "Standard", "priority": 2},
        "identity": {"identityType": "Managed", "clientId": "c"},
        "services": {
            "jl": {"jobServiceType": "JupyterLab", "nodes": {"nodesValueType": "All"}},
            "ssh": {"jobServiceType": "SSH", "properties": {"sshPublicKeys": "k"}},
            "tb": {"jobServiceType": "TensorBoard", "properties": {"logDir": "l"}},
        },
    }


def test_a_deployment_has_the_contract_s_body() -> None:
    text = """
name: blue
endpoint_name: digits
model: azureml:m:1
environment: azureml:e:1
code_configuration: {code: ./c, scoring_script: score.py}
instance_type: gpu
instance_count: 2
resources: {requests: {cpu: 100m, memory: 0.2Gi}, limits: {cpu: 1, memory: 1Gi, nvidia.com/gpu: 1}}
request_settings: {request_timeout_ms: 5000, max_concurrent_requests_per_instance: 2, max_queue_wait_ms: 500}
liveness_probe: {initial_delay: 10, period: 10, timeout: 2, failure_threshold: 30, success_threshold: 1}
data_collector: {collections: {model_inputs: {enabled: true, sampling_rate: 0.5}}}
"""
    found = arm(Kind.DEPLOYMENT, text, {"model": "M", "environment": "E", "code_configuration.code": "C"})
    assert found == {
        "tags": {},
        "sku": {"name": "Default", "capacity": 2},
        "properties": {
            "endpointComputeType": "Kubernetes",
            "model": "M",
            "environmentId": "E",
            "codeConfiguration": {"codeId": "C", "scoringScript": "score.py"},
            "instanceType": "gpu",
            "environmentVariables": {},
            "appInsightsEnabled": False,
            "properties": {},
            "containerResourceRequirements": {
                "containerResourceRequests": {"cpu": "100m", "memory": "0.2Gi"},
                "containerResourceLimits": {"cpu": "1", "memory": "1Gi", "gpu": "1"},
            },
            "scaleSettings": {"scaleType": "Default"},
            "requestSettings": {"requestTimeout": "PT5S", "maxConcurrentRequestsPerInstance": 2, "maxQueueWait": "PT0.5S"},
            "livenessProbe": {
                "failureThreshold": 30,
                "successThreshold": 1,
                "timeout": "PT2S",
                "period": "PT10S",
                "initialDelay": "PT10S",
            },
            "dataCollector": {
                "collections": {"model_inputs": {"dataCollectionMode": "enabled", "samplingRate": 0.5}},
                "rollingRate": "hour",
            },
        },
    }


def test_an_autoscaled_deployment_starts_at_its_minimum() -> None:
    found = arm(
        Kind.DEPLOYMENT,
        "name: blue\nendpoint_name: digits\nmodel: azureml:m:1\n"
        "scale_settings: {type: target_utilization, min_instances: 2, max_instances: 3, polling_interval: 10, target_utilization_percentage: 70}",
        {"model": "M"},
    )
    assert found["sku"]["capacity"] == 2
    assert found["properties"]["scaleSettings"] == {
        "scaleType": "TargetUtilization",
        "minInstances": 2,
        "maxInstances": 3,
        "pollingInterval": "PT10S",
        "targetUtilizationPercentage": 70,
    }


def test_a_bare_path_is_an_unnamed_model() -> None:
    document = load(Kind.DEPLOYMENT, "name: blue\nendpoint_name: digits\nmodel: ./m.pkl", name="d", folder=Path("/x"))
    (use,) = uses(document)
    assert (use.role, use.reference, use.inline) == (Role.MODEL, Local("./m.pkl"), {"path": "./m.pkl"})


def test_an_endpoint_lowers_traffic_names_and_drops_zero_shares() -> None:
    found = arm(Kind.ENDPOINT, "name: digits\ncompute: azureml:k8s\nauth_mode: aml_token\ntraffic: {Blue: 100, green: 0}")
    assert found == {
        "tags": {},
        "identity": {"type": "SystemAssigned"},
        "properties": {
            "authMode": "AMLToken",
            "compute": f"{W.id}/computes/k8s",
            "traffic": {"blue": 100},
            "mirrorTraffic": {},
            "properties": {},
        },
    }


def test_a_compute_has_the_contract_s_body() -> None:
    id = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Kubernetes/connectedClusters/c"
    text = f"name: k8s\ntype: kubernetes\nresource_id: {id}\nidentity: {{type: user_assigned, user_assigned_identities: [{{resource_id: /i}}]}}"
    assert arm(Kind.COMPUTE, text) == {
        "properties": {"computeType": "Kubernetes", "resourceId": id, "properties": {"namespace": "default"}},
        "tags": {},
        "identity": {"type": "UserAssigned", "userAssignedIdentities": {"/i": {}}},
    }


@pytest.mark.parametrize("given", ["{/i: {}, /j: {client_id: c}}", "[{resource_id: /i}, /j]"])
def test_the_identities_of_a_workspace_are_names_of_a_mapping_or_a_list(given: str) -> None:
    found = arm(Kind.WORKSPACE, f"name: w\nidentity: {{type: user_assigned, user_assigned_identities: {given}}}")
    assert found["identity"] == {"type": "UserAssigned", "userAssignedIdentities": {"/i": {}, "/j": {}}}


def test_an_unnamed_environment_s_version_follows_its_content_only() -> None:
    first = assets.environment_body({"image": "i", "conda_file": {"dependencies": ["a"]}}, {}, anonymous=True)
    same = assets.environment_body({"image": "i", "conda_file": {"dependencies": ["a"]}, "description": "x"}, {}, anonymous=True)
    other = assets.environment_body({"image": "i", "conda_file": {"dependencies": ["b"]}}, {}, anonymous=True)
    assert assets.content_version(first) == assets.content_version(same) != assets.content_version(other)


def test_a_conda_file_s_errors_name_the_file() -> None:
    with pytest.raises(Invalid, match=r"env/conda.yml:2: this is not valid YAML"):
        assets.conda_text("dependencies:\n - [", "env/conda.yml")
    with pytest.raises(Invalid, match=r"env/conda.yml: a conda file needs 'dependencies'"):
        assets.conda_text("name: x", "env/conda.yml")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("azureml:m:1", Named("m", "1")),
        ("azureml:m@latest", Named("m", label="latest")),
        ("azureml:m", Named("m")),
        ("azureml:/subscriptions/s/x", ResourceId("/subscriptions/s/x")),
        ("azureml://datastores/d/paths/p", Uri("azureml://datastores/d/paths/p")),
        ("https://h/x", Uri("https://h/x")),
        ("runs:/j/outputs/m", Uri("runs:/j/outputs/m")),
        ("runs:x", Local("runs:x")),
        ("file:./x", Local("./x")),
        ("file:///x", Local("/x")),
        ("a:b", Local("a:b")),
        ("../x", Local("../x")),
    ],
)
def test_references_are_told_apart(text: str, expected: object) -> None:
    assert parse_reference(text) == expected


_NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._\-]{0,20}", fullmatch=True)


@given(_NAMES, st.one_of(st.none(), _NAMES))
def test_a_reference_reads_back_as_it_was_written(name: str, version: str | None) -> None:
    reference = Named(name, version)
    assert parse_reference(str(reference)) == reference


_SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-(10**12), 10**12), st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=20)
)
_TREES = st.recursive(
    _SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(min_size=1, max_size=8), inner, max_size=4)),
    max_leaves=12,
)


@given(st.dictionaries(st.text(min_size=1, max_size=8), _TREES, min_size=1, max_size=4))
def test_any_json_survives_reading_with_positions(tree: Manifest) -> None:
    import json

    # JSON is YAML where YAML 1.1 agrees with it: control characters, and floats without a dot, are where it does not.
    text = json.dumps(tree)
    into = Reading()
    try:
        node = read(text, "d.yml")
    except Invalid:
        return
    found = Plain().read(node, (), into)
    assert not into.findings
    import yaml

    assert found == yaml.safe_load(text)


@given(st.text(max_size=200))
def test_no_text_breaks_the_reader(text: str) -> None:
    for kind in (Kind.JOB, Kind.DEPLOYMENT):
        with pytest.raises(Invalid):
            load(kind, text, name="d.yml", folder=Path("/x"))


@given(st.lists(st.from_regex(r"[a-z]{1,6}", fullmatch=True), min_size=1, max_size=5))
def test_a_dotted_path_splits_at_its_dots(names: list[str]) -> None:
    assert steps(".".join(names)) == tuple(names)


def test_what_is_shown_of_a_deployment_is_a_document_that_gives_the_same_body() -> None:
    text = """
name: blue
endpoint_name: digits
model: azureml:m:1
environment: azureml:e:1
code_configuration: {code: azureml:c:1, scoring_script: score.py}
instance_type: gpu
request_settings: {request_timeout_ms: 1500, max_queue_wait_ms: 500}
liveness_probe: {initial_delay: 1.5, period: 10}
scale_settings: {type: target_utilization, min_instances: 1, max_instances: 2, polling_interval: 10}
resources: {requests: {cpu: 100m, memory: 1Gi, nvidia.com/gpu: '1'}}
"""
    ids = {"model": W.child("models", "m", "versions", "1"), "environment": W.child("environments", "e", "versions", "1")}
    resolved = {**ids, "code_configuration.code": W.child("codes", "c", "versions", "1")}
    first = arm(Kind.DEPLOYMENT, text, resolved)
    id = W.child("onlineEndpoints", "digits", "deployments", "blue")
    shown = entities.deployment({**first, "id": id, "name": "blue", "systemData": {"createdAt": "2026-11-22T00:00:00Z"}})
    import json

    assert arm(Kind.DEPLOYMENT, json.dumps(shown), resolved) == first
