"""The kinds of object this project touches: how each is addressed. Anything else can be addressed by building a Kind."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class Kind:
    """One kind of object: where it lives in the API.

    Args:
        group: API group, empty for the core group.
        version: API version, e.g. `v1`.
        kind: e.g. `Pod`.
        plural: the resource name in URLs, e.g. `pods`.
        namespaced: False for cluster-scoped kinds.
    """

    group: str
    version: str
    kind: str
    plural: str
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    def __str__(self) -> str:
        return f"{self.plural}.{self.group}" if self.group else self.plural


POD = Kind("", "v1", "Pod", "pods")
NODE = Kind("", "v1", "Node", "nodes", namespaced=False)
NAMESPACE = Kind("", "v1", "Namespace", "namespaces", namespaced=False)
SERVICE = Kind("", "v1", "Service", "services")
SECRET = Kind("", "v1", "Secret", "secrets")
CONFIG_MAP = Kind("", "v1", "ConfigMap", "configmaps")
SERVICE_ACCOUNT = Kind("", "v1", "ServiceAccount", "serviceaccounts")
PVC = Kind("", "v1", "PersistentVolumeClaim", "persistentvolumeclaims")
PV = Kind("", "v1", "PersistentVolume", "persistentvolumes", namespaced=False)
EVENT = Kind("", "v1", "Event", "events")
DEPLOYMENT = Kind("apps", "v1", "Deployment", "deployments")
REPLICA_SET = Kind("apps", "v1", "ReplicaSet", "replicasets")
STATEFUL_SET = Kind("apps", "v1", "StatefulSet", "statefulsets")
DAEMON_SET = Kind("apps", "v1", "DaemonSet", "daemonsets")
CONTROLLER_REVISION = Kind("apps", "v1", "ControllerRevision", "controllerrevisions")
JOB = Kind("batch", "v1", "Job", "jobs")
ENDPOINT_SLICE = Kind("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices")
LEASE = Kind("coordination.k8s.io", "v1", "Lease", "leases")
STORAGE_CLASS = Kind("storage.k8s.io", "v1", "StorageClass", "storageclasses", namespaced=False)
DISRUPTION_BUDGET = Kind("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets")
PRIORITY_CLASS = Kind("scheduling.k8s.io", "v1", "PriorityClass", "priorityclasses", namespaced=False)
CLUSTER_ROLE = Kind("rbac.authorization.k8s.io", "v1", "ClusterRole", "clusterroles", namespaced=False)
CLUSTER_ROLE_BINDING = Kind("rbac.authorization.k8s.io", "v1", "ClusterRoleBinding", "clusterrolebindings", namespaced=False)
ROLE = Kind("rbac.authorization.k8s.io", "v1", "Role", "roles")
ROLE_BINDING = Kind("rbac.authorization.k8s.io", "v1", "RoleBinding", "rolebindings")
CRD = Kind("apiextensions.k8s.io", "v1", "CustomResourceDefinition", "customresourcedefinitions", namespaced=False)
POD_GROUP = Kind("scheduling.volcano.sh", "v1beta1", "PodGroup", "podgroups")
INSTANCE_TYPE = Kind("amlarc.azureml.com", "v1alpha1", "InstanceType", "instancetypes", namespaced=False)
TRAINING_JOB = Kind("moorage.dev", "v1alpha1", "TrainingJob", "trainingjobs")
ONLINE_ENDPOINT = Kind("moorage.dev", "v1alpha1", "OnlineEndpoint", "onlineendpoints")
ONLINE_DEPLOYMENT = Kind("moorage.dev", "v1alpha1", "OnlineDeployment", "onlinedeployments")

KNOWN: tuple[Kind, ...] = (
    POD, NODE, NAMESPACE, SERVICE, SECRET, CONFIG_MAP, SERVICE_ACCOUNT, PVC, PV, EVENT, DEPLOYMENT, REPLICA_SET, STATEFUL_SET,
    DAEMON_SET, CONTROLLER_REVISION, JOB, ENDPOINT_SLICE, LEASE, STORAGE_CLASS, DISRUPTION_BUDGET, PRIORITY_CLASS, CLUSTER_ROLE, CLUSTER_ROLE_BINDING, ROLE, ROLE_BINDING, CRD, POD_GROUP,
    INSTANCE_TYPE, TRAINING_JOB, ONLINE_ENDPOINT, ONLINE_DEPLOYMENT,
)  # fmt: skip


def kind_of(api_version: str, kind: str) -> Kind:
    """The known Kind of a manifest's `apiVersion` and `kind`; LookupError when it is none of ours."""
    for known in KNOWN:
        if known.kind == kind and known.api_version == api_version:
            return known
    raise LookupError(f"{api_version} {kind} is not a kind this project touches")
