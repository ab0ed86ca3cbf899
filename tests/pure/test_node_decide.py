"""What the node does next for a pod, as tables."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from moorage.embedded.node.decide import DEADLINE_MESSAGE, Ending, decide, ending
from moorage.embedded.node.records import Exit, RestartDelay, View, go_duration, next_delay, restart_at

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)


def pod(*, inits: tuple[tuple[str, bool], ...] = (), mains: tuple[str, ...] = ("main",), **spec: Any) -> dict[str, Any]:
    init = [{"name": name, **({"restartPolicy": "Always"} if sidecar else {})} for name, sidecar in inits]
    body = {"restartPolicy": "Never", "initContainers": init, "containers": [{"name": name} for name in mains], **spec}
    return {"metadata": {"name": "p", "namespace": "ns", "uid": "u"}, "spec": body, "status": {}}


def up(name: str, *, started: bool = True, attempt: int = 0, unhealthy: str = "") -> View:
    return View(name, attempt, NOW - SECOND, started=started, unhealthy=unhealthy)


def down(name: str, code: int = 0, *, attempt: int = 0, ago: float = 0) -> View:
    end = Exit(code, "Error" if code else "Completed", NOW - timedelta(seconds=ago), NOW - timedelta(hours=1))
    return View(name, attempt, NOW - timedelta(hours=1), exit=end)


def views(*items: View) -> dict[str, View]:
    return {item.name: item for item in items}


SIDE = (("fetch", False), ("upload", True), ("check", False))

STARTS = {
    "the first init container alone": (pod(inits=SIDE), views(), ("fetch",)),
    "nothing while it runs": (pod(inits=SIDE), views(up("fetch")), ()),
    "the sidecar after it": (pod(inits=SIDE), views(down("fetch")), ("upload",)),
    "nothing while the sidecar's startup probe is open": (pod(inits=SIDE), views(down("fetch"), up("upload", started=False)), ()),
    "the next init container once the sidecar is up": (pod(inits=SIDE), views(down("fetch"), up("upload")), ("check",)),
    "all main containers at once": (pod(inits=SIDE, mains=("a", "b")), views(down("fetch"), up("upload"), down("check")), ("a", "b")),
    "a sidecar that died, whatever the policy": (
        pod(inits=SIDE),
        views(down("fetch"), down("upload"), down("check"), up("main")),
        ("upload",),
    ),
    "a failed main container by policy Always": (pod(restartPolicy="Always"), views(down("main", 1)), ("main",)),
    "a successful one too": (pod(restartPolicy="Always"), views(down("main")), ("main",)),
    "not a successful one by OnFailure": (pod(restartPolicy="OnFailure"), views(down("main")), ()),
    "not a failed one by Never": (pod(), views(down("main", 1)), ()),
    "a failed init container by OnFailure": (pod(inits=SIDE, restartPolicy="OnFailure"), views(down("fetch", 1)), ("fetch",)),
}


@pytest.mark.parametrize("case", STARTS)
def test_what_starts_now(case: str) -> None:
    manifest, seen, wanted = STARTS[case]
    assert decide(manifest, seen, {}, NOW, None).start == wanted


def test_sidecars_stop_after_the_main_containers_the_last_one_first() -> None:
    manifest = pod(inits=(("s1", True), ("s2", True)))
    steps = [
        (views(up("s1"), up("s2"), up("main")), ("main",)),
        (views(up("s1"), up("s2"), down("main")), ("s2",)),
        (views(up("s1"), down("s2"), down("main")), ("s1",)),
    ]
    for seen, wanted in steps:
        assert tuple(stop.name for stop in decide(manifest, seen, {}, NOW, Ending(SECOND)).stop) == wanted
    assert decide(manifest, views(down("s1"), down("s2"), down("main")), {}, NOW, Ending(SECOND)).over


def test_sidecars_of_a_finished_pod_are_stopped_with_the_pods_grace() -> None:
    manifest = pod(inits=(("s", True),), terminationGracePeriodSeconds=7)
    (stop,) = decide(manifest, views(up("s"), down("main")), {}, NOW, None).stop
    assert (stop.name, stop.grace) == ("s", timedelta(seconds=7))


def test_a_failed_init_container_ends_a_pod_that_never_restarts() -> None:
    manifest = pod(inits=(("s", True), ("init", False)))
    decision = decide(manifest, views(up("s"), down("init", 1)), {}, NOW, None)
    assert [stop.name for stop in decision.stop] == ["s"]
    assert decide(manifest, views(down("s"), down("init", 1)), {}, NOW, None).over


def test_an_unhealthy_container_is_stopped_and_nothing_else() -> None:
    decision = decide(pod(mains=("a", "b")), views(up("a", unhealthy="failed liveness"), up("b")), {}, NOW, None)
    assert [(stop.name, stop.message) for stop in decision.stop] == [("a", "failed liveness")]


def test_a_container_is_held_back_until_its_delay_is_over() -> None:
    manifest, delays = pod(restartPolicy="Always"), {"main": RestartDelay(timedelta(seconds=20), NOW - timedelta(seconds=25))}
    held = decide(manifest, views(down("main", 1, ago=5)), delays, NOW, None)
    assert held.start == ()
    assert held.wake_at == NOW + timedelta(seconds=15)
    assert held.waiting["main"] == ("CrashLoopBackOff", "back-off 20s restarting failed container=main pod=p_ns(u)")
    assert decide(manifest, views(down("main", 1, ago=20)), delays, NOW, None).start == ("main",)


def test_a_container_that_ended_before_the_clock_was_set_back_starts_at_once() -> None:
    manifest, delays = pod(restartPolicy="Always"), {"main": RestartDelay(timedelta(seconds=20), NOW + timedelta(days=1))}
    assert decide(manifest, views(down("main", 1, ago=-86_400)), delays, NOW, None).start == ("main",)


def test_delays_double_to_five_minutes_and_are_forgotten_after_ten_quiet_ones() -> None:
    entry, seen = None, []
    for _ in range(7):
        entry = next_delay(entry, NOW)
        seen.append(entry.delay.total_seconds())
    assert seen == [10, 20, 40, 80, 160, 300, 300]
    assert next_delay(entry, NOW + timedelta(minutes=10, seconds=1)).delay == timedelta(seconds=10)


def test_the_first_restart_is_immediate() -> None:
    assert restart_at(None, NOW) == NOW
    assert restart_at(RestartDelay(timedelta(seconds=10), NOW), NOW + SECOND) == NOW + 11 * SECOND


@pytest.mark.parametrize(("seconds", "text"), [(10, "10s"), (80, "1m20s"), (300, "5m0s")])
def test_durations_read_as_in_go(seconds: int, text: str) -> None:
    assert go_duration(timedelta(seconds=seconds)) == text


def test_a_deadline_ends_the_pod_and_is_looked_forward_to() -> None:
    manifest = pod(activeDeadlineSeconds=60)
    manifest["status"] = {"startTime": "2026-11-22T12:00:00Z"}
    assert ending(manifest, NOW, NOW + 59 * SECOND) is None
    assert decide(manifest, views(up("main")), {}, NOW, None).wake_at == NOW + 60 * SECOND
    end = ending(manifest, NOW, NOW + 60 * SECOND)
    assert end is not None
    assert (end.reason, end.message, end.failed) == ("DeadlineExceeded", DEADLINE_MESSAGE, True)


def test_deletion_leaves_what_is_left_of_the_grace() -> None:
    manifest = pod()
    manifest["metadata"]["deletionTimestamp"] = "2026-11-22T12:00:30Z"
    first, late = ending(manifest, NOW, NOW), ending(manifest, NOW, NOW + timedelta(minutes=1))
    assert first is not None
    assert late is not None
    assert (first.grace, late.grace) == (30 * SECOND, 0 * SECOND)
