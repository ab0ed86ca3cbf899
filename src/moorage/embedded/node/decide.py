"""What the node does next for one pod: which containers start, which stop, when to look again. Pure; the kubelet's computePodActions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from moorage.clock import parse_rfc3339
from moorage.embedded.node.records import RestartDelay, View, Views, Waiting, go_duration, is_sidecar, restart_at, view_of
from moorage.specs.manifest import Manifest

DEFAULT_GRACE = timedelta(seconds=30)
DEADLINE_MESSAGE = "Pod was active on the node longer than the specified deadline"


@dataclass(frozen=True, slots=True)
class Ending:
    """Why every container of the pod is to stop. `failed` makes the pod's phase Failed with this reason and message."""

    grace: timedelta
    reason: str = ""
    message: str = ""
    failed: bool = False


@dataclass(frozen=True, slots=True)
class Stop:
    name: str
    grace: timedelta
    message: str


@dataclass(frozen=True, slots=True)
class Decision:
    """Args:
    start: containers to start now.
    stop: containers to stop now; repeated while they stop.
    waiting: why those that do not run do not.
    wake_at: look again then, even if nothing happens.
    over: nothing runs and nothing will.
    """

    start: tuple[str, ...] = ()
    stop: tuple[Stop, ...] = ()
    waiting: Mapping[str, Waiting] = field(default_factory=dict)
    wake_at: datetime | None = None
    over: bool = False


def ending(pod: Manifest, started: datetime | None, now: datetime) -> Ending | None:
    """Whether the pod is to end: it is being deleted, its deadline is over, or it has ended already."""
    metadata, spec, status = pod["metadata"], pod["spec"], pod.get("status") or {}
    if deleted := metadata.get("deletionTimestamp"):
        return Ending(max(timedelta(0), parse_rfc3339(deleted) - now), message="Stopping container {name}")
    if status.get("phase") in ("Succeeded", "Failed"):
        return Ending(grace_of(spec), status.get("reason") or "", status.get("message") or "", failed=status["phase"] == "Failed")
    deadline = spec.get("activeDeadlineSeconds")
    if deadline is not None and started is not None and now >= started + timedelta(seconds=deadline):
        return Ending(grace_of(spec), "DeadlineExceeded", DEADLINE_MESSAGE, failed=True)
    return None


def grace_of(spec: Manifest) -> timedelta:
    seconds = spec.get("terminationGracePeriodSeconds")
    return DEFAULT_GRACE if seconds is None else timedelta(seconds=seconds)


def decide(pod: Manifest, views: Views, delays: Mapping[str, RestartDelay], now: datetime, end: Ending | None) -> Decision:
    """The next step, from what is."""
    if end is not None:
        return _wind_down(pod, views, end.grace, end.message or end.reason)
    spec = pod["spec"]
    policy = spec.get("restartPolicy") or "Always"
    inits, mains = spec.get("initContainers") or (), spec["containers"]
    begun = any(view_of(views, main).attempt is not None for main in mains)
    if not begun and policy == "Never" and any(not is_sidecar(init) and _failed(view_of(views, init)) for init in inits):
        return _wind_down(pod, views, grace_of(spec), "Init container failed")
    if begun and all(_finished(view_of(views, main), policy) for main in mains):
        return _wind_down(pod, views, grace_of(spec), "Stopping container {name}")
    plan = _Plan(pod, delays, now)
    blocked = False
    for init in inits:
        view = view_of(views, init)
        if is_sidecar(init):
            if view.attempt is not None or not blocked:
                plan.keep(view, "Always")
            blocked = blocked or not (view.started or begun)
        elif not begun:
            if not blocked and not _succeeded(view):
                plan.keep(view, "OnFailure")
            blocked = blocked or not _succeeded(view)
    for main in mains:
        if not blocked:
            plan.keep(view_of(views, main), policy)
    return plan.decision()


@dataclass(slots=True)
class _Plan:
    pod: Manifest
    delays: Mapping[str, RestartDelay]
    now: datetime
    start: list[str] = field(default_factory=list)
    stop: list[Stop] = field(default_factory=list)
    waiting: dict[str, Waiting] = field(default_factory=dict)
    wake: list[datetime] = field(default_factory=list)

    def keep(self, view: View, policy: str) -> None:
        """Have the container run as `policy` wants it."""
        if view.running:
            if view.unhealthy:
                self.stop.append(Stop(view.name, grace_of(self.pod["spec"]), view.unhealthy))
            return
        if view.attempt is None:
            self.start.append(view.name)
            return
        if view.exit is None or _finished(view, policy):
            return
        entry = self.delays.get(view.name)
        when = restart_at(entry, view.exit.finished)
        # An end that lies in the future was noted before the clock was set back: nobody can tell how long ago that is.
        if when <= self.now or entry is None or view.exit.finished > self.now + entry.delay:
            self.start.append(view.name)
            return
        metadata = self.pod["metadata"]
        about = f"container={view.name} pod={metadata['name']}_{metadata['namespace']}({metadata['uid']})"
        self.waiting[view.name] = ("CrashLoopBackOff", f"back-off {go_duration(entry.delay)} restarting failed {about}")
        self.wake.append(when)

    def decision(self) -> Decision:
        started, deadline = (self.pod.get("status") or {}).get("startTime"), self.pod["spec"].get("activeDeadlineSeconds")
        if started and deadline is not None:
            self.wake.append(parse_rfc3339(started) + timedelta(seconds=deadline))
        return Decision(tuple(self.start), tuple(self.stop), self.waiting, min(self.wake, default=None))


def _wind_down(pod: Manifest, views: Views, grace: timedelta, message: str) -> Decision:
    """Everything but sidecars at once, then the sidecars one by one, the last one first."""
    spec = pod["spec"]
    inits = spec.get("initContainers") or ()
    first = [c["name"] for c in (*(init for init in inits if not is_sidecar(init)), *spec["containers"]) if view_of(views, c).running]
    names = first or [init["name"] for init in reversed(inits) if is_sidecar(init) and view_of(views, init).running][:1]
    if not names:
        return Decision(over=True)
    return Decision(stop=tuple(Stop(name, grace, message.replace("{name}", name)) for name in names))


def _finished(view: View, policy: str) -> bool:
    """Ended, and not to be started again."""
    return view.exit is not None and (policy == "Never" or (policy == "OnFailure" and view.exit.code == 0))


def _failed(view: View) -> bool:
    return view.exit is not None and view.exit.code != 0


def _succeeded(view: View) -> bool:
    return view.exit is not None and view.exit.code == 0
