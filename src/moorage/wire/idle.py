"""Fields that are stored and answered as sent, and that nothing acts on. One table makes the warnings and the page that lists them.

Kinds of resource that do not run at all stand in `wire.later`; fields that are refused in `wire.documents.support`, or where they are read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from moorage.specs.manifest import Manifest
from moorage.wire import later

# Of one row: a job may have hundreds of inputs.
_NAMED = 3


def _says_nothing(value: object) -> bool:
    return value in (None, False, "", {}, [])


def _one_of(*words: str) -> Callable[[object], bool]:
    """What is there anyway, or asks for nothing; compared without regard to case."""
    known = {word.lower() for word in words}
    return lambda value: _says_nothing(value) or str(value).lower() in known


def _nobody(value: object) -> bool:
    return _says_nothing(value) or (isinstance(value, Mapping) and str(value.get("type")).lower() == "none")


def _off(value: object) -> bool:
    """A switch, or a section whose own switch says so."""
    return _says_nothing(value) or (
        isinstance(value, Mapping) and "disabled" in {str(value.get(each)).lower() for each in ("status", "isolationMode")}
    )


def _identity_of_the_system(value: object) -> bool:
    """The original's SDK says it of every endpoint and workspace, whatever the document says."""
    return _nobody(value) or (isinstance(value, Mapping) and str(value.get("type")).lower() == "systemassigned")


@dataclass(frozen=True, slots=True)
class Idle:
    """A field that nothing acts on.

    In paths `*` stands for a name of the user's, `a|b` for one of several fields; both paths of a row have them in the same places.

    Attributes:
        kind: the noun of the command, which names the document.
        document: its path in a document; "" where documents do not have it.
        wire: its path in the resource; "" where it is left out of what is sent, so that only the command line can warn.
        happens: what becomes of it.
        reason: why nothing acts on it.
        instead: what to do meanwhile.
        content: whether a value asks for nothing that is missing.
    """

    kind: str
    document: str
    wire: str
    happens: str
    reason: str
    instead: str
    content: Callable[[object], bool] = _says_nothing

    @property
    def type(self) -> str:
        return TYPES[self.kind]


# The nouns of commands and the types of resource that they are about.
TYPES: Mapping[str, str] = {
    "job": "jobs",
    "environment": "environments/versions",
    "model": "models/versions",
    "data": "data/versions",
    "component": "components/versions",
    "datastore": "datastores",
    "compute": "computes",
    "workspace": "workspaces",
    "online-endpoint": "onlineEndpoints",
    "online-deployment": "onlineEndpoints/deployments",
    "batch-endpoint": "batchEndpoints",
    "batch-deployment": "batchEndpoints/deployments",
    "schedule": "schedules",
}
_STORED = "stored"
_DIRECTORY = "there is no directory whose identities a pod could take"
_NETWORK = "it concerns the original's managed network"

FIELDS: Sequence[Idle] = (
    Idle(
        "job", "identity", "properties.identity", "stored; the job runs without one", _DIRECTORY,
        "Give data as inputs, which the service reads for the job.",
    ),
    Idle("job", "services", "properties.services", "stored; none is started", "nothing leads into a running job", later.JOB_SERVICES.instead),
    Idle(
        "job", "queue_settings.job_tier|priority", "properties.queueSettings.jobTier|priority", _STORED,
        "jobs start as the cluster's scheduler finds room for them", "Keep a compute target for urgent jobs.", _one_of("null"),
    ),
    Idle(
        "job", "resources.docker_args", "properties.resources.dockerArgs", _STORED, "Kubernetes starts the containers, not Docker",
        "Use shm_size for shared memory, and the instance type for all else.",
    ),
    Idle(
        "job", "resources.locations", "properties.resources.locations", _STORED, "a compute target is in one place",
        "Name the compute target of that place in compute.",
    ),
    Idle(
        "job", "resources.max_instance_count", "properties.resources.maxInstanceCount", _STORED, "a job has the same number of nodes all the time",
        "Set instance_count.",
    ),
    Idle(
        "job", "resources.properties", "properties.resources.properties", _STORED, "they are for the original's own schedulers",
        "Leave them out.", lambda value: _says_nothing(value) or (isinstance(value, Mapping) and set(value) == {"IsLocal"}),
    ),
    Idle(
        "job", "inputs.*.mode", "properties.inputs.*.mode", "stored; the files are copied into the pod before the command starts",
        "nothing is mounted yet", "Read the copy, which the input's path names.", _one_of("ReadOnlyMount", "Download"),
    ),
    Idle(
        "job", "outputs.*.mode", "properties.outputs.*.mode", "stored; what is written to the output's folder is uploaded",
        "nothing is mounted yet", "Write files to the output's path.", _one_of("ReadWriteMount", "Upload"),
    ),
    Idle(
        "job", "jobs.*.settings", "", "not sent", "only a pipeline has settings, not a step of one", "Put them into the settings of the pipeline.",
    ),
    *(
        Idle(
            noun, "environment.name|version", "", "not sent", "an environment inside another document is registered without a name of its own",
            "Create it with `moorage environment create`, and name it azureml:NAME:VERSION.",
        )
        for noun in ("job", "online-deployment")
    ),
    Idle(
        "environment", "os_type", "properties.osType", _STORED, "containers run on Linux nodes", "Use an image for Linux.", _one_of("linux"),
    ),
    Idle(
        "environment", "inference_config", "properties.inferenceConfig", _STORED, "models are served by a scoring server with routes of its own",
        "Serve with a scoring script (code_configuration).",
    ),
    Idle(
        "environment", "", "properties.autoRebuild", _STORED, "an environment is prepared once for each cluster and content",
        "Create a version when packages change.", _one_of("Disabled"),
    ),
    Idle(
        "datastore", "account_name", "properties.accountName", "stored; jobs and deployments that name the datastore are refused",
        "nothing speaks to storage outside this service yet", "Copy the files to workspaceblobstore.", lambda value: "/blobstore" in str(value),
    ),
    Idle("compute", "identity", "identity", _STORED, _DIRECTORY, "Leave it out.", _nobody),
    Idle("workspace", "identity", "identity", _STORED, _DIRECTORY, "Leave it out.", _identity_of_the_system),
    *(
        Idle("workspace", "", f"properties.{field}", _STORED, "it is part of the original's own cloud", "Leave it out.", _off)
        for field in ("storageAccount|keyVault|containerRegistry|applicationInsights", "encryption|hbiWorkspace|imageBuildCompute|managedNetwork")
    ),
    Idle("workspace", "", "properties.publicNetworkAccess", _STORED, _NETWORK, "Set network policies in the cluster.", _one_of("Enabled")),
    Idle("online-endpoint", "identity", "identity", "stored; replicas run without one", _DIRECTORY, "Leave it out.", _identity_of_the_system),
    Idle(
        "online-endpoint", "", "properties.publicNetworkAccess", _STORED, _NETWORK, "Set network policies in the cluster.", _one_of("Enabled"),
    ),
    Idle(
        "online-deployment", "scale_settings", "properties.scaleSettings", "stored; there are min_instances replicas all the time",
        "there is no autoscaler yet", "Change the number: `moorage online-deployment update --set instance_count=N`.",
        lambda value: _says_nothing(value) or (isinstance(value, Mapping) and str(value.get("scaleType") or "Default").lower() == "default"),
    ),
    Idle(
        "online-deployment", "data_collector", "properties.dataCollector", "stored; nothing is collected", "requests and answers are not stored",
        "Write them from the scoring script.",
        lambda value: _says_nothing(value) or (isinstance(value, Mapping) and not _collects(value.get("collections"))),
    ),
    Idle(
        "online-deployment", "app_insights_enabled", "properties.appInsightsEnabled", _STORED, "there is no Application Insights outside Azure",
        "Read the router's metrics, and `moorage online-deployment get-logs`.",
    ),
    Idle(
        "online-deployment", "model_mount_path", "properties.modelMountPath", "stored; the model lies where AZUREML_MODEL_DIR says",
        "models lie at one place in every replica", "Read the path from AZUREML_MODEL_DIR.",
    ),
    Idle(
        "online-deployment", "liveness_probe|readiness_probe.scheme|method|path|port",
        "properties.livenessProbe|readinessProbe.scheme|method|path|port", "stored; the scoring server's own address is asked",
        "models are served by a scoring server with routes of its own", "Leave it out.",
    ),
    Idle(
        "online-deployment", "", "properties.egressPublicNetworkAccess", _STORED, _NETWORK, "Set network policies in the cluster.", _one_of("Enabled"),
    ),
)  # fmt: skip
# Kinds that are stored and do not run, by type of resource; those of jobs have a type each.
_KEPT: Mapping[str, later.Later] = {
    "batchEndpoints": later.BATCH_ENDPOINT,
    "batchEndpoints/deployments": later.BATCH_DEPLOYMENT,
    "schedules": later.SCHEDULE,
}


def _collects(collections: object) -> bool:
    if not isinstance(collections, Mapping):
        return not _says_nothing(collections)
    each = (one.get("dataCollectionMode") for one in collections.values() if isinstance(one, Mapping))
    return any(str(mode).lower() == "enabled" for mode in each)


def warnings(type: str, resource: Manifest) -> list[str]:
    """What a resource asks for and does not get, one sentence or two for each field; nothing of kinds that do not run.

    Args:
        type: of the resource, e.g. `onlineEndpoints/deployments`.
        resource: as it is sent.
    """
    properties = resource.get("properties")
    kind = properties.get("jobType", "Command") if isinstance(properties, Mapping) else None
    if type in _KEPT or (type == "jobs" and str(kind).lower() != "command"):
        return []
    return [message for field in FIELDS if field.wire and field.type == type for message in _said(field, resource)]


def unsent(kind: str, values: Manifest) -> list[str]:
    """What a document says that is not even sent.

    Args:
        kind: the noun of its command.
        values: its fields.
    """
    return [message for field in FIELDS if field.kind == kind and not field.wire for message in _said(field, values)]


def kept(type: str, resource: Manifest) -> list[str]:
    """That a resource is of a kind that is stored and does not run."""
    if type in _KEPT:
        return [_KEPT[type].message]
    properties = resource.get("properties")
    kind = str(properties.get("jobType")).lower() if isinstance(properties, Mapping) else ""
    return [each.message for name, each in later.STORED_JOBS.items() if type == "jobs" and name.lower() == kind]


def _said(field: Idle, resource: Manifest) -> list[str]:
    path = (field.wire or field.document).split(".")
    named = [(wire, chosen) for wire, chosen, value in _walk(resource, path, (), ()) if not field.content(value)]
    if not named:
        return []
    documents = [_filled(field.document, chosen) if field.document else wire for wire, chosen in named]
    shown = ", ".join(documents[:_NAMED]) + (f" and {len(documents) - _NAMED} more" if len(documents) > _NAMED else "")
    return [f"{shown}: {field.happens}: {field.reason}. {field.instead}"]


Choice = str | int


def _walk(
    value: object, steps: Sequence[str], path: tuple[str, ...], chosen: tuple[Choice, ...]
) -> Iterator[tuple[str, tuple[Choice, ...], object]]:
    """Every place that a path of the table leads to: its name, what was chosen at `*` and `|`, and what stands there."""
    if not steps:
        yield ".".join(path), chosen, value
        return
    if not isinstance(value, Mapping):
        return
    step, *rest = steps
    if step == "*":
        for name, inner in value.items():
            yield from _walk(inner, rest, (*path, str(name)), (*chosen, str(name)))
        return
    alternatives = step.split("|")
    for index, name in enumerate(alternatives):
        if name in value:
            yield from _walk(value[name], rest, (*path, name), (*chosen, index) if len(alternatives) > 1 else chosen)


def _filled(pattern: str, chosen: Iterable[Choice]) -> str:
    """A document's path with the choices of the wire's."""
    left = iter(chosen)
    steps = [step.split("|") for step in pattern.split(".")]
    return ".".join(str(next(left)) if step == ["*"] else step[int(next(left))] if len(step) > 1 else step[0] for step in steps)
