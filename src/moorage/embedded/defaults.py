"""Defaults of the built-in kinds, as Kubernetes' pkg/apis/*/v1/defaults.go sets them: what controllers, nodes and kubectl rely on. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from moorage.specs.manifest import Manifest

_CONTAINER_LISTS = ("initContainers", "containers", "ephemeralContainers")


def containers(spec: Mapping[str, Any]) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """Every container of a pod spec with where it stands: (`initContainers`, 0, {...})."""
    for place in _CONTAINER_LISTS:
        for index, container in enumerate(spec.get(place) or ()):
            if isinstance(container, dict):
                yield place, index, container


def pod_spec(spec: dict[str, Any]) -> None:
    for name, value in (
        ("restartPolicy", "Always"),
        ("terminationGracePeriodSeconds", 30),
        ("dnsPolicy", "ClusterFirst"),
        ("securityContext", {}),
        ("schedulerName", "default-scheduler"),
    ):
        if spec.get(name) is None:
            spec[name] = value
    if spec.get("serviceAccount") and not spec.get("serviceAccountName"):
        spec["serviceAccountName"] = spec["serviceAccount"]
    if spec.get("serviceAccountName"):
        spec["serviceAccount"] = spec["serviceAccountName"]
    for _, _, container in containers(spec):
        _container(container)
    for volume in spec.get("volumes") or ():
        _volume(volume)


def _container(container: dict[str, Any]) -> None:
    container.setdefault("terminationMessagePath", "/dev/termination-log")
    container.setdefault("terminationMessagePolicy", "File")
    if container.get("resources") is None:
        container["resources"] = {}
    if not container.get("imagePullPolicy"):
        name = str(container.get("image") or "").rpartition("/")[2]
        latest = "@" not in name and (":" not in name or name.endswith(":latest"))
        container["imagePullPolicy"] = "Always" if latest else "IfNotPresent"
    for port in container.get("ports") or ():
        port.setdefault("protocol", "TCP")
    for env in container.get("env") or ():
        reference = (env.get("valueFrom") or {}).get("fieldRef")
        if reference is not None:
            reference.setdefault("apiVersion", "v1")
    for name in ("livenessProbe", "readinessProbe", "startupProbe"):
        if container.get(name) is not None:
            _probe(container[name])
    for name in ("postStart", "preStop"):
        _http_get(((container.get("lifecycle") or {}).get(name) or {}).get("httpGet"))


def _probe(probe: dict[str, Any]) -> None:
    for name, value in (("timeoutSeconds", 1), ("periodSeconds", 10), ("successThreshold", 1), ("failureThreshold", 3)):
        if not probe.get(name):
            probe[name] = value
    _http_get(probe.get("httpGet"))
    if probe.get("grpc") is not None:
        probe["grpc"].setdefault("service", "")


def _http_get(action: dict[str, Any] | None) -> None:
    if action is not None:
        action.setdefault("path", "/")
        action.setdefault("scheme", "HTTP")


def _volume(volume: dict[str, Any]) -> None:
    if set(volume) <= {"name"}:
        volume["emptyDir"] = {}
    for name in ("secret", "configMap", "downwardAPI", "projected"):
        if isinstance(volume.get(name), dict):
            volume[name].setdefault("defaultMode", 0o644)
    if isinstance(volume.get("hostPath"), dict):
        volume["hostPath"].setdefault("type", "")
    for source in (volume.get("projected") or {}).get("sources") or ():
        if isinstance(source.get("serviceAccountToken"), dict):
            source["serviceAccountToken"].setdefault("expirationSeconds", 3600)
    for place in (
        (volume.get("downwardAPI") or {}),
        *((s.get("downwardAPI") or {}) for s in (volume.get("projected") or {}).get("sources") or ()),
    ):
        for item in place.get("items") or ():
            if item.get("fieldRef") is not None:
                item["fieldRef"].setdefault("apiVersion", "v1")


def _pod(pod: Manifest) -> None:
    pod_spec(pod["spec"])
    pod["spec"].setdefault("enableServiceLinks", True)
    # Of a pod only: a template keeps what was written.
    for _, _, container in containers(pod["spec"]):
        limits, requests = container["resources"].get("limits") or {}, container["resources"].get("requests") or {}
        missing = {name: value for name, value in limits.items() if name not in requests}
        if missing:
            container["resources"]["requests"] = {**requests, **missing}


def _template(manifest: Manifest) -> dict[str, Any]:
    template: dict[str, Any] = manifest["spec"].setdefault("template", {})
    template.setdefault("metadata", {})
    pod_spec(template.setdefault("spec", {}))
    return template


def _deployment(manifest: Manifest) -> None:
    spec = manifest["spec"]
    _template(manifest)
    for name, value in (("replicas", 1), ("revisionHistoryLimit", 10), ("progressDeadlineSeconds", 600)):
        if spec.get(name) is None:
            spec[name] = value
    strategy = spec.setdefault("strategy", {})
    strategy.setdefault("type", "RollingUpdate")
    if strategy["type"] == "RollingUpdate":
        rolling = strategy.get("rollingUpdate") or {}
        strategy["rollingUpdate"] = {"maxSurge": "25%", "maxUnavailable": "25%", **rolling}


def _replica_set(manifest: Manifest) -> None:
    template = _template(manifest)
    if manifest["spec"].get("replicas") is None:
        manifest["spec"]["replicas"] = 1
    labels = template["metadata"].get("labels") or {}
    if not manifest["metadata"].get("labels") and labels:
        manifest["metadata"]["labels"] = dict(labels)


def _stateful_set(manifest: Manifest) -> None:
    spec = manifest["spec"]
    _template(manifest)
    for name, value in (("replicas", 1), ("revisionHistoryLimit", 10), ("podManagementPolicy", "OrderedReady")):
        if spec.get(name) is None:
            spec[name] = value
    strategy = spec.setdefault("updateStrategy", {})
    strategy.setdefault("type", "RollingUpdate")
    if strategy["type"] == "RollingUpdate":
        strategy["rollingUpdate"] = {"partition": 0, "maxUnavailable": 1, **(strategy.get("rollingUpdate") or {})}
    spec["persistentVolumeClaimRetentionPolicy"] = {
        "whenDeleted": "Retain",
        "whenScaled": "Retain",
        **(spec.get("persistentVolumeClaimRetentionPolicy") or {}),
    }
    for claim in spec.get("volumeClaimTemplates") or ():
        claim |= {"apiVersion": "v1", "kind": "PersistentVolumeClaim"}
        claim.setdefault("spec", {}).setdefault("volumeMode", "Filesystem")
        claim.setdefault("status", {}).setdefault("phase", "Pending")


def _daemon_set(manifest: Manifest) -> None:
    spec = manifest["spec"]
    labels = _template(manifest)["metadata"].get("labels") or {}
    if spec.get("revisionHistoryLimit") is None:
        spec["revisionHistoryLimit"] = 10
    strategy = spec.setdefault("updateStrategy", {})
    strategy.setdefault("type", "RollingUpdate")
    if strategy["type"] == "RollingUpdate":
        strategy["rollingUpdate"] = {"maxUnavailable": 1, "maxSurge": 0, **(strategy.get("rollingUpdate") or {})}
    if not manifest["metadata"].get("labels") and labels:
        manifest["metadata"]["labels"] = dict(labels)


def _job(manifest: Manifest) -> None:
    spec = manifest["spec"]
    # A Job's template has no default restartPolicy in Kubernetes: the user has to say OnFailure or Never.
    restart = ((spec.get("template") or {}).get("spec") or {}).get("restartPolicy")
    template = _template(manifest)
    if restart is None:
        template["spec"].pop("restartPolicy", None)
    if spec.get("completions") is None and spec.get("parallelism") is None:
        spec["completions"] = 1
    for name, value in (("parallelism", 1), ("completionMode", "NonIndexed"), ("suspend", False), ("manualSelector", False)):
        if spec.get(name) is None:
            spec[name] = value
    if spec.get("backoffLimit") is None:
        # With a limit per index the total one must not end the job first.
        spec["backoffLimit"] = 2**31 - 1 if spec.get("backoffLimitPerIndex") is not None else 6
    if spec.get("podReplacementPolicy") is None:
        spec["podReplacementPolicy"] = "Failed" if spec.get("podFailurePolicy") else "TerminatingOrFailed"
    labels = template["metadata"].get("labels") or {}
    if not manifest["metadata"].get("labels") and labels:
        manifest["metadata"]["labels"] = dict(labels)


def _service(manifest: Manifest) -> None:
    spec = manifest["spec"]
    spec.setdefault("type", "ClusterIP")
    spec.setdefault("sessionAffinity", "None")
    if spec["type"] != "ExternalName":
        spec.setdefault("internalTrafficPolicy", "Cluster")
        spec.setdefault("ipFamilyPolicy", "SingleStack")
        spec.setdefault("ipFamilies", ["IPv4"])
    if spec["type"] in ("NodePort", "LoadBalancer"):
        spec.setdefault("externalTrafficPolicy", "Cluster")
    for port in spec.get("ports") or ():
        port.setdefault("protocol", "TCP")
        port.setdefault("targetPort", port.get("port"))
    if spec["sessionAffinity"] == "ClientIP":
        spec.setdefault("sessionAffinityConfig", {"clientIP": {"timeoutSeconds": 10800}})


def _claim(manifest: Manifest) -> None:
    manifest["spec"].setdefault("volumeMode", "Filesystem")


def _volume_object(manifest: Manifest) -> None:
    manifest["spec"].setdefault("volumeMode", "Filesystem")
    manifest["spec"].setdefault("persistentVolumeReclaimPolicy", "Retain")
    if isinstance(manifest["spec"].get("hostPath"), dict):
        manifest["spec"]["hostPath"].setdefault("type", "")


def _namespace(manifest: Manifest) -> None:
    labels = manifest["metadata"].get("labels") or {}
    manifest["metadata"]["labels"] = {**labels, "kubernetes.io/metadata.name": manifest["metadata"]["name"]}


def _secret(manifest: Manifest) -> None:
    if not manifest.get("type"):
        manifest["type"] = "Opaque"


def _storage_class(manifest: Manifest) -> None:
    manifest.setdefault("reclaimPolicy", "Delete")
    manifest.setdefault("volumeBindingMode", "Immediate")


def _priority_class(manifest: Manifest) -> None:
    manifest.setdefault("preemptionPolicy", "PreemptLowerPriority")


def _role_binding(manifest: Manifest) -> None:
    manifest.get("roleRef", {}).setdefault("apiGroup", "rbac.authorization.k8s.io")
    for subject in manifest.get("subjects") or ():
        subject.setdefault("apiGroup", "" if subject.get("kind") == "ServiceAccount" else "rbac.authorization.k8s.io")
        if subject["apiGroup"] == "":
            del subject["apiGroup"]


def _network_policy(manifest: Manifest) -> None:
    spec = manifest.setdefault("spec", {})
    if not spec.get("policyTypes"):
        spec["policyTypes"] = ["Ingress", *(["Egress"] if spec.get("egress") else [])]


_BY_KIND: Mapping[str, Callable[[Manifest], None]] = {
    "NetworkPolicy": _network_policy,
    "Pod": _pod,
    "Deployment": _deployment,
    "ReplicaSet": _replica_set,
    "StatefulSet": _stateful_set,
    "DaemonSet": _daemon_set,
    "Job": _job,
    "Service": _service,
    "PersistentVolumeClaim": _claim,
    "PersistentVolume": _volume_object,
    "Namespace": _namespace,
    "Secret": _secret,
    "StorageClass": _storage_class,
    "PriorityClass": _priority_class,
    "RoleBinding": _role_binding,
    "ClusterRoleBinding": _role_binding,
}
_NEEDS_SPEC = frozenset(
    {
        "Pod", "Deployment", "ReplicaSet", "StatefulSet", "DaemonSet", "Job", "Service", "PersistentVolumeClaim", "PersistentVolume",
        "PodDisruptionBudget",
    }
)  # fmt: skip


def built_in(kind: str, manifest: Manifest) -> None:
    """Set the defaults of a built-in kind in place; setting them again changes nothing."""
    if kind in _NEEDS_SPEC and not isinstance(manifest.get("spec"), dict):
        manifest["spec"] = {}
    if kind in _BY_KIND:
        _BY_KIND[kind](manifest)
