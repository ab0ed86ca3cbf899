"""The cells of built-in kinds in `kubectl get` (Kubernetes' pkg/printers/internalversion/printers.go). Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from moorage.clock import parse_rfc3339
from moorage.embedded.durations import human_duration
from moorage.specs.manifest import Manifest

NONE, UNKNOWN = "<none>", "<unknown>"
_ROLE = "node-role.kubernetes.io/"


def age(manifest: Manifest, now: datetime) -> str:
    return _since(manifest["metadata"].get("creationTimestamp"), now)


def _since(moment: str | None, now: datetime) -> str:
    return human_duration(now - parse_rfc3339(moment)) if moment else UNKNOWN


def _spec(manifest: Manifest) -> dict[str, Any]:
    return manifest.get("spec") or {}


def _status(manifest: Manifest) -> dict[str, Any]:
    return manifest.get("status") or {}


def _joined(values: Sequence[Any]) -> str:
    return ",".join(str(value) for value in values) or NONE


def _selector(selector: Mapping[str, Any] | None) -> str:
    selector = selector or {}
    terms = [f"{key}={value}" for key, value in sorted((selector.get("matchLabels") or {}).items())]
    for wanted in selector.get("matchExpressions") or ():
        values = ",".join(sorted(wanted.get("values") or ()))
        match wanted.get("operator"):
            case "In" | "NotIn" as operator:
                terms.append(f"{wanted['key']} {operator.lower()} ({values})")
            case "Exists":
                terms.append(wanted["key"])
            case _:
                terms.append(f"!{wanted['key']}")
    return ",".join(terms) or NONE


def _containers(spec: Mapping[str, Any]) -> list[str]:
    found = spec.get("containers") or ()
    return [_joined([c.get("name", "") for c in found]), _joined([c.get("image", "") for c in found])]


def _template(manifest: Manifest) -> list[str]:
    return _containers((_spec(manifest).get("template") or {}).get("spec") or {})


def _pod(pod: Manifest, now: datetime) -> list[Any]:
    spec, status = _spec(pod), _status(pod)
    reason, restarts, last_restart, ready = pod_summary(pod)
    total = len(spec.get("containers") or ()) + sum(1 for c in spec.get("initContainers") or () if c.get("restartPolicy") == "Always")
    shown: Any = restarts if not last_restart else f"{restarts} ({_since(last_restart, now)} ago)"
    gates = spec.get("readinessGates") or ()
    met = {c.get("type") for c in status.get("conditions") or () if c.get("status") == "True"}
    readiness = f"{sum(g.get('conditionType') in met for g in gates)}/{len(gates)}" if gates else NONE
    addresses = [entry.get("ip") for entry in status.get("podIPs") or ()] or [status.get("podIP")]
    return [
        f"{ready}/{total}", reason, str(shown), age(pod, now), addresses[0] or NONE, spec.get("nodeName") or NONE,
        status.get("nominatedNodeName") or NONE, readiness,
    ]  # fmt: skip


def pod_summary(pod: Manifest) -> tuple[str, int, str | None, int]:
    """STATUS, restarts, when the last restart was, and how many containers are ready."""
    spec, status = _spec(pod), _status(pod)
    reason = str(status.get("reason") or status.get("phase") or "Unknown")
    sidecars = {c["name"] for c in spec.get("initContainers") or () if c.get("restartPolicy") == "Always"}
    restarts = ready = sidecar_restarts = 0
    last: str | None = None
    sidecar_last: str | None = None
    initializing = False
    inits = status.get("initContainerStatuses") or []
    for index, container in enumerate(inits):
        restarts += container.get("restartCount", 0)
        last = max(filter(None, (last, _last_end(container))), default=None)
        if container["name"] in sidecars:
            sidecar_restarts += container.get("restartCount", 0)
            sidecar_last = max(filter(None, (sidecar_last, _last_end(container))), default=None)
            ready += bool(container.get("ready"))
        if initializing:
            continue
        state = container.get("state") or {}
        ended, waiting = state.get("terminated"), state.get("waiting") or {}
        if (ended is not None and ended.get("exitCode") == 0) or (container["name"] in sidecars and container.get("started")):
            continue
        initializing = True
        if ended is not None:
            reason = f"Init:{ended.get('reason') or _exit(ended)}"
        elif waiting.get("reason") and waiting["reason"] != "PodInitializing":
            reason = f"Init:{waiting['reason']}"
        else:
            reason = f"Init:{index}/{len(spec.get('initContainers') or inits)}"
    if not initializing:
        restarts, last = sidecar_restarts, sidecar_last
        running = False
        for container in reversed(status.get("containerStatuses") or []):
            restarts += container.get("restartCount", 0)
            last = max(filter(None, (last, _last_end(container))), default=None)
            state = container.get("state") or {}
            if (state.get("waiting") or {}).get("reason"):
                reason = state["waiting"]["reason"]
            elif state.get("terminated") is not None:
                reason = state["terminated"].get("reason") or _exit(state["terminated"])
            elif container.get("ready") and state.get("running") is not None:
                running = True
                ready += 1
        if reason == "Completed" and running:
            conditions = {c.get("type"): c.get("status") for c in status.get("conditions") or ()}
            reason = "Running" if conditions.get("Ready") == "True" else "NotReady"
    if "deletionTimestamp" in pod["metadata"]:
        reason = "Unknown" if status.get("reason") == "NodeLost" else "Terminating"
    return reason, restarts, last if restarts else None, ready


def _last_end(container: Mapping[str, Any]) -> str | None:
    found: str | None = ((container.get("lastState") or {}).get("terminated") or {}).get("finishedAt")
    return found


def _exit(ended: Mapping[str, Any]) -> str:
    return f"Signal:{ended['signal']}" if ended.get("signal") else f"ExitCode:{ended.get('exitCode', 0)}"


def _deployment(manifest: Manifest, now: datetime) -> list[Any]:
    spec, status = _spec(manifest), _status(manifest)
    ready = f"{status.get('readyReplicas', 0)}/{spec.get('replicas', 1)}"
    head = [ready, status.get("updatedReplicas", 0), status.get("availableReplicas", 0), age(manifest, now)]
    return [*head, *_template(manifest), _selector(spec.get("selector"))]


def _replica_set(manifest: Manifest, now: datetime) -> list[Any]:
    spec, status = _spec(manifest), _status(manifest)
    head = [spec.get("replicas", 1), status.get("replicas", 0), status.get("readyReplicas", 0), age(manifest, now)]
    return [*head, *_template(manifest), _selector(spec.get("selector"))]


def _stateful_set(manifest: Manifest, now: datetime) -> list[Any]:
    ready = f"{_status(manifest).get('readyReplicas', 0)}/{_spec(manifest).get('replicas', 1)}"
    return [ready, age(manifest, now), *_template(manifest)]


def _daemon_set(manifest: Manifest, now: datetime) -> list[Any]:
    spec, status = _spec(manifest), _status(manifest)
    names = ("desiredNumberScheduled", "currentNumberScheduled", "numberReady", "updatedNumberScheduled", "numberAvailable")
    chosen = ((spec.get("template") or {}).get("spec") or {}).get("nodeSelector") or {}
    shown = ",".join(f"{key}={value}" for key, value in sorted(chosen.items())) or NONE
    counts = [status.get(name, 0) for name in names]
    return [*counts, shown, age(manifest, now), *_template(manifest), _selector(spec.get("selector"))]


def _controller_revision(revision: Manifest, now: datetime) -> list[Any]:
    owner = next((one for one in revision["metadata"].get("ownerReferences") or () if one.get("controller")), None)
    group = str((owner or {}).get("apiVersion", "")).rpartition("/")[0]
    shown = f"{owner['kind'].lower()}{'.' + group if group else ''}/{owner['name']}" if owner else NONE
    return [shown, revision.get("revision", 0), age(revision, now)]


def _budget(budget: Manifest, now: datetime) -> list[Any]:
    spec = _spec(budget)
    bounds = [str(spec[name]) if spec.get(name) is not None else "N/A" for name in ("minAvailable", "maxUnavailable")]
    return [*bounds, _status(budget).get("disruptionsAllowed", 0), age(budget, now)]


def _job(manifest: Manifest, now: datetime) -> list[Any]:
    spec, status = _spec(manifest), _status(manifest)
    wanted = spec.get("completions")
    if wanted is None:
        parallelism = spec.get("parallelism", 1)
        completions = f"{status.get('succeeded', 0)}/1 of {parallelism}" if parallelism > 1 else f"{status.get('succeeded', 0)}/1"
    else:
        completions = f"{status.get('succeeded', 0)}/{wanted}"
    duration = ""
    if start := status.get("startTime"):
        end = parse_rfc3339(status["completionTime"]) if status.get("completionTime") else now
        duration = human_duration(end - parse_rfc3339(start))
    true = {c.get("type") for c in status.get("conditions") or () if c.get("status") == "True"}
    state = next((type_ for type_ in ("Complete", "Failed") if type_ in true), None)
    if state is None:
        state = (
            "Terminating" if "deletionTimestamp" in manifest["metadata"]
            else "Suspended" if "Suspended" in true
            else "FailureTarget" if "FailureTarget" in true
            else "SuccessCriteriaMet" if "SuccessCriteriaMet" in true
            else "Running"
        )  # fmt: skip
    return [state, completions, duration, age(manifest, now), *_template(manifest), _selector(spec.get("selector"))]


def _node(node: Manifest, now: datetime) -> list[Any]:
    spec, status, labels = _spec(node), _status(node), node["metadata"].get("labels") or {}
    ready = next((c.get("status") for c in status.get("conditions") or () if c.get("type") == "Ready"), None)
    words = {"True": "Ready", "False": "NotReady"}.get(str(ready), "Unknown" if ready is None else "NotReady")
    if spec.get("unschedulable"):
        words += ",SchedulingDisabled"
    roles = sorted(key.removeprefix(_ROLE) for key in labels if key.startswith(_ROLE))
    info = status.get("nodeInfo") or {}
    addresses = {entry.get("type"): entry.get("address") for entry in status.get("addresses") or ()}
    return [
        words, ",".join(roles) or NONE, age(node, now), info.get("kubeletVersion", ""), addresses.get("InternalIP", NONE),
        addresses.get("ExternalIP", NONE), info.get("osImage") or UNKNOWN, info.get("kernelVersion") or UNKNOWN,
        info.get("containerRuntimeVersion") or UNKNOWN,
    ]  # fmt: skip


def _service(service: Manifest, now: datetime) -> list[Any]:
    spec = _spec(service)
    balanced = [i.get("ip") or i.get("hostname") for i in (_status(service).get("loadBalancer") or {}).get("ingress") or ()]
    external = _joined([*balanced, *(spec.get("externalIPs") or ())])
    if spec.get("type") == "LoadBalancer" and external == NONE:
        external = "<pending>"
    if spec.get("type") == "ExternalName":
        external = spec.get("externalName", NONE)
    ports = [
        f"{port.get('port')}{':' + str(port['nodePort']) if port.get('nodePort') else ''}/{port.get('protocol', 'TCP')}"
        for port in spec.get("ports") or ()
    ]
    selector = ",".join(f"{key}={value}" for key, value in sorted((spec.get("selector") or {}).items())) or NONE
    return [spec.get("type", "ClusterIP"), spec.get("clusterIP") or NONE, external, _joined(ports), age(service, now), selector]


def _event(event: Manifest, now: datetime) -> list[Any]:
    about = event.get("involvedObject") or event.get("regarding") or {}
    series = event.get("series") or {}
    first = event.get("firstTimestamp") or event.get("deprecatedFirstTimestamp") or event.get("eventTime")
    last = series.get("lastObservedTime") or event.get("lastTimestamp") or event.get("deprecatedLastTimestamp") or first
    count = series.get("count") or event.get("count") or event.get("deprecatedCount") or 1
    source = (event.get("source") or event.get("deprecatedSource") or {}).get("component") or event.get("reportingComponent") or ""
    message = str(event.get("message") or event.get("note") or "").strip()
    seen = _since(last, now)
    return [
        seen, event.get("type", ""), event.get("reason", ""), f"{str(about.get('kind', '')).lower()}/{about.get('name', '')}",
        about.get("fieldPath", ""), source, message, _since(first, now), count, event["metadata"]["name"],
    ]  # fmt: skip


def _namespace(namespace: Manifest, now: datetime) -> list[Any]:
    return [_status(namespace).get("phase", "Active"), age(namespace, now)]


def _config_map(config_map: Manifest, now: datetime) -> list[Any]:
    return [len(config_map.get("data") or {}) + len(config_map.get("binaryData") or {}), age(config_map, now)]


def _secret(secret: Manifest, now: datetime) -> list[Any]:
    return [secret.get("type", "Opaque"), len(secret.get("data") or {}), age(secret, now)]


_MODES = {"ReadWriteOnce": "RWO", "ReadOnlyMany": "ROX", "ReadWriteMany": "RWX", "ReadWriteOncePod": "RWOP"}


def _modes(modes: Sequence[str] | None) -> str:
    return ",".join(_MODES.get(mode, mode) for mode in modes or ())


def _claim(claim: Manifest, now: datetime) -> list[Any]:
    spec, status = _spec(claim), _status(claim)
    phase = "Terminating" if "deletionTimestamp" in claim["metadata"] else status.get("phase", "")
    bound = bool(spec.get("volumeName"))
    capacity = (status.get("capacity") or {}).get("storage", "") if bound else ""
    modes = _modes(status.get("accessModes")) if bound else ""
    return [
        phase, spec.get("volumeName", ""), capacity, modes, spec.get("storageClassName", ""), "<unset>", age(claim, now),
        spec.get("volumeMode", "Filesystem"),
    ]  # fmt: skip


def _persistent_volume(volume: Manifest, now: datetime) -> list[Any]:
    spec, status = _spec(volume), _status(volume)
    claim = spec.get("claimRef") or {}
    phase = "Terminating" if "deletionTimestamp" in volume["metadata"] else status.get("phase", "")
    return [
        (spec.get("capacity") or {}).get("storage", ""), _modes(spec.get("accessModes")), spec.get("persistentVolumeReclaimPolicy", ""), phase,
        f"{claim.get('namespace', '')}/{claim.get('name', '')}" if claim else "", spec.get("storageClassName", ""), "<unset>",
        status.get("reason", ""), age(volume, now), spec.get("volumeMode", "Filesystem"),
    ]  # fmt: skip


def _endpoints(endpoints: Manifest, now: datetime) -> list[Any]:
    shown = [
        f"{address.get('ip')}:{port.get('port')}"
        for subset in endpoints.get("subsets") or ()
        for port in subset.get("ports") or ({"port": ""},)
        for address in subset.get("addresses") or ()
    ]
    return [_cut(shown, 3), age(endpoints, now)]


def _endpoint_slice(piece: Manifest, now: datetime) -> list[Any]:
    ports = [str(port.get("port", "*")) for port in piece.get("ports") or ()]
    addresses = [address for endpoint in piece.get("endpoints") or () for address in endpoint.get("addresses") or ()]
    return [
        piece.get("addressType", ""),
        _cut(ports, 3) if ports else "<unset>",
        _cut(addresses, 3) if addresses else "<unset>",
        age(piece, now),
    ]


def _cut(values: Sequence[str], limit: int) -> str:
    more = f" + {len(values) - limit} more..." if len(values) > limit else ""
    return (",".join(values[:limit]) or NONE) + more


def _storage_class(found: Manifest, now: datetime) -> list[Any]:
    return [
        found.get("provisioner", ""), found.get("reclaimPolicy", "Delete"), found.get("volumeBindingMode", "Immediate"),
        str(bool(found.get("allowVolumeExpansion"))).lower(), age(found, now),
    ]  # fmt: skip


def _priority_class(found: Manifest, now: datetime) -> list[Any]:
    return [found.get("value", 0), str(bool(found.get("globalDefault"))).lower(), age(found, now), found.get("preemptionPolicy", "")]


def _lease(lease: Manifest, now: datetime) -> list[Any]:
    return [_spec(lease).get("holderIdentity", ""), age(lease, now)]


def _quota(found: Manifest, now: datetime) -> list[Any]:
    status = _status(found)
    hard, used = status.get("hard") or {}, status.get("used") or {}
    shown = {name: f"{name}: {used.get(name, '0')}/{hard[name]}" for name in sorted(hard)}
    requests = ", ".join(text for name, text in shown.items() if not name.startswith("limits."))
    return [requests, ", ".join(text for name, text in shown.items() if name.startswith("limits.")), age(found, now)]


def _definition(crd: Manifest, now: datetime) -> list[Any]:
    spec = _spec(crd)
    versions = [f"{v.get('name')}{'(storage)' if v.get('storage') else ''}" for v in spec.get("versions") or () if v.get("served", True)]
    return [spec.get("scope", ""), ",".join(versions), *_created(crd, now)]


def _network_policy(policy: Manifest, now: datetime) -> list[Any]:
    return [_selector(_spec(policy).get("podSelector")), age(policy, now)]


def _webhooks(found: Manifest, now: datetime) -> list[Any]:
    return [len(found.get("webhooks") or ()), age(found, now)]


def _created(manifest: Manifest, now: datetime) -> list[Any]:
    return [manifest["metadata"].get("creationTimestamp", "")]


def _binding(binding: Manifest, now: datetime) -> list[Any]:
    reference = binding.get("roleRef") or {}
    subjects = binding.get("subjects") or ()
    users = [s.get("name") for s in subjects if s.get("kind") == "User"]
    groups = [s.get("name") for s in subjects if s.get("kind") == "Group"]
    accounts = [f"{s.get('namespace')}/{s.get('name')}" for s in subjects if s.get("kind") == "ServiceAccount"]
    shown = [", ".join(str(entry) for entry in entries) for entries in (users, groups, accounts)]
    return [f"{reference.get('kind')}/{reference.get('name')}", age(binding, now), *shown]


def _ingress(ingress: Manifest, now: datetime) -> list[Any]:
    spec = _spec(ingress)
    hosts = [rule.get("host") or "*" for rule in spec.get("rules") or ()]
    addresses = [i.get("ip") or i.get("hostname") for i in (_status(ingress).get("loadBalancer") or {}).get("ingress") or ()]
    ports = "80, 443" if spec.get("tls") else "80"
    return [spec.get("ingressClassName") or NONE, _cut(hosts or ["*"], 3), ",".join(map(str, addresses)), ports, age(ingress, now)]


Cells = Callable[[Manifest, datetime], Sequence[Any]]
_WORKLOAD = "Containers+ Images+ Selector+"

# Columns after Name; `~` stands for a space, `:type` defaults to string, a trailing `+` means only with -o wide.
BY_KIND: Mapping[str, tuple[str, Cells]] = {
    "Pod": ("Ready Status Restarts Age IP+ Node+ Nominated~Node+ Readiness~Gates+", _pod),
    "Deployment": (f"Ready Up-to-date:integer Available:integer Age {_WORKLOAD}", _deployment),
    "ReplicaSet": (f"Desired:integer Current:integer Ready:integer Age {_WORKLOAD}", _replica_set),
    "StatefulSet": ("Ready Age Containers+ Images+", _stateful_set),
    "DaemonSet": (
        f"Desired:integer Current:integer Ready:integer Up-to-date:integer Available:integer Node~Selector Age {_WORKLOAD}",
        _daemon_set,
    ),
    "ControllerRevision": ("Controller Revision Age", _controller_revision),
    "PodDisruptionBudget": ("Min~Available Max~Unavailable Allowed~Disruptions:integer Age", _budget),
    "Job": (f"Status Completions Duration Age {_WORKLOAD}", _job),
    "Node": ("Status Roles Age Version Internal-IP+ External-IP+ OS-Image+ Kernel-Version+ Container-Runtime+", _node),
    "Service": ("Type Cluster-IP External-IP Port(s) Age Selector+", _service),
    "Event": ("Last~Seen Type Reason Object Subobject+ Source+ Message First~Seen+ Count:integer+ Name+", _event),
    "Namespace": ("Status Age", _namespace),
    "ConfigMap": ("Data:integer Age", _config_map),
    "Secret": ("Type Data:integer Age", _secret),
    "PersistentVolumeClaim": ("Status Volume Capacity Access~Modes StorageClass VolumeAttributesClass Age VolumeMode+", _claim),
    "PersistentVolume": (
        "Capacity Access~Modes Reclaim~Policy Status Claim StorageClass VolumeAttributesClass Reason Age VolumeMode+",
        _persistent_volume,
    ),
    "Endpoints": ("Endpoints Age", _endpoints),
    "EndpointSlice": ("AddressType Ports Endpoints Age", _endpoint_slice),
    "StorageClass": ("Provisioner ReclaimPolicy VolumeBindingMode AllowVolumeExpansion Age", _storage_class),
    "PriorityClass": ("Value:integer Global-Default Age PreemptionPolicy", _priority_class),
    "Lease": ("Holder Age", _lease),
    "ClusterRole": ("Created~At", _created),
    "Role": ("Created~At", _created),
    "ClusterRoleBinding": ("Role Age Users+ Groups+ ServiceAccounts+", _binding),
    "RoleBinding": ("Role Age Users+ Groups+ ServiceAccounts+", _binding),
    "CustomResourceDefinition": ("Scope Versions Created~At", _definition),
    "ResourceQuota": ("Request Limit Age", _quota),
    "LimitRange": ("Created~At", _created),
    "NetworkPolicy": ("Pod-Selector Age", _network_policy),
    "MutatingWebhookConfiguration": ("Webhooks:integer Age", _webhooks),
    "ValidatingWebhookConfiguration": ("Webhooks:integer Age", _webhooks),
    "Ingress": ("Class Hosts Address Ports Age", _ingress),
}
