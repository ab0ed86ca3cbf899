"""What a document says changes what the cluster runs, or stands in the list of what nothing acts on: the bodies of both, through the operators."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from moorage.ids import Workspace
from moorage.inference.reconcile import reconcile as reconcile_deployment
from moorage.kube.reconcile import Observed
from moorage.specs.manifest import Manifest
from moorage.training.reconcile import reconcile as reconcile_job
from moorage.wire.assets import DeploymentAssets, Environment, JobAssets, Model
from moorage.wire.deployments import read_deployment
from moorage.wire.documents.document import Kind, body, load, uses
from moorage.wire.idle import warnings
from moorage.wire.jobs import JobResources, read_command_job
from moorage.wire.manifests import Placement, online_deployment, training_job

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
W = Workspace("s", "g", "w")
TYPES: Mapping[str, list[Manifest]] = {
    "InstanceType": [{"metadata": {"name": name}, "spec": {"resources": {"requests": {"cpu": cpu}, "limits": {"cpu": cpu}}}} for name, cpu in (("small", "1"), ("big", "4"))],
    "PersistentVolumeClaim": [],
}  # fmt: skip
JOB: dict[str, Any] = {
    "name": "j",
    "command": "echo ${{inputs.data}} ${{outputs.out}}",
    "environment": "azureml:e:1",
    "compute": "c",
    "inputs": {"data": {"type": "uri_folder", "path": "azureml:d:1"}},
    "outputs": {"out": {"type": "uri_folder"}},
    "resources": {"instance_type": "small"},
}
DEPLOYMENT: dict[str, Any] = {
    "name": "blue",
    "endpoint_name": "digits",
    "model": "azureml:m:1",
    "environment": "azureml:e:1",
    "code_configuration": {"code": "azureml:c:1", "scoring_script": "s.py"},
    "instance_type": "big",
}


def sent(kind: Kind, values: Mapping[str, Any]) -> Manifest:
    document = load(kind, yaml.safe_dump(dict(values)), name="d.yml", folder=Path("/work"))
    return body(document, W, {use.field: f"at:{use.reference}" for use in uses(document)})


def of_job(values: Mapping[str, Any]) -> Any:
    """The objects of a job, as the training operator wants them first."""
    job = read_command_job(sent(Kind.JOB, values)["properties"])
    assets = JobAssets(
        environment=Environment("e", image=job.environment_id),
        artifacts="k/j",
        code=job.code_id,
        inputs={name: str(each.uri) for name, each in (job.inputs or {}).items() if each.uri},
        outputs={name: str(each.uri or f"k/{name}") for name, each in (job.outputs or {}).items()},
    )
    place = Placement(W, job.compute_id.rpartition("/")[2], "team")
    manifest = training_job(place, values["name"], job, assets, instance_type=(job.resources or JobResources()).instance_type or "small")
    manifest["metadata"] |= {"uid": "u", "generation": 1}
    return _objects(reconcile_job(Observed(manifest, {"Job": [], "ConfigMap": [], "Pod": []}, NOW, TYPES)))


def of_deployment(values: Mapping[str, Any]) -> Any:
    made = sent(Kind.DEPLOYMENT, values)
    wanted = read_deployment(made["properties"])
    assets = DeploymentAssets(
        Environment("e", image=wanted.environment_id),
        code=wanted.code_configuration.code_id if wanted.code_configuration else None,
        model=Model("m", "1", str(wanted.model)) if wanted.model else None,
    )
    manifest = online_deployment(
        Placement(W, "c", "team"), values["endpoint_name"], values["name"], wanted, assets, replicas=made["sku"]["capacity"]
    )
    manifest["metadata"] |= {"uid": "u", "generation": 1}
    # The router reads what concerns requests from the deployment itself.
    return _objects(
        reconcile_deployment(Observed(manifest, {"Deployment": [], "ConfigMap": [], "Service": [], "Pod": []}, NOW, TYPES))
    ), manifest["spec"]["requests"]


def _objects(plan: Any) -> Any:
    assert plan.children, plan.status
    return json.loads(json.dumps(list(plan.children)))


def changed(before: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of sections are merged; None takes one away."""
    made = {
        **before,
        **{
            name: {**before[name], **value} if isinstance(value, dict) and isinstance(before.get(name), dict) else value
            for name, value in change.items()
        },
    }
    return {name: value for name, value in made.items() if value is not None}


# A job's time limit is kept by the operator itself, whose tests have it.
ACTING: dict[str, tuple[Kind, dict[str, Any]]] = {
    "the name": (Kind.JOB, {"name": "k"}),
    "the command": (Kind.JOB, {"command": "echo ${{outputs.out}}"}),
    "code": (Kind.JOB, {"code": "azureml:x:1"}),
    "the compute": (Kind.JOB, {"compute": "other"}),
    "the environment": (Kind.JOB, {"environment": "azureml:e:2"}),
    "environment variables": (Kind.JOB, {"environment_variables": {"A": "b"}}),
    "the experiment": (Kind.JOB, {"experiment_name": "mine"}),
    "an input's place": (Kind.JOB, {"inputs": {"data": {"type": "uri_folder", "path": "azureml:d:2"}}}),
    "an input's type": (Kind.JOB, {"inputs": {"data": {"type": "uri_file", "path": "azureml:d:1"}}}),
    "an input's value": (Kind.JOB, {"inputs": {"data": 3}}),
    "an output's place": (
        Kind.JOB,
        {"outputs": {"out": {"type": "uri_folder", "path": "azureml://datastores/workspaceblobstore/paths/o"}}},
    ),
    "an output's type": (Kind.JOB, {"outputs": {"out": {"type": "uri_file"}}}),
    "the instance type": (Kind.JOB, {"resources": {"instance_type": "big"}}),
    "the number of instances": (Kind.JOB, {"resources": {"instance_count": 2}}),
    "shared memory": (Kind.JOB, {"resources": {"shm_size": "2g"}}),
    "the distribution": (Kind.JOB, {"distribution": {"type": "pytorch"}}),
    "processes of an instance": (Kind.JOB, {"distribution": {"type": "pytorch", "process_count_per_instance": 2}}),
    "workers": (Kind.JOB, {"resources": {"instance_count": 2}, "distribution": {"type": "tensorflow", "worker_count": 2}}),
    "the deployment's model": (Kind.DEPLOYMENT, {"model": "azureml:m:2"}),
    "the deployment's environment": (Kind.DEPLOYMENT, {"environment": "azureml:e:2"}),
    "the deployment's code": (Kind.DEPLOYMENT, {"code_configuration": {"code": "azureml:c:2"}}),
    "the scoring script": (Kind.DEPLOYMENT, {"code_configuration": {"scoring_script": "t.py"}}),
    "the deployment's variables": (Kind.DEPLOYMENT, {"environment_variables": {"A": "b"}}),
    "the deployment's instance type": (Kind.DEPLOYMENT, {"instance_type": "small"}),
    "the number of replicas": (Kind.DEPLOYMENT, {"instance_count": 3}),
    "the least number of replicas": (
        Kind.DEPLOYMENT,
        {"scale_settings": {"type": "target_utilization", "min_instances": 2, "max_instances": 4}},
    ),
    "the time to come up": (Kind.DEPLOYMENT, {"provisioning_timeout": 60}),
    "requests of resources": (Kind.DEPLOYMENT, {"resources": {"requests": {"cpu": "500m"}}}),
    "limits of resources": (Kind.DEPLOYMENT, {"resources": {"limits": {"cpu": "2"}}}),
    "the time for a request": (Kind.DEPLOYMENT, {"request_settings": {"request_timeout_ms": 900}}),
    "concurrent requests": (Kind.DEPLOYMENT, {"request_settings": {"max_concurrent_requests_per_instance": 7}}),
    "the time in the queue": (Kind.DEPLOYMENT, {"request_settings": {"max_queue_wait_ms": 7}}),
    **{
        f"{probe} {field}": (Kind.DEPLOYMENT, {probe: {field: 4}})
        for probe in ("liveness_probe", "readiness_probe")
        for field in ("failure_threshold", "initial_delay", "period", "success_threshold", "timeout")
    },
}
IDLE: dict[str, tuple[Kind, dict[str, Any]]] = {
    "identity": (Kind.JOB, {"identity": {"type": "user_identity"}}),
    "services": (Kind.JOB, {"services": {"s": {"type": "jupyter_lab"}}}),
    "priority": (Kind.JOB, {"queue_settings": {"priority": "high", "job_tier": "premium"}}),
    "docker_args": (Kind.JOB, {"resources": {"docker_args": "--privileged"}}),
    "locations": (Kind.JOB, {"resources": {"locations": ["west"]}}),
    "max_instance_count": (Kind.JOB, {"resources": {"max_instance_count": 9}}),
    "resource properties": (Kind.JOB, {"resources": {"properties": {"a": {"b": "c"}}}}),
    "an input's mode": (Kind.JOB, {"inputs": {"data": {"type": "uri_folder", "path": "azureml:d:1", "mode": "direct"}}}),
    "an output's mode": (Kind.JOB, {"outputs": {"out": {"type": "uri_folder", "mode": "direct"}}}),
    "the most replicas": (Kind.DEPLOYMENT, {"scale_settings": {"type": "target_utilization", "min_instances": 1, "max_instances": 9}}),
    "data_collector": (Kind.DEPLOYMENT, {"data_collector": {"collections": {"c": {"enabled": True}}}}),
    "app_insights_enabled": (Kind.DEPLOYMENT, {"app_insights_enabled": True}),
    "model_mount_path": (Kind.DEPLOYMENT, {"model_mount_path": "/m"}),
    "addresses of probes": (Kind.DEPLOYMENT, {"liveness_probe": {"path": "/p", "port": 1, "scheme": "https", "method": "GET"}}),
}
_BASES = {Kind.JOB: (JOB, of_job, "jobs"), Kind.DEPLOYMENT: (DEPLOYMENT, of_deployment, "onlineEndpoints/deployments")}


@pytest.mark.parametrize("what", ACTING)
def test_what_is_acted_on_changes_what_the_cluster_runs(what: str) -> None:
    kind, change = ACTING[what]
    base, objects, _ = _BASES[kind]
    assert objects(changed(base, change)) != objects(base)


@pytest.mark.parametrize("what", IDLE)
def test_what_is_on_the_list_changes_nothing_and_is_warned_of(what: str) -> None:
    kind, change = IDLE[what]
    base, objects, type = _BASES[kind]
    assert objects(changed(base, change)) == objects(base), "something acts on it: take it off the list in moorage.wire.idle"
    assert warnings(type, sent(kind, base)) == [] and len(warnings(type, sent(kind, changed(base, change)))) == 1
