"""Parts that job pods and serving pods share: labels, tolerations, our init containers, volumes, the environment on PATH.

Everything here is a pure function of a custom resource's spec; `docs/internals/seams.md` is the text of the layout.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from decimal import Decimal

from moorage import __version__
from moorage.ids import label_value
from moorage.specs import security
from moorage.specs.command import literal
from moorage.specs.environment import environment_hash
from moorage.specs.instance_type import InstanceType
from moorage.specs.manifest import Manifest
from moorage.specs.quantities import parse_quantity

COMPONENT_IMAGE = f"moorage.dev/component:{__version__}"
PLAN_FOLDER = "/moorage/plan"
PLAN_FILE = f"{PLAN_FOLDER}/plan.json"
ACCESS_FOLDER = "/moorage/access"
ENVIRONMENTS_FOLDER = "/moorage/environments"
SCORING_FOLDER = "/moorage/podside"
ENVIRONMENTS_CLAIM = "moorage-environments"
ENVIRONMENT_CONTAINER, FETCH_CONTAINER, MAIN_CONTAINER = "environment", "fetch", "main"
# The image of workloads that name none; conda and pip specs need no more of it than a shell and glibc.
DEFAULT_IMAGE = "python:3.11"

_ENVIRONMENT_MEMORY = "1Gi"


def labels(spec: Manifest, component: str, names: Mapping[str, str]) -> dict[str, str]:
    """Labels of everything below a custom resource.

    Args:
        spec: the custom resource's spec.
        component: `training` or `inference`.
        names: values of `moorage.dev/...` labels, e.g. `{"job": ...}`.
    """
    return {
        "app.kubernetes.io/managed-by": "moorage",
        "app.kubernetes.io/component": component,
        **{f"moorage.dev/{key}": label_value(value) for key, value in names.items()},
        "ml.azure.com/workspace": label_value(spec["workspace"]),
        "ml.azure.com/resource-group": label_value(spec["resourceGroup"]),
        "ml.azure.com/compute": label_value(spec["compute"]),
    }


def tolerations(spec: Manifest, instance: InstanceType) -> list[Manifest]:
    """The taints that workloads of this workspace, resource group and compute accept, in every effect, and the instance type's own."""
    accepted = {
        "ml.azure.com/amlarc": "true",
        "ml.azure.com/amlarc-workload": "true",
        "ml.azure.com/resource-group": label_value(spec["resourceGroup"]),
        "ml.azure.com/workspace": label_value(spec["workspace"]),
        "ml.azure.com/compute": label_value(spec["compute"]),
    }
    ours = [{"key": key, "operator": "Equal", "value": value} for key, value in accepted.items()]
    return [*ours, *(dict(toleration) for toleration in instance.tolerations)]


def node_selector(instance: InstanceType, pinned: Mapping[str, str]) -> dict[str, str]:
    """Labels of nodes that may run a workload: where the extension is `pinned` to, and what the instance type says, which is closer to the job."""
    return {"kubernetes.io/os": "linux", **pinned, **instance.node_selector}


def prepared(environment: Manifest) -> str:
    """Key of the environment that has to be prepared before the code can run; empty when the image runs as it is."""
    own = environment_hash(environment.get("conda"), environment.get("pip"))
    return str(environment.get("hash") or own) if own else ""


def environment_plan(environment: Manifest) -> Manifest | None:
    """The plan's `environment`."""
    key = prepared(environment)
    if not key:
        return None
    return {
        "hash": key,
        "name": environment.get("name") or "",
        "conda": environment.get("conda") or "",
        "pip": list(environment.get("pip") or ()),
    }


def with_environment(environment: Manifest, command: str, *, installs: str = "") -> str:
    """Shell text that runs the command with the prepared environment first on PATH.

    Args:
        installs: the folder that takes what the command installs with pip; none by default.
    """
    key = prepared(environment)
    if not key:
        return command
    folder = f"{ENVIRONMENTS_FOLDER}/{key}"
    lines = [f'export PATH="{folder}/bin:$PATH" VIRTUAL_ENV="{folder}"']
    if installs:
        # Environments of earlier versions have no such file.
        lines += [
            f'if [ -f "{folder}/overlay.py" ] && python -I "{folder}/overlay.py" "{installs}"; then',
            f'export PATH="{installs}/bin:$PATH" VIRTUAL_ENV="{installs}"; fi',
        ]
    return "\n".join([*lines, command])


def variables(values: Mapping[str, str]) -> list[Manifest]:
    """A container's `env`; values arrive as written."""
    return [{"name": name, "value": literal(str(value))} for name, value in values.items()]


def plan_config_map(metadata: Manifest, plan: Manifest) -> Manifest:
    """ConfigMap NAME-plan."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {**metadata, "name": f"{metadata['name']}-plan"},
        "data": {"plan.json": json.dumps(plan, indent=1, sort_keys=True)},
    }


def volumes(name: str, environment: Manifest) -> list[Manifest]:
    """Plan, access and, where one is needed, the environments' claim. `name` is the custom resource's."""
    found: list[Manifest] = [
        {"name": "plan", "configMap": {"name": f"{name}-plan", "items": [{"key": "plan.json", "path": "plan.json"}]}},
        {"name": "access", "secret": {"secretName": f"{name}-access"}},
    ]
    if prepared(environment):
        found.append({"name": "environments", "persistentVolumeClaim": {"claimName": ENVIRONMENTS_CLAIM}})
    return found


def environment_mounts(environment: Manifest) -> list[Manifest]:
    """How the user's container sees prepared environments."""
    return [{"name": "environments", "mountPath": ENVIRONMENTS_FOLDER, "readOnly": True}] if prepared(environment) else []


def environment_container(environment: Manifest, instance: InstanceType) -> list[Manifest]:
    """Init container `environment`, when there is something to prepare. No access: it runs build scripts of packages."""
    if not prepared(environment):
        return []
    memory = max(_ENVIRONMENT_MEMORY, instance.limits.get("memory", _ENVIRONMENT_MEMORY), key=_amount)
    command = ["python", "-m", "moorage.podside", "environment", "--plan", PLAN_FILE, "--root", ENVIRONMENTS_FOLDER]
    mounts: list[Manifest] = [
        {"name": "plan", "mountPath": PLAN_FOLDER, "readOnly": True},
        {"name": "environments", "mountPath": ENVIRONMENTS_FOLDER},
    ]
    return [component(ENVIRONMENT_CONTAINER, command, mounts, {"cpu": ("100m", "2"), "memory": (_ENVIRONMENT_MEMORY, memory)})]


def fetch_container(mounts: Sequence[Manifest], *, install_scoring: bool = False, start: str = "") -> Manifest:
    """Init container `fetch`; `mounts` are the volumes it fills, `start` the folder for what runs a job's command."""
    command = ["python", "-m", "moorage.podside", "fetch", "--plan", PLAN_FILE, "--access", ACCESS_FOLDER]
    if install_scoring:
        command += ["--install-scoring", SCORING_FOLDER]
    if start:
        command += ["--start", start]
    return component(FETCH_CONTAINER, command, [*access_mounts(), *mounts], {"cpu": ("50m", "1"), "memory": ("256Mi", "256Mi")})


def access_mounts() -> list[Manifest]:
    """Plan and access, for our containers only."""
    return [
        {"name": "plan", "mountPath": PLAN_FOLDER, "readOnly": True},
        {"name": "access", "mountPath": ACCESS_FOLDER, "readOnly": True},
    ]


def component(name: str, command: Sequence[str], mounts: Sequence[Manifest], size: Mapping[str, tuple[str, str]]) -> Manifest:
    """A container of ours; `size` has (request, limit) per resource."""
    return {
        "name": name,
        "image": COMPONENT_IMAGE,
        "command": list(command),
        "env": [{"name": "PYTHONUNBUFFERED", "value": "1"}],
        "resources": {
            "requests": {resource: request for resource, (request, _) in size.items()},
            "limits": {resource: limit for resource, (_, limit) in size.items()},
        },
        "volumeMounts": list(mounts),
        "securityContext": security.RESTRICTED,
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }


def environments_claim(namespace: str, *, size: str = "20Gi", storage_class: str | None = None) -> Manifest:
    """The namespace's claim for prepared environments, shared by all its workloads and owned by none of them."""
    spec: Manifest = {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": size}}}
    if storage_class is not None:
        spec["storageClassName"] = storage_class
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {
            "name": ENVIRONMENTS_CLAIM,
            "namespace": namespace,
            "labels": {"app.kubernetes.io/managed-by": "moorage", "app.kubernetes.io/component": "environments"},
        },
        "spec": spec,
    }


def _amount(text: str) -> Decimal:
    return parse_quantity(text, target="memory")
