"""The SDK's own loaders, one JSON line in and one out: `{"kind", "path", "options"}` gives the document's REST body, `{"fields": true}` what its schemas know."""

from __future__ import annotations

import json
import logging
import os
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

# The SDK and its parts speak to stdout now and then; the answers need it for themselves.
ANSWERS = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
warnings.simplefilter("ignore")
logging.disable(logging.CRITICAL)

from azure.ai.ml._schema._datastore import azure_storage  # noqa: E402
from azure.ai.ml._schema._deployment.batch.model_batch_deployment import ModelBatchDeploymentSchema  # noqa: E402
from azure.ai.ml._schema._deployment.online.online_deployment import KubernetesOnlineDeploymentSchema  # noqa: E402
from azure.ai.ml._schema._endpoint.batch.batch_endpoint import BatchEndpointSchema  # noqa: E402
from azure.ai.ml._schema._endpoint.online.online_endpoint import KubernetesOnlineEndpointSchema  # noqa: E402
from azure.ai.ml._schema._sweep.sweep_job import SweepJobSchema  # noqa: E402
from azure.ai.ml._schema.assets.data import DataSchema  # noqa: E402
from azure.ai.ml._schema.assets.environment import EnvironmentSchema  # noqa: E402
from azure.ai.ml._schema.assets.model import ModelSchema  # noqa: E402
from azure.ai.ml._schema.component.command_component import CommandComponentSchema  # noqa: E402
from azure.ai.ml._schema.component.parallel_component import ParallelComponentSchema  # noqa: E402
from azure.ai.ml._schema.compute.kubernetes_compute import KubernetesComputeSchema  # noqa: E402
from azure.ai.ml._schema.job.command_job import CommandJobSchema  # noqa: E402
from azure.ai.ml._schema.pipeline.pipeline_component import PipelineComponentSchema  # noqa: E402
from azure.ai.ml._schema.pipeline.pipeline_job import PipelineJobSchema  # noqa: E402
from azure.ai.ml._schema.schedule.schedule import JobScheduleSchema  # noqa: E402
from azure.ai.ml._schema.workspace.workspace import WorkspaceSchema  # noqa: E402
from azure.ai.ml._utils._asset_utils import get_content_hash, get_upload_files_from_folder  # noqa: E402
from azure.ai.ml.entities import _load_functions as loaders  # noqa: E402

LOADERS: dict[str, Callable[..., Any]] = {
    "job": loaders.load_job,
    "component": loaders.load_component,
    "environment": loaders.load_environment,
    "model": loaders.load_model,
    "data": loaders.load_data,
    "datastore": loaders.load_datastore,
    "compute": loaders.load_compute,
    "workspace": loaders.load_workspace,
    "online-endpoint": loaders.load_online_endpoint,
    "online-deployment": loaders.load_online_deployment,
    "batch-endpoint": loaders.load_batch_endpoint,
    "batch-deployment": loaders.load_model_batch_deployment,
    "schedule": loaders.load_schedule,
}
SCHEMAS = {
    "job": (CommandJobSchema, SweepJobSchema, PipelineJobSchema),
    "component": (CommandComponentSchema, ParallelComponentSchema, PipelineComponentSchema),
    "environment": (EnvironmentSchema,),
    "model": (ModelSchema,),
    "data": (DataSchema,),
    "datastore": (azure_storage.AzureBlobSchema, azure_storage.AzureDataLakeGen2Schema),
    "compute": (KubernetesComputeSchema,),
    "workspace": (WorkspaceSchema,),
    "online-endpoint": (KubernetesOnlineEndpointSchema,),
    "online-deployment": (KubernetesOnlineDeploymentSchema,),
    "batch-endpoint": (BatchEndpointSchema,),
    "batch-deployment": (ModelBatchDeploymentSchema,),
    "schedule": (JobScheduleSchema,),
}


def body(kind: str, path: str, options: dict[str, Any]) -> Any:
    entity = LOADERS[kind](path, params_override=[{name: value} for name, value in options.items()])
    match kind:
        case "online-endpoint":
            made = entity._to_rest_online_endpoint("local")
        case "batch-endpoint":
            made = entity._to_rest_batch_endpoint("local")
        case "online-deployment" | "batch-deployment":
            made = entity._to_rest_object("local")
        case "job" if hasattr(entity, "_to_job"):
            # As the SDK does when it submits a command.
            made = entity._to_job()._to_rest_object()
        case _:
            made = entity._to_rest_object()
    return wire(made)


def wire(made: Any) -> Any:
    """A REST model of any of the SDK's generations as what goes over the wire."""
    if hasattr(made, "serialize"):
        return made.serialize()
    return made.as_dict() if hasattr(made, "as_dict") else made


def code(path: str) -> Any:
    """The files that go with a component: what each holds, and the hash of all."""
    component = loaders.load_component(path)
    result = component._validate()
    if not result.passed:
        return {"refusal": str(result.error_messages)[:2000]}
    with component._build_code() as made:
        found = get_upload_files_from_folder(made.path, ignore_file=made._ignore_file)
        files = {name: held(source) for source, name in found}
        return {"files": files, "hash": get_content_hash(made.path, made._ignore_file)}


def held(path: str) -> Any:
    if not zipfile.is_zipfile(path):
        return Path(path).read_bytes().hex()
    with zipfile.ZipFile(path) as archive:
        return [[name, archive.read(name).hex()] for name in archive.namelist()]


def answer(asked: dict[str, Any]) -> dict[str, Any]:
    if asked.get("fields"):
        return {
            kind: sorted({field.data_key or name for each in schemas for name, field in each._declared_fields.items()})
            for kind, schemas in SCHEMAS.items()
        }
    try:
        if asked.get("code"):
            return dict(code(asked["path"]))
        return {"body": body(asked["kind"], asked["path"], asked.get("options", {}))}
    except Exception as error:  # noqa: BLE001  whatever it raises is its refusal
        return {"refusal": f"{type(error).__name__}: {error}"[:2000]}


def plain(value: Any) -> Any:
    """What JSON has no form for: assets that would be registered before the body is sent, as their own bodies."""
    if hasattr(value, "_to_rest_object"):
        return {"asset": wire(value._to_rest_object())}
    return str(value)


for line in sys.stdin:
    ANSWERS.write(json.dumps(answer(json.loads(line)), default=plain) + "\n")
    ANSWERS.flush()
