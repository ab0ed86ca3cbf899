"""Admission of pods: what Kubernetes' ServiceAccount, Priority and DefaultTolerationSeconds plugins put into them, and their QoS class."""

from __future__ import annotations

from typing import Any

from moorage.embedded import defaults
from moorage.embedded.metadata import generated_name
from moorage.embedded.objects import ObjectStore
from moorage.embedded.storage import Key
from moorage.errors import Forbidden
from moorage.specs.manifest import Manifest
from moorage.specs.quantities import parse_quantity

TOKEN_FOLDER = "/var/run/secrets/kubernetes.io/serviceaccount"
_PATIENCE_SECONDS = 300


def admit(pod: Manifest, store: ObjectStore) -> None:
    """Complete a new pod in place; Forbidden when its service account or priority class does not exist."""
    _service_account(pod, store)
    _priority(pod, store)
    tolerate(pod["spec"])
    pod["status"] = {"phase": "Pending", "qosClass": qos_class(pod["spec"])}


def _service_account(pod: Manifest, store: ObjectStore) -> None:
    spec, meta = pod["spec"], pod["metadata"]
    name = spec.get("serviceAccountName") or "default"
    spec["serviceAccountName"] = spec["serviceAccount"] = name
    account = store.latest(Key("", "serviceaccounts", meta["namespace"], name))
    if account is None and name != "default":
        raise Forbidden(
            f'pods "{meta["name"]}" is forbidden: error looking up service account {meta["namespace"]}/{name}: serviceaccount "{name}" not found',
            target=meta["name"],
        )
    found = account.manifest() if account is not None else {}
    if not spec.get("imagePullSecrets") and found.get("imagePullSecrets"):
        spec["imagePullSecrets"] = found["imagePullSecrets"]
    wanted = spec.get("automountServiceAccountToken", found.get("automountServiceAccountToken", True))
    # The default account is made by a controller a moment after its namespace; a pod that comes first goes without a token rather than not at all.
    if wanted and account is not None:
        _mount_token(spec)


def _mount_token(spec: dict[str, Any]) -> None:
    without = [
        container
        for place, _, container in defaults.containers(spec)
        if place != "ephemeralContainers" and all(mount.get("mountPath") != TOKEN_FOLDER for mount in container.get("volumeMounts") or ())
    ]
    if not without:
        return
    name = generated_name("kube-api-access-")
    sources: list[dict[str, Any]] = [
        {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
    ]
    spec["volumes"] = [*(spec.get("volumes") or ()), {"name": name, "projected": {"defaultMode": 0o644, "sources": sources}}]
    for container in without:
        container["volumeMounts"] = [*(container.get("volumeMounts") or ()), {"name": name, "readOnly": True, "mountPath": TOKEN_FOLDER}]


def _priority(pod: Manifest, store: ObjectStore) -> None:
    spec = pod["spec"]
    name = spec.get("priorityClassName")
    chosen: Manifest | None = None
    if name:
        found = store.latest(Key("scheduling.k8s.io", "priorityclasses", "", name))
        if found is None:
            raise Forbidden(f'pods "{pod["metadata"]["name"]}" is forbidden: no PriorityClass with name {name} was found', target=name)
        chosen = found.manifest()
    else:
        chosen = next(
            (m for entry in store.list(("scheduling.k8s.io", "priorityclasses")) if (m := entry.manifest()).get("globalDefault")), None
        )
        if chosen is not None:
            spec["priorityClassName"] = chosen["metadata"]["name"]
    value = chosen["value"] if chosen else 0
    if spec.get("priority") not in (None, value):
        raise Forbidden(
            f'pods "{pod["metadata"]["name"]}" is forbidden: the integer value of priority ({spec["priority"]}) must not be provided in pod spec; '
            f"priority admission controller computed {value} from the given PriorityClass name",
            target=pod["metadata"]["name"],
        )
    spec["priority"] = value
    spec.setdefault("preemptionPolicy", (chosen or {}).get("preemptionPolicy", "PreemptLowerPriority"))


def tolerate(spec: dict[str, Any]) -> None:
    present = spec.get("tolerations") or []
    for key in ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"):
        if not any(t.get("key") in (key, None, "") and t.get("effect") in ("NoExecute", None, "") for t in present):
            present.append({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": _PATIENCE_SECONDS})
    spec["tolerations"] = present


def qos_class(spec: dict[str, Any]) -> str:
    """Guaranteed, Burstable or BestEffort (k8s.io/kubernetes/pkg/apis/core/helper/qos)."""
    any_request = False
    guaranteed = True
    for place, _, container in defaults.containers(spec):
        if place == "ephemeralContainers":
            continue
        resources = container.get("resources") or {}
        limits = {name: value for name, value in (resources.get("limits") or {}).items() if name in ("cpu", "memory")}
        requests = {name: value for name, value in (resources.get("requests") or {}).items() if name in ("cpu", "memory")}
        any_request = any_request or bool(limits or requests)
        if len(limits) < 2 or any(
            parse_quantity(requests.get(name, value), target=name) != parse_quantity(value, target=name) for name, value in limits.items()
        ):
            guaranteed = False
    if not any_request:
        return "BestEffort"
    return "Guaranteed" if guaranteed else "Burstable"
