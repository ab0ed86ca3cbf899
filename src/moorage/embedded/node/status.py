"""A pod's status from what its containers do: phase, conditions and container states as the kubelet computes them. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from moorage.clock import rfc3339
from moorage.embedded.node.decide import Ending
from moorage.embedded.node.records import Exit, View, Views, Waiting, is_sidecar, view_of
from moorage.specs.manifest import Manifest

# The condition types that the node decides; all others on the pod are somebody else's and stay.
OWN_CONDITIONS = ("PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady")


@dataclass(frozen=True, slots=True)
class Sandbox:
    """What the pod has on its node: its addresses once it is set up."""

    pod_ip: str
    host_ip: str
    started: datetime
    up: bool = True


def status_of(
    pod: Manifest,
    views: Views,
    waiting: Mapping[str, Waiting],
    sandbox: Sandbox,
    now: datetime,
    *,
    end: Ending | None = None,
    over: bool = False,
) -> Manifest:
    """The pod's whole status.

    Args:
        waiting: why containers that do not run do not (`decide.Decision.waiting` and what failed at start).
        end: set while the pod is to end.
        over: every container has stopped and none starts again.
    """
    before = pod.get("status") or {}
    spec = pod["spec"]
    begun = any(view_of(views, main).attempt is not None for main in spec["containers"])
    inits = [container_status(init, view_of(views, init), waiting, initializing=True) for init in spec.get("initContainers") or ()]
    pending_init = not begun and not _initialized(spec, views)
    mains = [container_status(main, view_of(views, main), waiting, initializing=pending_init) for main in spec["containers"]]
    status: Manifest = {key: value for key, value in before.items() if key in ("qosClass", "nominatedNodeName", "observedGeneration")}
    status["phase"] = _phase(pod, mains, inits, end, over=over)
    if end is not None and end.failed:
        status |= {key: value for key, value in (("reason", end.reason), ("message", end.message)) if value}
    status.setdefault("qosClass", qos_class(spec))
    status |= {"hostIP": sandbox.host_ip, "hostIPs": [{"ip": sandbox.host_ip}], "startTime": rfc3339(sandbox.started)}
    if sandbox.pod_ip:
        status |= {"podIP": sandbox.pod_ip, "podIPs": [{"ip": sandbox.pod_ip}]}
    status["containerStatuses"] = mains
    if inits:
        status["initContainerStatuses"] = inits
    status["conditions"] = _conditions(pod, status, views, now, up=sandbox.up and not over)
    return status


def phase(spec: Manifest, mains: Sequence[Manifest], inits: Sequence[Manifest], *, terminal: bool = False) -> str:
    """The phase that the container statuses add up to (kubelet_pods.go, getPhase). `terminal`: nothing will be started again."""
    policy = spec.get("restartPolicy") or "Always"
    sidecars = {init["name"] for init in spec.get("initContainers") or () if is_sidecar(init)}
    regular = [init for init in inits if init["name"] not in sidecars]
    begun = any(_state(main) != "waiting" or main.get("lastState") for main in mains)
    if policy == "Never" and any(_last_code(init) not in (0, None) for init in regular):
        return "Failed"
    pending = any(_last_code(init) is None for init in regular)
    sidecar_pending = any(
        (_state(init) == "running" and not init.get("started")) or (_state(init) == "waiting" and not init.get("lastState"))
        for init in inits
        if init["name"] in sidecars
    )
    running = sum(_state(item) == "running" for item in (*mains, *(init for init in inits if init["name"] in sidecars)))
    waiting = sum(_state(main) == "waiting" and not main.get("lastState") for main in mains)
    stopped = [main for main in mains if _state(main) == "terminated" or (_state(main) == "waiting" and main.get("lastState"))]
    succeeded = all(_state(main) == "terminated" and main["state"]["terminated"]["exitCode"] == 0 for main in stopped)
    if not terminal and (pending or (sidecar_pending and not begun) or waiting):
        return "Pending"
    if running:
        return "Running"
    if not stopped:
        return "Failed" if terminal else "Pending"
    if terminal:
        return "Succeeded" if succeeded and len(stopped) == len(mains) else "Failed"
    if policy == "Always":
        return "Running"
    if succeeded:
        return "Succeeded"
    return "Failed" if policy == "Never" else "Running"


def _phase(pod: Manifest, mains: Sequence[Manifest], inits: Sequence[Manifest], end: Ending | None, *, over: bool) -> str:
    before = (pod.get("status") or {}).get("phase")
    if before in ("Succeeded", "Failed"):
        return str(before)
    if end is not None and end.failed:
        return "Failed" if over else str(before or "Pending")
    return phase(pod["spec"], mains, inits, terminal=over and end is not None)


def container_status(container: Manifest, view: View, waiting: Mapping[str, Waiting], *, initializing: bool) -> Manifest:
    """One entry of containerStatuses or initContainerStatuses."""
    init = "restartPolicy" not in container and initializing
    state, last = _states(view, waiting, initializing=initializing)
    running = view.running
    if running:
        ready, started = view.ready and view.started, view.started
    else:
        # A regular init container counts as ready once it has succeeded.
        ready, started = init and view.exit is not None and view.exit.code == 0, False
    return {
        "name": container["name"],
        "image": container.get("image", ""),
        "imageID": "",
        "containerID": view.container_id,
        "restartCount": view.attempt or 0,
        "ready": ready,
        "started": started,
        "state": state,
        "lastState": last,
    }


def _states(view: View, waiting: Mapping[str, Waiting], *, initializing: bool) -> tuple[Manifest, Manifest]:
    last = {"terminated": terminated(view.last)} if view.last else {}
    if view.running_since is not None and view.running:
        return {"running": {"startedAt": rfc3339(view.running_since)}}, last
    reason = waiting.get(view.name) or view.waiting
    if view.exit is not None:
        if reason is None:
            return {"terminated": terminated(view.exit)}, last
        return {"waiting": _waiting(reason)}, {"terminated": terminated(view.exit)}
    default = ("PodInitializing", "") if initializing else ("ContainerCreating", "")
    return {"waiting": _waiting(reason or default)}, last


def _waiting(reason: Waiting) -> Manifest:
    return {"reason": reason[0], "message": reason[1]} if reason[1] else {"reason": reason[0]}


def terminated(end: Exit) -> Manifest:
    """ContainerStateTerminated."""
    state: Manifest = {
        "exitCode": end.code,
        "reason": end.reason,
        "startedAt": rfc3339(end.started) if end.started else None,
        "finishedAt": rfc3339(end.finished),
    }
    if end.container_id:
        state["containerID"] = end.container_id
    # Kubernetes' convention 128+N for a process ended by signal N leaves `signal` out; it is kept only where the code does not say it.
    if end.message:
        state["message"] = end.message
    return state


def _state(item: Manifest) -> str:
    return next(iter(item["state"]), "waiting")


def _last_code(item: Manifest) -> int | None:
    """The exit code an init container ended with; None while that is open."""
    for state in (item["state"], item.get("lastState") or {} if _state(item) == "waiting" else {}):
        if "terminated" in state:
            return int(state["terminated"]["exitCode"])
    return None


def _initialized(spec: Manifest, views: Views) -> bool:
    return not _incomplete(spec, views)


def _incomplete(spec: Manifest, views: Views) -> list[str]:
    names = []
    for init in spec.get("initContainers") or ():
        view = view_of(views, init)
        done = view.started if is_sidecar(init) else view.exit is not None and view.exit.code == 0
        if not done:
            names.append(init["name"])
    return names


def _conditions(pod: Manifest, status: Manifest, views: Views, now: datetime, *, up: bool) -> list[Manifest]:
    spec, ended = pod["spec"], status["phase"] if status["phase"] in ("Succeeded", "Failed") else ""
    begun = any(view_of(views, main).attempt is not None for main in spec["containers"])
    incomplete = [] if begun else _incomplete(spec, views)
    if status["phase"] == "Succeeded":
        initialized: Waiting | None = ("PodCompleted", "")
        done = True
    else:
        done = not incomplete
        initialized = None if done else ("ContainersNotInitialized", f"containers with incomplete status: [{' '.join(incomplete)}]")
    unready = _unready(spec, status)
    if ended:
        contained: Waiting | None = ("PodCompleted" if ended == "Succeeded" else "PodFailed", "")
    else:
        contained = ("ContainersNotReady", f"containers with unready status: [{' '.join(unready)}]") if unready else None
    gates = _closed_gates(pod)
    ready = contained or (("ReadinessGatesNotReady", gates) if gates else None)
    wanted = {
        "PodReadyToStartContainers": (up, None),
        "Initialized": (done, initialized),
        "Ready": (ready is None, ready),
        "ContainersReady": (contained is None, contained),
    }
    known = {item["type"]: item for item in (pod.get("status") or {}).get("conditions") or ()}
    own = [_condition(type, holds, why, known.get(type), now) for type, (holds, why) in wanted.items()]
    return own + [item for type, item in known.items() if type not in OWN_CONDITIONS]


def _unready(spec: Manifest, status: Manifest) -> list[str]:
    sidecars = {init["name"] for init in spec.get("initContainers") or () if is_sidecar(init)}
    items = [*status["containerStatuses"], *(item for item in status.get("initContainerStatuses") or () if item["name"] in sidecars)]
    return [item["name"] for item in items if not item["ready"]]


def _closed_gates(pod: Manifest) -> str:
    known = {item["type"]: item["status"] for item in (pod.get("status") or {}).get("conditions") or ()}
    closed = [gate["conditionType"] for gate in pod["spec"].get("readinessGates") or () if known.get(gate["conditionType"]) != "True"]
    return "; ".join(f'corresponding condition of pod readiness gate "{name}" does not exist or is not True.' for name in closed)


def _condition(type: str, holds: bool, why: Waiting | None, before: Manifest | None, now: datetime) -> Manifest:
    condition: Manifest = {"type": type, "status": "True" if holds else "False", "lastProbeTime": None}
    changed = before is None or before.get("status") != condition["status"]
    condition["lastTransitionTime"] = rfc3339(now) if changed or before is None else before.get("lastTransitionTime")
    if why:
        condition["reason"] = why[0]
        if why[1]:
            condition["message"] = why[1]
    return condition


def qos_class(spec: Manifest) -> str:
    """Guaranteed, Burstable or BestEffort, from requests and limits of CPU and memory."""
    containers: Iterable[Manifest] = [*spec["containers"], *(spec.get("initContainers") or ())]
    resources = [container.get("resources") or {} for container in containers]
    if not any((item.get(kind) or {}).get(name) for item in resources for kind in ("requests", "limits") for name in ("cpu", "memory")):
        return "BestEffort"
    for item in resources:
        limits, requests = item.get("limits") or {}, item.get("requests") or {}
        if any(not limits.get(name) or requests.get(name, limits.get(name)) != limits.get(name) for name in ("cpu", "memory")):
            return "Burstable"
    return "Guaranteed"
