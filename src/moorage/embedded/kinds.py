"""The catalog: every kind the API serves, built in or defined by a CustomResourceDefinition, with what discovery tells about it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from moorage.embedded import unserved
from moorage.errors import NotFound
from moorage.kube.kinds import Kind

if TYPE_CHECKING:
    from moorage.embedded.custom import Definition

_ALL_VERBS = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")


@dataclass(frozen=True, slots=True)
class Resource:
    """One kind as the API serves it.

    Args:
        kind: its address.
        short_names, categories: what kubectl accepts for it.
        subresources: `status`, `scale`, and the ones with code of their own (`log`, `binding`, `token`, `finalize`).
        storage: the (group, plural) under which objects are kept; differs from the kind's for a second view of the same objects.
        definition: the CustomResourceDefinition's version it came from, None for built-in kinds.
    """

    kind: Kind
    short_names: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    subresources: frozenset[str] = frozenset()
    singular: str = ""
    list_kind: str = ""
    storage: tuple[str, str] = ("", "")
    verbs: tuple[str, ...] = _ALL_VERBS
    definition: Definition | None = field(default=None, compare=False)

    @property
    def has_status(self) -> bool:
        return "status" in self.subresources


def _resource(
    kind: str,
    plural: str,
    group: str = "",
    *,
    namespaced: bool = True,
    short: str = "",
    sub: str = "",
    version: str = "v1",
    all_: bool = False,
) -> Resource:
    return Resource(
        kind=Kind(group, version, kind, plural, namespaced=namespaced),
        short_names=tuple(short.split()),
        categories=("all",) if all_ else (),
        subresources=frozenset(sub.split()),
        singular=kind.lower(),
        list_kind=f"{kind}List",
        storage=(group, plural),
    )


_RBAC, _ADMISSION = "rbac.authorization.k8s.io", "admissionregistration.k8s.io"
_EVENTS_V1 = Resource(
    kind=Kind("events.k8s.io", "v1", "Event", "events"),
    short_names=("ev",),
    singular="event",
    list_kind="EventList",
    storage=("", "events"),
)

BUILT_IN: tuple[Resource, ...] = (
    _resource("ConfigMap", "configmaps", short="cm"),
    _resource("Endpoints", "endpoints", short="ep"),
    _resource("Event", "events", short="ev"),
    _resource("LimitRange", "limitranges", short="limits"),
    _resource("Namespace", "namespaces", namespaced=False, short="ns", sub="status finalize"),
    _resource("Node", "nodes", namespaced=False, short="no", sub="status"),
    _resource("PersistentVolume", "persistentvolumes", namespaced=False, short="pv", sub="status"),
    _resource("PersistentVolumeClaim", "persistentvolumeclaims", short="pvc", sub="status"),
    _resource("Pod", "pods", short="po", sub="status log binding eviction exec attach portforward", all_=True),
    _resource("ResourceQuota", "resourcequotas", short="quota", sub="status"),
    _resource("Secret", "secrets"),
    _resource("Service", "services", short="svc", sub="status", all_=True),
    _resource("ServiceAccount", "serviceaccounts", short="sa", sub="token"),
    _resource("Deployment", "deployments", "apps", short="deploy", sub="status scale", all_=True),
    _resource("ReplicaSet", "replicasets", "apps", short="rs", sub="status scale", all_=True),
    _resource("StatefulSet", "statefulsets", "apps", short="sts", sub="status scale", all_=True),
    _resource("DaemonSet", "daemonsets", "apps", short="ds", sub="status", all_=True),
    _resource("ControllerRevision", "controllerrevisions", "apps"),
    _resource("Job", "jobs", "batch", sub="status", all_=True),
    _resource("EndpointSlice", "endpointslices", "discovery.k8s.io"),
    _EVENTS_V1,
    _resource("Lease", "leases", "coordination.k8s.io"),
    _resource("StorageClass", "storageclasses", "storage.k8s.io", namespaced=False, short="sc"),
    _resource("PriorityClass", "priorityclasses", "scheduling.k8s.io", namespaced=False, short="pc"),
    _resource("ClusterRole", "clusterroles", _RBAC, namespaced=False),
    _resource("ClusterRoleBinding", "clusterrolebindings", _RBAC, namespaced=False),
    _resource("Role", "roles", _RBAC),
    _resource("RoleBinding", "rolebindings", _RBAC),
    _resource("Ingress", "ingresses", "networking.k8s.io", short="ing", sub="status"),
    _resource("IngressClass", "ingressclasses", "networking.k8s.io", namespaced=False),
    _resource("NetworkPolicy", "networkpolicies", "networking.k8s.io", short="netpol"),
    _resource("PodDisruptionBudget", "poddisruptionbudgets", "policy", short="pdb", sub="status"),
    _resource("MutatingWebhookConfiguration", "mutatingwebhookconfigurations", _ADMISSION, namespaced=False),
    _resource("ValidatingWebhookConfiguration", "validatingwebhookconfigurations", _ADMISSION, namespaced=False),
    # The scheduler speaks Volcano's gang scheduling itself, so its kinds are there without Volcano.
    _resource("PodGroup", "podgroups", "scheduling.volcano.sh", short="pg", sub="status", version="v1beta1"),
    _resource("Queue", "queues", "scheduling.volcano.sh", namespaced=False, short="q", sub="status", version="v1beta1"),
    _resource(
        "CustomResourceDefinition", "customresourcedefinitions", "apiextensions.k8s.io", namespaced=False, short="crd crds", sub="status"
    ),
)
# Groups in the order in which kubectl searches them for a short word such as `events`.
_GROUP_ORDER = ("", "apps", "events.k8s.io", "batch", "networking.k8s.io", "policy", _RBAC, "storage.k8s.io", "apiextensions.k8s.io", _ADMISSION,
                "scheduling.k8s.io", "coordination.k8s.io", "discovery.k8s.io", "scheduling.volcano.sh")  # fmt: skip


class Catalog:
    """Which kinds are served now. Changes when a CustomResourceDefinition does."""

    def __init__(self, resources: Iterable[Resource] = BUILT_IN) -> None:
        self._by_path: dict[tuple[str, str, str], Resource] = {}
        self._custom: dict[str, tuple[Resource, ...]] = {}
        for resource in resources:
            self._by_path[resource.kind.group, resource.kind.version, resource.kind.plural] = resource
        self.built_in_groups = frozenset(group for group, _, _ in self._by_path)

    def at(self, group: str, version: str, plural: str) -> Resource:
        """The resource behind a URL; NotFound in Kubernetes' words, Invalid (501) for what this cluster leaves out."""
        found = self._by_path.get((group, version, plural))
        if found is None:
            unserved.refuse(group, plural)
            raise NotFound("the server could not find the requested resource", target=plural)
        return found

    def of(self, kind: Kind) -> Resource:
        found = self._by_path.get((kind.group, kind.version, kind.plural))
        if found is None:
            raise NotFound(
                f"the cluster has no kind {kind.kind} ({kind}, {kind.api_version}); install its CustomResourceDefinition first",
                target=str(kind),
            )
        return found

    def stored(self, storage: tuple[str, str]) -> Resource | None:
        """The resource under which objects of a storage place are known to their owners and garbage collectors."""
        return next((r for r in self._by_path.values() if (r.kind.group, r.kind.plural) == storage), None)

    def resources(self) -> list[Resource]:
        return list(self._by_path.values())

    def groups(self) -> Mapping[str, Mapping[str, list[Resource]]]:
        """Group -> version -> resources, in discovery's order; versions in the order they were declared, the preferred one first."""
        found: dict[str, dict[str, list[Resource]]] = {}
        known = [group for group in _GROUP_ORDER if group in self.built_in_groups]
        others = sorted({group for group, _, _ in self._by_path} - set(known))
        for group in (*known, *others):
            for resource in self._by_path.values():
                if resource.kind.group == group:
                    found.setdefault(group, {}).setdefault(resource.kind.version, []).append(resource)
        return found

    def define(self, name: str, resources: tuple[Resource, ...]) -> None:
        """Serve what the CustomResourceDefinition `name` defines, in place of what it defined before."""
        self.withdraw(name)
        self._custom[name] = resources
        for resource in resources:
            self._by_path[resource.kind.group, resource.kind.version, resource.kind.plural] = resource

    def withdraw(self, name: str) -> None:
        for resource in self._custom.pop(name, ()):
            self._by_path.pop((resource.kind.group, resource.kind.version, resource.kind.plural), None)
