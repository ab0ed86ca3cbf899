"""What CLI v2 documents can say and this version does not do: the one list, which errors and the reference page are made from.

A field of this list is refused with its reason; a field of neither this list nor the document's shape is unknown.
"""

from __future__ import annotations

from collections.abc import Mapping

_CLOUD = "is part of the original's own cloud, and has no counterpart on a cluster; leave it out."
_PREVIEW = "is a preview of the original, which this version does not have; leave it out."
_NETWORK = "concerns the original's managed network; set network policies in the cluster. Leave it out."

# By the last word of `$schema`, or `type:` in a document of that command.
KINDS: Mapping[str, str] = {
    "autoMLJob": "automated machine learning is not supported yet; submit a command job for each setting.",
    "sparkJob": "Spark jobs are not supported yet; run Spark in a command job.",
    "sparkComponent": "Spark is not supported yet; use a command component.",
    "importJob": "imports are not supported yet; copy the data in a command job.",
    "dataTransferJob": "data transfers are not supported yet; copy the data in a command job.",
    "dataTransferComponent": "data transfers are not supported yet; use a command component.",
    "importData": "imports are not supported yet; register the data with a path.",
    "parallelJob": "a parallel job runs inside a pipeline; make it a step of one.",
    "finetuningJob": "fine-tuning jobs are a service of the original; run the training in a command job.",
    "distillationJob": "distillation jobs are a service of the original; run the training in a command job.",
    "flow": "prompt flows are not supported.",
    "amlCompute": "machines are not created here; attach a Kubernetes cluster (kubernetesCompute).",
    "computeInstance": "workstations are not created here; attach a Kubernetes cluster (kubernetesCompute).",
    "vmCompute": "machines are not attached one by one; attach a Kubernetes cluster (kubernetesCompute).",
    "synapseSparkCompute": "Spark pools are not supported; attach a Kubernetes cluster (kubernetesCompute).",
    "azureFile": "file shares are not supported as datastores; mount them through a PersistentVolumeClaim with the label ml.azure.com/pvc.",
    "azureDataLakeGen1": "this kind of storage was retired by its maker; copy the files to a blob container.",
    "oneLake": "this kind of storage is not supported yet; copy the files to a blob container.",
    "registry": "there is one registry here, azureml, and it is not created; see `moorage environment create --registry-name azureml`.",
    "featureSet": "feature stores are not supported yet.",
    "featureStore": "feature stores are not supported yet.",
    "featureStoreEntity": "feature stores are not supported yet.",
    "workspaceConnection": "connections are not supported yet; pass secrets through the cluster.",
    "monitorSchedule": "monitoring schedules are not supported yet; schedule a pipeline.",
    "pipelineComponentBatchDeployment": "pipeline components behind batch endpoints are not supported yet; deploy a model, or schedule the pipeline.",
}
# `type:` where it differs from the schema's word.
TYPES: Mapping[str, str] = {
    "automl": "autoMLJob",
    "spark": "sparkJob",
    "parallel": "parallelJob",
    "import": "importJob",
    "data_transfer": "dataTransferJob",
    "finetuning": "finetuningJob",
    "fine_tuning": "finetuningJob",
    "distillation": "distillationJob",
    "amlcompute": "amlCompute",
    "computeinstance": "computeInstance",
    "virtualmachine": "vmCompute",
    "synapsespark": "synapseSparkCompute",
    "azure_file": "azureFile",
    "azure_data_lake_gen1": "azureDataLakeGen1",
    "one_lake": "oneLake",
    "monitor": "monitorSchedule",
    "pipeline": "pipelineComponentBatchDeployment",
}
# By the noun of the document, or by `noun.section`.
FIELDS: Mapping[str, Mapping[str, str]] = {
    "job": {
        "parent_job_name": "is set by the service; leave it out.",
        "log_files": "is set by the service; leave it out.",
    },
    "component": {
        "auto_delete_setting": _PREVIEW,
        "environment_variables": "a component has none; set them where it is used, in the step of the pipeline.",
        "queue_settings": "a component has none; set them where it is used, in the step of the pipeline.",
        "intellectual_property": _PREVIEW,
        "successful_return_code": _PREVIEW,
    },
    "environment": {
        "auto_delete_setting": _PREVIEW,
        "intellectual_property": _PREVIEW,
    },
    "model": {
        "intellectual_property": _PREVIEW,
        "default_deployment_template": _PREVIEW,
        "allowed_deployment_templates": _PREVIEW,
        "system_metadata": _PREVIEW,
    },
    "data": {
        "source": "imports are not supported yet; register the data with a path.",
        "intellectual_property": _PREVIEW,
        "auto_delete_setting": "is not supported yet; archive the version when it is no longer needed.",
    },
    "datastore": {},
    "compute": {
        "provisioning_errors": "is set by the service; leave it out.",
    },
    "workspace": {
        "storage_account": _CLOUD,
        "container_registry": _CLOUD,
        "key_vault": _CLOUD,
        "application_insights": _CLOUD,
        "customer_managed_key": _CLOUD,
        "image_build_compute": _CLOUD,
        "public_network_access": _NETWORK,
        "network_acls": _NETWORK,
        "managed_network": _NETWORK,
        "provision_network_now": _NETWORK,
        "system_datastores_auth_mode": _CLOUD,
        "primary_user_assigned_identity": _CLOUD,
        "workspace_hub": _CLOUD,
        "enable_data_isolation": _CLOUD,
        "allow_roleassignment_on_rg": _CLOUD,
        "serverless_compute": _CLOUD,
        "hbi_workspace": _CLOUD,
    },
    "online-endpoint": {
        "public_network_access": "is a field of managed endpoints, which run in the original's own cloud; leave it out.",
    },
    "online-deployment": {
        "egress_public_network_access": "is a field of managed endpoints, which run in the original's own cloud; leave it out.",
        "private_network_connection": "is a field of managed endpoints, which run in the original's own cloud; leave it out.",
        "sku": "is a field of managed endpoints, which run in the original's own cloud; leave it out.",
        "startup_probe": _PREVIEW,
    },
    "batch-endpoint": {},
    "batch-deployment": {
        "job_definition": "is not supported yet; deploy a model.",
        "component": "is not supported yet; deploy a model.",
    },
    "schedule": {
        "create_monitor": "monitoring schedules are not supported yet; schedule a pipeline.",
        "import_data": "imports are not supported yet; schedule a pipeline that copies the data.",
    },
}


def unsupported_kind(kind: str, given: str) -> str | None:
    """Why a document of that kind is refused; None when it is not in the list.

    Args:
        kind: the noun of the command it was given to.
        given: the last word of its `$schema`, or its `type`.
    """
    plain = given.lower()
    if (plain == "pipeline" and kind != "batch-deployment") or (plain == "parallel" and kind != "job"):
        return None
    named = TYPES.get(plain, given)
    return next((reason for known, reason in KINDS.items() if known.lower() == named.lower()), None)
