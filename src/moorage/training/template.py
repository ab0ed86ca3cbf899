"""The pod of a training job: one init container that prepares, one that fetches, one sidecar that uploads, and the user's command."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from moorage.errors import Invalid
from moorage.specs import command, instance_type, security, workload
from moorage.specs.distribution import Layout
from moorage.specs.manifest import Manifest
from moorage.specs.quantities import parse_quantity
from moorage.training.claims import Claims
from moorage.training.plan import CODE_FOLDER, INSTALLS_FOLDER, START_FOLDER, WORK_FOLDER, input_values, output_values

UPLOAD_CONTAINER = "upload"
# Given after the command has ended to store what is left, and to a cancelled command that does not end at SIGTERM: long enough for
# gigabytes and a restart of the workspace service, short enough to wait for.
_GRACE_SECONDS = 120
_GRACE_RESERVE = 10
ONE_POD = Layout()
_UPLOAD_READY = f"{WORK_FOLDER}/.upload-ready"


@dataclass(frozen=True, slots=True)
class Rendering:
    """What a launcher makes objects of.

    Args:
        metadata: namespace, name and labels of the job's objects.
        spec: the TrainingJob's.
        pod: template of one pod that runs the whole command.
        layout: how many of them there are, and what each does.
        uid: the TrainingJob's.
        attempt: how often the pods of a job of several were started anew.
        grouped: the cluster's scheduler knows gangs (PodGroup).
    """

    metadata: Manifest
    spec: Manifest
    pod: Manifest
    layout: Layout = ONE_POD
    uid: str = ""
    attempt: int = 0
    grouped: bool = False


def pod_template(name: str, spec: Manifest, types: list[Manifest], claims: Claims, pinned: Mapping[str, str], restricted: bool) -> Manifest:
    """The pod template of job `name`.

    Args:
        name: the TrainingJob's Kubernetes name.
        spec: its spec.
        types: InstanceTypes of the cluster.
        claims: what IT operations want mounted.
        pinned: labels of the nodes that the extension's settings allow.
        restricted: the namespace enforces the Pod Security Standard of that name.

    Raises:
        Invalid: unknown instance type or reference, a size that is no quantity.
    """
    environment = spec.get("environment") or {}
    resources = spec.get("resources") or {}
    instance = instance_type.choose(resources.get("instanceType"), types)
    text = command.resolve(spec["command"], input_values(spec), output_values(spec))
    text = workload.with_environment(environment, text, installs=INSTALLS_FOLDER)
    work = work_mounts()
    claim_volumes = [{"name": f"claim-{index}", "persistentVolumeClaim": {"claimName": claim}} for index, (claim, _) in _numbered(claims)]
    claim_mounts = [{"name": f"claim-{index}", "mountPath": path} for index, (_, path) in _numbered(claims)]
    shm_volumes, shm_mounts = _shared_memory(resources.get("shmSize"))
    main = {
        "name": workload.MAIN_CONTAINER,
        "image": environment.get("image") or workload.DEFAULT_IMAGE,
        "command": ["/bin/sh", f"{START_FOLDER}/single.sh", command.literal(text)],
        "workingDir": CODE_FOLDER,
        "env": workload.variables({**security.variables(restricted, WORK_FOLDER), **_variables(spec)}),
        "resources": instance.resources(),
        "volumeMounts": [*work, *workload.environment_mounts(environment), *claim_mounts, *shm_mounts],
        "securityContext": security.of_users(restricted),
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }
    return {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": _GRACE_SECONDS,
        "securityContext": security.pod(restricted, prepares=bool(workload.prepared(environment))),
        "nodeSelector": workload.node_selector(instance, pinned),
        "tolerations": workload.tolerations(spec, instance),
        "initContainers": [
            *workload.environment_container(environment, instance),
            workload.fetch_container(work, start=START_FOLDER),
            _upload_container(work, restricted),
        ],
        "containers": [main],
        "volumes": [
            {"name": "work", "emptyDir": {}},
            *workload.volumes(name, environment),
            *claim_volumes,
            *shm_volumes,
        ],
    }


def work_mounts() -> list[Manifest]:
    """The volume that all containers of the pod but `environment` share."""
    return [{"name": "work", "mountPath": WORK_FOLDER}]


def _numbered(claims: Claims) -> list[tuple[int, tuple[str, str]]]:
    return list(enumerate(claims.mounts))


def _upload_container(work: list[Manifest], restricted: bool) -> Manifest:
    arguments = ["python", "-m", "moorage.podside", "upload", "--plan", workload.PLAN_FILE, "--access", workload.ACCESS_FOLDER]
    arguments += ["--grace", str(_GRACE_SECONDS - _GRACE_RESERVE), "--within", WORK_FOLDER, "--ready", _UPLOAD_READY]
    # Small and in addition to the instance type, so that the user's container has all of what was asked for.
    # The limit leaves room for the names of a million files.
    size = {"cpu": ("10m", "1"), "memory": ("128Mi", "512Mi")}
    upload = workload.component(UPLOAD_CONTAINER, arguments, [*workload.access_mounts(), *work], size)
    # A command may end at once: it must not start before the sidecar understands the SIGTERM that follows its end.
    probe = {"exec": {"command": ["test", "-e", _UPLOAD_READY]}, "periodSeconds": 1, "failureThreshold": 60}
    return {**upload, "securityContext": security.of_uploads(restricted), "restartPolicy": "Always", "startupProbe": probe}


def _shared_memory(size: str | None) -> tuple[list[Manifest], list[Manifest]]:
    if not size:
        return [], []
    # The original takes docker's form (2g, 512m) as well as Kubernetes' (2Gi).
    text = f"{size[:-1]}{size[-1].upper()}i" if size[-1:] in ("g", "m", "k", "G", "M", "K") else size
    if parse_quantity(text, target="resources.shm_size") <= 0:
        raise Invalid(f"resources.shmSize: '{size}' is not a size; write one like 2g or 512Mi.", target="resources.shm_size")
    return (
        [{"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": text}}],
        [{"name": "shm", "mountPath": "/dev/shm"}],
    )


def _variables(spec: Manifest) -> dict[str, str]:
    """The original's names, ours for inputs and outputs in the form it gives them, then the user's own."""
    found = {
        "AZUREML_RUN_ID": spec["job"],
        "AZUREML_ROOT_RUN_ID": spec["job"],
        "AZUREML_EXPERIMENT_NAME": spec.get("experiment") or "Default",
        "AZUREML_ARM_PROJECT_NAME": spec.get("experiment") or "Default",
        "AZUREML_ARM_SUBSCRIPTION": spec.get("subscription") or "",
        "AZUREML_ARM_RESOURCEGROUP": spec["resourceGroup"],
        "AZUREML_ARM_WORKSPACE_NAME": spec["workspace"],
        "AZUREML_COMPUTE_NAME": spec["compute"],
        "PYTHONUNBUFFERED": "1",
    }
    found |= {f"AZURE_ML_INPUT_{name}": value for name, value in input_values(spec).items()}
    found |= {f"AZURE_ML_OUTPUT_{name}": value for name, value in output_values(spec).items()}
    return found | (spec.get("environmentVariables") or {})
