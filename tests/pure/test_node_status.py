"""Phase, conditions and container states, as tables."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from moorage.embedded.node.decide import Ending
from moorage.embedded.node.records import Exit, View
from moorage.embedded.node.status import Sandbox, qos_class, status_of

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
SANDBOX = Sandbox("127.16.0.9", "127.0.0.1", NOW)


def pod(policy: str = "Never", *, inits: tuple[dict[str, Any], ...] = (), **more: Any) -> dict[str, Any]:
    spec = {"restartPolicy": policy, "containers": [{"name": "main", "image": "i"}], "initContainers": list(inits)}
    return {"metadata": {"name": "p", "namespace": "ns", "uid": "u"}, "spec": spec, "status": {}, **more}


def running(name: str = "main", *, ready: bool = True, started: bool = True) -> View:
    return View(name, 0, NOW, ready=ready, started=started, container_id="moorage://x")


def ended(code: int, name: str = "main", reason: str = "") -> View:
    return View(name, 0, NOW, exit=Exit(code, reason or ("Error" if code else "Completed"), NOW, NOW))


INIT, SIDE = {"name": "init"}, {"name": "side", "restartPolicy": "Always"}

PHASES = {
    "nothing started": (pod(), (), "Pending"),
    "running": (pod(), (running(),), "Running"),
    "running, not ready": (pod(), (running(ready=False),), "Running"),
    "succeeded": (pod(), (ended(0),), "Succeeded"),
    "failed": (pod(), (ended(1),), "Failed"),
    "failed and to be restarted": (pod("OnFailure"), (ended(1),), "Running"),
    "succeeded on failure only": (pod("OnFailure"), (ended(0),), "Succeeded"),
    "ended and always restarted": (pod("Always"), (ended(0),), "Running"),
    "init running": (pod(inits=(INIT,)), (running("init"),), "Pending"),
    "init done": (pod(inits=(INIT,)), (ended(0, "init"),), "Pending"),
    "init failed": (pod(inits=(INIT,)), (ended(1, "init"),), "Failed"),
    "init failed, again": (pod("Always", inits=(INIT,)), (ended(1, "init"),), "Pending"),
    "sidecar starting": (pod(inits=(SIDE,)), (running("side", started=False),), "Pending"),
    "sidecar still running after main": (pod(inits=(SIDE,)), (running("side"), ended(0)), "Running"),
    "sidecar failed, main succeeded": (pod(inits=(SIDE,)), (ended(1, "side"), ended(0)), "Succeeded"),
}


@pytest.mark.parametrize("case", PHASES)
def test_the_phase(case: str) -> None:
    manifest, seen, wanted = PHASES[case]
    assert status_of(manifest, {view.name: view for view in seen}, {}, SANDBOX, NOW)["phase"] == wanted


def conditions(status: dict[str, Any]) -> dict[str, tuple[str, str]]:
    return {item["type"]: (item["status"], item.get("reason", "")) for item in status["conditions"]}


def test_the_conditions_of_a_ready_pod() -> None:
    assert conditions(status_of(pod(), {"main": running()}, {}, SANDBOX, NOW)) == {
        "PodReadyToStartContainers": ("True", ""),
        "Initialized": ("True", ""),
        "Ready": ("True", ""),
        "ContainersReady": ("True", ""),
    }


def test_the_conditions_of_a_pod_that_initializes_name_what_is_open() -> None:
    status = status_of(pod(inits=(INIT, SIDE)), {"init": running("init")}, {}, SANDBOX, NOW)
    assert conditions(status)["Initialized"] == ("False", "ContainersNotInitialized")
    assert status["conditions"][1]["message"] == "containers with incomplete status: [init side]"
    assert status["containerStatuses"][0]["state"] == {"waiting": {"reason": "PodInitializing"}}


@pytest.mark.parametrize(("code", "reason"), [(0, "PodCompleted"), (1, "PodFailed")])
def test_the_conditions_of_an_ended_pod(code: int, reason: str) -> None:
    seen = conditions(status_of(pod(), {"main": ended(code)}, {}, SANDBOX, NOW, over=True))
    assert seen["Ready"] == ("False", reason)
    assert seen["ContainersReady"] == ("False", reason)
    assert seen["PodReadyToStartContainers"] == ("False", "")


def test_conditions_of_others_stay_and_ours_keep_their_time_until_they_change() -> None:
    first = status_of(pod(), {"main": running(ready=False)}, {}, SANDBOX, NOW)
    first["conditions"].append({"type": "PodScheduled", "status": "True"})
    later = status_of({**pod(), "status": first}, {"main": running()}, {}, SANDBOX, NOW + timedelta(minutes=1))
    times = {item["type"]: item.get("lastTransitionTime") for item in later["conditions"]}
    assert times["Ready"] == "2026-11-22T12:01:00Z"
    assert times["Initialized"] == "2026-11-22T12:00:00Z"
    assert "PodScheduled" in times


def test_a_status_computed_from_its_own_result_is_the_same() -> None:
    first = status_of(pod(inits=(INIT, SIDE)), {"init": ended(0, "init"), "side": running("side")}, {}, SANDBOX, NOW)
    again = status_of(
        {**pod(inits=(INIT, SIDE)), "status": first},
        {"init": ended(0, "init"), "side": running("side")},
        {},
        SANDBOX,
        NOW + timedelta(hours=1),
    )
    assert again == first


def test_a_held_back_container_waits_and_shows_its_last_end() -> None:
    status = status_of(pod("Always"), {"main": ended(1)}, {"main": ("CrashLoopBackOff", "back-off 10s")}, SANDBOX, NOW)
    main = status["containerStatuses"][0]
    assert main["state"] == {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}}
    assert main["lastState"]["terminated"]["exitCode"] == 1
    assert status["phase"] == "Running"


def test_a_pod_past_its_deadline_fails_only_once_nothing_runs() -> None:
    end = Ending(timedelta(seconds=1), "DeadlineExceeded", "late", failed=True)
    before = {**pod(), "status": {"phase": "Running"}}
    assert status_of(before, {"main": running()}, {}, SANDBOX, NOW, end=end)["phase"] == "Running"
    after = status_of(before, {"main": ended(143)}, {}, SANDBOX, NOW, end=end, over=True)
    assert (after["phase"], after["reason"], after["message"]) == ("Failed", "DeadlineExceeded", "late")


def test_a_deleted_pod_that_never_started_fails() -> None:
    assert status_of(pod(), {}, {}, SANDBOX, NOW, end=Ending(timedelta(0)), over=True)["phase"] == "Failed"


@pytest.mark.parametrize(
    ("resources", "wanted"),
    [
        ({}, "BestEffort"),
        ({"requests": {"cpu": "1"}}, "Burstable"),
        ({"limits": {"cpu": "1", "memory": "1Gi"}}, "Guaranteed"),
        ({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}}, "Burstable"),
    ],
)
def test_the_quality_of_service_class(resources: dict[str, Any], wanted: str) -> None:
    assert qos_class({"containers": [{"name": "a", "resources": resources}]}) == wanted
