"""What an OnlineDeployment becomes: Deployment, Service, and the ConfigMap with the plan of its pods."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass

from moorage.errors import Invalid
from moorage.ids import digest
from moorage.specs import command, instance_type, security, workload
from moorage.specs.instance_type import InstanceType
from moorage.specs.manifest import Manifest

APP_FOLDER = "/var/azureml-app"
CODE_FOLDER = f"{APP_FOLDER}/code"
SCORING_PORT = 5001
INSTANCE_LABEL = "app.kubernetes.io/instance"
# On pods: digest of template and plan. A changed plan alone must replace pods too, since they read it once.
REVISION = "moorage.dev/revision"
_TIMEOUT_MILLISECONDS = 5000
_PROGRESS_DEADLINE_SECONDS = 1200
_LIVENESS: Manifest = {"initialDelaySeconds": 10, "periodSeconds": 10, "timeoutSeconds": 2, "successThreshold": 1, "failureThreshold": 30}
# The original waits 10 s and asks every 10 s; with the start behind a startup probe there is nothing to wait for.
_READINESS: Manifest = {"periodSeconds": 2, "timeoutSeconds": 2, "successThreshold": 1, "failureThreshold": 15}


@dataclass(frozen=True, slots=True)
class Rendered:
    """The objects, and the revision their pods carry."""

    children: tuple[Manifest, ...]
    revision: str
    replicas: int


def desired(parent: Manifest, types: list[Manifest], pinned: Mapping[str, str], *, restricted: bool = False) -> Rendered:
    """The objects of one OnlineDeployment.

    Args:
        parent: the OnlineDeployment.
        types: InstanceTypes of the cluster.
        pinned: labels of the nodes that the extension's settings allow.
        restricted: the namespace enforces the Pod Security Standard of that name.

    Raises:
        Invalid: unknown instance type, resources beyond it, no scoring script.
    """
    spec = parent["spec"]
    name, namespace = parent["metadata"]["name"], parent["metadata"]["namespace"]
    instance = _instance(spec, types)
    own = {"endpoint": spec["endpoint"], "deployment": spec["deployment"]}
    labels = {**workload.labels(spec, "inference", own), INSTANCE_LABEL: name}
    metadata: Manifest = {"name": name, "namespace": namespace, "labels": labels}
    plan = workload.plan_config_map(metadata, _plan(spec))
    pod = _pod(name, spec, instance, pinned, restricted)
    revision = digest(json.dumps([pod, plan["data"]], sort_keys=True), length=16)
    template = {"metadata": {"labels": labels, "annotations": {REVISION: revision}}, "spec": pod}
    replicas = replica_count(spec)
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata,
        "spec": {
            "replicas": replicas,
            "revisionHistoryLimit": 2,
            "progressDeadlineSeconds": spec.get("progressDeadlineSeconds", _PROGRESS_DEADLINE_SECONDS),
            "selector": {"matchLabels": {INSTANCE_LABEL: name}},
            # The old replicas serve until the new ones can.
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": 0}},
            "template": template,
        },
    }
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata,
        "spec": {
            "selector": {INSTANCE_LABEL: name},
            "ports": [{"name": "http", "port": 80, "targetPort": SCORING_PORT, "protocol": "TCP"}],
        },
    }
    return Rendered((plan, deployment, service), revision, replicas)


def replica_count(spec: Manifest) -> int:
    """Replicas without an autoscaler's say."""
    scale = spec.get("scale") or {}
    if scale.get("type") == "TargetUtilization" and "minInstances" in scale:
        return int(scale["minInstances"])
    return int(spec.get("replicas", 1))


def _instance(spec: Manifest, types: list[Manifest]) -> InstanceType:
    try:
        return instance_type.narrow(instance_type.choose(spec.get("instanceType"), types), spec.get("resources") or {})
    except Invalid as error:
        target = "instance_type" if error.code == "UnknownInstanceType" else error.target
        raise Invalid(error.message, code=error.code, target=target) from error


def model_folder(spec: Manifest) -> str:
    """AZUREML_MODEL_DIR; empty without a model."""
    model = spec.get("model")
    return f"{APP_FOLDER}/azureml-models/{model['name']}/{model['version']}" if model else ""


def _plan(spec: Manifest) -> Manifest:
    downloads: list[Manifest] = []
    if code := spec.get("code"):
        downloads.append({"uri": code["uri"], "kind": "folder", "to": CODE_FOLDER})
    if model := spec.get("model"):
        # `named`: the original keeps a model folder's own name below AZUREML_MODEL_DIR.
        found = {"uri": model["uri"], "kind": model.get("kind", "folder"), "to": model_folder(spec), "named": True}
        downloads.append(found)
    plan: Manifest = {"downloads": downloads, "uploads": [], "folders": [CODE_FOLDER]}
    if environment := workload.environment_plan(spec.get("environment") or {}):
        plan["environment"] = environment
    return plan


def _pod(name: str, spec: Manifest, instance: InstanceType, pinned: Mapping[str, str], restricted: bool) -> Manifest:
    if not spec.get("code"):
        raise Invalid(
            "The deployment has no code_configuration; give it a scoring script with init() and run(). Models that need none come with a later version.",
            code="ScoringScriptMissing",
            target="code_configuration",
        )
    environment = spec.get("environment") or {}
    app = {"name": "app", "mountPath": APP_FOLDER}
    scoring = {"name": "scoring", "mountPath": workload.SCORING_FOLDER}
    server = workload.with_environment(environment, f"exec python -u {workload.SCORING_FOLDER}/moorage_scoring")
    main: Manifest = {
        "name": workload.MAIN_CONTAINER,
        "image": environment.get("image") or workload.DEFAULT_IMAGE,
        "command": ["/bin/sh", "-c", command.literal(server)],
        "workingDir": CODE_FOLDER,
        "env": [
            {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            *workload.variables({**security.variables(restricted, APP_FOLDER), **_variables(spec)}),
        ],
        "ports": [{"name": "http", "containerPort": SCORING_PORT, "protocol": "TCP"}],
        "resources": instance.resources(),
        "volumeMounts": [app, {**scoring, "readOnly": True}, *workload.environment_mounts(environment)],
        "securityContext": security.of_users(restricted),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        **_probes(spec),
    }
    return {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": max(30, math.ceil(_timeout(spec) / 1000) + 5),
        "nodeSelector": workload.node_selector(instance, pinned),
        "tolerations": workload.tolerations(spec, instance),
        "securityContext": security.pod(restricted, prepares=bool(workload.prepared(environment))),
        "initContainers": [
            *workload.environment_container(environment, instance),
            workload.fetch_container([app, scoring], install_scoring=True),
        ],
        "containers": [main],
        "volumes": [{"name": "app", "emptyDir": {}}, {"name": "scoring", "emptyDir": {}}, *workload.volumes(name, environment)],
    }


def _timeout(spec: Manifest) -> int:
    return int((spec.get("requests") or {}).get("timeoutMilliseconds", _TIMEOUT_MILLISECONDS))


def _variables(spec: Manifest) -> dict[str, str]:
    found = {
        "AML_APP_ROOT": CODE_FOLDER,
        "AZUREML_ENTRY_SCRIPT": spec["code"]["scoringScript"],
        "SERVICE_NAME": spec["endpoint"],
        "SERVICE_PATH_PREFIX": f"api/v1/endpoint/{spec['endpoint']}",
        "MOORAGE_CONCURRENCY": str((spec.get("requests") or {}).get("concurrencyPerInstance", 1)),
        "PYTHONUNBUFFERED": "1",
    }
    if folder := model_folder(spec):
        found["AZUREML_MODEL_DIR"] = folder
    return found | (spec.get("environmentVariables") or {})


def _probes(spec: Manifest) -> Manifest:
    get = {"httpGet": {"path": "/", "port": SCORING_PORT}}
    deadline = int(spec.get("progressDeadlineSeconds", _PROGRESS_DEADLINE_SECONDS))
    return {
        # A model may take as long to load as the deployment may take to come up.
        "startupProbe": {**get, "periodSeconds": 1, "timeoutSeconds": 2, "failureThreshold": deadline},
        "livenessProbe": {**get, **_LIVENESS, **(spec.get("livenessProbe") or {})},
        "readinessProbe": {**get, **_READINESS, **(spec.get("readinessProbe") or {})},
    }
