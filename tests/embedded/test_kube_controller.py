"""The controller runtime on an in-memory cluster: a small operator whose parents are ConfigMaps labelled `role=parent`, and what it leaves behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest

from moorage.errors import Unavailable
from moorage.kube.children import Children
from moorage.kube.cluster import Cluster
from moorage.kube.configuration import Child, ControllerConfig, Labelled, OwnedThrough, Related, Update
from moorage.kube.controller import Controller
from moorage.kube.informer import Informers
from moorage.kube.kinds import CONFIG_MAP, EVENT, JOB, POD, PVC, SECRET, TRAINING_JOB
from moorage.kube.metadata import controller_uid, name_of, uid_of, version_of
from moorage.kube.reconcile import Note, Observed, Plan
from moorage.specs.manifest import Manifest
from moorage.testing.builders import a_claim, a_config_map, a_job, a_pod, a_secret, a_training_job
from moorage.testing.faults import Request, WiredCluster
from moorage.testing.memory import in_memory_cluster
from moorage.testing.world import exists, until, until_all, until_gone

MANAGER = "moorage-test"


def reconcile(seen: Observed) -> Plan:
    """Wants one ConfigMap per word of the command; its status counts what there is."""
    words = seen.parent["spec"]["command"].split()
    children = [a_config_map(f"{name_of(seen.parent)}-{word}", {"word": word}) for word in words]
    present = sorted(name_of(child) for child in seen.children["ConfigMap"])
    phase = "Running" if len(present) == len(words) else "Queued"
    return Plan(children=children, status={"phase": phase, "message": " ".join(present)})


CONFIG = ControllerConfig(
    name="test",
    parent=TRAINING_JOB,
    reconcile=reconcile,
    manager=MANAGER,
    children=(Child(CONFIG_MAP),),
    longest_backoff=timedelta(seconds=0.1),
)


@pytest.fixture
async def cluster() -> AsyncIterator[WiredCluster]:
    async with in_memory_cluster() as memory:
        yield WiredCluster(memory)


@asynccontextmanager
async def running(cluster: Cluster, config: ControllerConfig = CONFIG) -> AsyncIterator[Controller]:
    controller = Controller(cluster, config)
    task = asyncio.create_task(controller.run())
    try:
        yield controller
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error


def message_is(text: str) -> Callable[[Manifest], bool]:
    return lambda manifest: (manifest.get("status") or {}).get("message") == text


async def test_children_are_made_owned_and_counted(cluster: WiredCluster) -> None:
    async with running(cluster):
        parent = await cluster.create(TRAINING_JOB, a_training_job("j", command="a b"))
        await until(cluster, TRAINING_JOB, "j", "default", message_is("j-a j-b"))
        child = await cluster.get(CONFIG_MAP, "j-a", "default")
        assert controller_uid(child) == uid_of(parent)
        assert child["data"] == {"word": "a"}


async def test_settled_means_no_writes_also_right_after_a_restart_of_a_settled_world(cluster: WiredCluster) -> None:
    async with running(cluster):
        await cluster.create(TRAINING_JOB, a_training_job("j", command="a b"))
        await until(cluster, TRAINING_JOB, "j", "default", message_is("j-a j-b"))
        await settled(cluster)
        before = len(cluster.requests)
        # An unrelated change of the parent wakes it; nothing follows.
        await cluster.patch(TRAINING_JOB, "j", "default", {"metadata": {"labels": {"a": "b"}}})
        await settled(cluster)
        assert [request.verb for request in cluster.requests[before:] if request.writes] == ["patch"]
    everything = await versions(cluster)
    async with running(cluster):
        await settled(cluster)
    assert await versions(cluster) == everything


async def test_a_child_left_out_of_the_plan_is_deleted_and_others_objects_are_not(cluster: WiredCluster) -> None:
    await cluster.create(CONFIG_MAP, a_config_map("bystander"))
    async with running(cluster):
        await cluster.create(TRAINING_JOB, a_training_job("j", command="a b"))
        await until(cluster, TRAINING_JOB, "j", "default", message_is("j-a j-b"))
        await cluster.patch(TRAINING_JOB, "j", "default", {"spec": {"command": "b"}})
        await until(cluster, TRAINING_JOB, "j", "default", message_is("j-b"))
        assert not await exists(cluster, CONFIG_MAP, "j-a", "default")
        assert await exists(cluster, CONFIG_MAP, "bystander", "default")


async def test_a_child_that_somebody_deletes_or_changes_comes_back(cluster: WiredCluster) -> None:
    async with running(cluster):
        await cluster.create(TRAINING_JOB, a_training_job("j", command="a"))
        first = await until(cluster, CONFIG_MAP, "j-a", "default", lambda child: True)
        await cluster.delete(CONFIG_MAP, "j-a", "default")
        await until(cluster, CONFIG_MAP, "j-a", "default", lambda child: uid_of(child) != uid_of(first))
        await cluster.patch(CONFIG_MAP, "j-a", "default", {"data": {"word": "vandalised"}})
        await until(cluster, CONFIG_MAP, "j-a", "default", lambda child: child["data"]["word"] == "a")


async def test_a_child_updated_on_delete_only_is_left_as_it_was_made(cluster: WiredCluster) -> None:
    def plan(seen: Observed) -> Plan:
        return Plan(
            children=[a_config_map("fixed", {"command": seen.parent["spec"]["command"]})],
            status={"message": seen.parent["spec"]["command"]},
        )

    config = ControllerConfig("test", TRAINING_JOB, plan, MANAGER, children=(Child(CONFIG_MAP, update=Update.ON_DELETE),))
    async with running(cluster, config):
        await cluster.create(TRAINING_JOB, a_training_job("j", command="one"))
        await until(cluster, TRAINING_JOB, "j", "default", message_is("one"))
        await cluster.patch(TRAINING_JOB, "j", "default", {"spec": {"command": "two"}})
        await until(cluster, TRAINING_JOB, "j", "default", message_is("two"))
        assert (await cluster.get(CONFIG_MAP, "fixed", "default"))["data"] == {"command": "one"}


async def test_a_plan_without_status_touches_nothing(cluster: WiredCluster) -> None:
    async with running(cluster):
        await cluster.create(TRAINING_JOB, a_training_job("j", command="a"))
        await until(cluster, TRAINING_JOB, "j", "default", message_is("j-a"))
    undecided = asyncio.Event()

    def plan(seen: Observed) -> Plan:
        undecided.set()
        return Plan()

    async with running(cluster, ControllerConfig("test", TRAINING_JOB, plan, MANAGER, children=(Child(CONFIG_MAP),))):
        await asyncio.wait_for(undecided.wait(), 60)
        await settled(cluster)
    assert await exists(cluster, CONFIG_MAP, "j-a", "default")
    assert (await cluster.get(TRAINING_JOB, "j", "default"))["status"]["message"] == "j-a"


async def test_a_name_taken_by_somebody_else_is_refused_and_said_so(cluster: WiredCluster) -> None:
    other = await cluster.create(SECRET, a_secret("other"))
    await cluster.create(CONFIG_MAP, a_config_map("j-a", {"mine": "yes"}, owner=other))
    await cluster.create(CONFIG_MAP, a_config_map("j-b", {"mine": "yes"}))
    async with running(cluster):
        await cluster.create(TRAINING_JOB, a_training_job("j", command="a b c"))
        await until(cluster, CONFIG_MAP, "j-c", "default", lambda child: True)
        events = await until_all(cluster, EVENT, "default", lambda items: len(items) >= 2)
        said = " ".join(event["message"] for event in events if event["reason"] == "ForeignOwner")
        assert "ConfigMap default/j-a exists and belongs to Secret other" in said
        assert "ConfigMap default/j-b exists and was not made by this controller" in said
        assert (await cluster.get(CONFIG_MAP, "j-a", "default"))["data"] == {"mine": "yes"}
        # Once it is out of the way, work goes on.
        await cluster.delete(CONFIG_MAP, "j-a", "default")
        await until(cluster, CONFIG_MAP, "j-a", "default", lambda child: child["data"] == {"word": "a"})


async def test_an_event_of_a_plan_is_recorded_once_and_not_again_by_a_restart(cluster: WiredCluster) -> None:
    def plan(seen: Observed) -> Plan:
        return Plan(status={"message": seen.parent["spec"]["command"]}, events=[("Normal", "Seen", "it was seen")])

    config = ControllerConfig("test", TRAINING_JOB, plan, MANAGER)
    for command in ("one", "two"):
        async with running(cluster, config):
            await cluster.apply(TRAINING_JOB, a_training_job("j", command=command), manager="user")
            await until(cluster, TRAINING_JOB, "j", "default", message_is(command))
            await until_all(cluster, EVENT, "default", lambda items: len(items) == 1)
            await settled(cluster)
    (event,) = (await cluster.list(EVENT, "default")).items
    assert (event["reason"], event["count"], event["involvedObject"]["name"]) == ("Seen", 1, "j")


async def test_descendants_are_found_by_owner_and_by_label_and_wake_the_parent(cluster: WiredCluster) -> None:
    def plan(seen: Observed) -> Plan:
        phases = sorted(f"{name_of(pod)}={(pod.get('status') or {}).get('phase')}" for pod in seen.children["Pod"])
        return Plan(children=[a_job("j")], status={"message": " ".join(phases)})

    by_owner = OwnedThrough(POD, (JOB,))
    by_label = Labelled(POD, ("moorage.dev/job",), lambda parent: (name_of(parent),))
    for descendant in (by_owner, by_label):
        config = ControllerConfig("test", TRAINING_JOB, plan, MANAGER, children=(Child(JOB),), descendants=(descendant,))
        async with running(cluster, config):
            await cluster.create(TRAINING_JOB, a_training_job("j"))
            job = await until(cluster, JOB, "j", "default", lambda job: True)
            labels = {"moorage.dev/job": "j"}
            await cluster.create(POD, a_pod("j-0", owner=job, labels=labels))
            await cluster.create(POD, a_pod("stranger"))
            await cluster.patch(POD, "j-0", "default", {"status": {"phase": "Running"}}, subresource="status")
            await until(cluster, TRAINING_JOB, "j", "default", message_is("j-0=Running"))
            await cluster.delete(POD, "j-0", "default", grace=timedelta(0))
            await until(cluster, TRAINING_JOB, "j", "default", message_is(""))
        await cluster.delete(POD, "stranger", "default", grace=timedelta(0))
        await cluster.delete(TRAINING_JOB, "j", "default")
        await cluster.delete(JOB, "j", "default")
        await until_gone(cluster, JOB, "j", "default")


async def test_a_descendant_is_annotated_once_and_not_one_that_has_taken_its_place(cluster: WiredCluster) -> None:
    first: list[Manifest] = []

    def plan(seen: Observed) -> Plan:
        pods = list(seen.children["Pod"])
        first.extend(pods[: 1 - len(first)])
        # Of a plan that is late: the pod as it was seen at first, whatever has its name by now.
        return Plan(status={"message": " ".join(uid_of(pod) for pod in pods)}, notes=[Note(pod, {"told": "yes"}) for pod in first])

    descendant = Labelled(POD, ("moorage.dev/job",), lambda parent: (name_of(parent),))
    config = ControllerConfig("test", TRAINING_JOB, plan, MANAGER, descendants=(descendant,))
    async with running(cluster, config):
        await cluster.create(TRAINING_JOB, a_training_job("j"))
        noted = a_pod("p", labels={"moorage.dev/job": "j"})
        noted["metadata"]["annotations"] = {"mine": "too"}
        await cluster.create(POD, noted)
        told = await until(cluster, POD, "p", "default", lambda pod: "told" in pod["metadata"]["annotations"])
        assert told["metadata"]["annotations"] == {"mine": "too", "told": "yes"}
        await settled(cluster)
        assert (await cluster.get(POD, "p", "default"))["metadata"]["resourceVersion"] == version_of(told)
        await cluster.delete(POD, "p", "default", grace=timedelta(0))
        await until_gone(cluster, POD, "p", "default")
        other = await cluster.create(POD, a_pod("p", labels={"moorage.dev/job": "j"}))
        await until(cluster, TRAINING_JOB, "j", "default", message_is(uid_of(other)))
        await settled(cluster)
        assert "told" not in ((await cluster.get(POD, "p", "default"))["metadata"].get("annotations") or {})


async def test_a_related_object_wakes_the_parents_it_concerns(cluster: WiredCluster) -> None:
    def plan(seen: Observed) -> Plan:
        return Plan(status={"message": ",".join(name_of(secret) for secret in seen.related["Secret"])})

    related = Related(SECRET, concerns=lambda parent, secret: name_of(secret).startswith(name_of(parent)))
    async with running(cluster, ControllerConfig("test", TRAINING_JOB, plan, MANAGER, related=(related,))):
        await cluster.create(TRAINING_JOB, a_training_job("j"))
        await cluster.create(SECRET, a_secret("unconcerned"))
        await cluster.create(SECRET, a_secret("j-access"))
        await until(cluster, TRAINING_JOB, "j", "default", message_is("j-access"))
        await cluster.delete(SECRET, "j-access", "default")
        await until(cluster, TRAINING_JOB, "j", "default", message_is(""))


async def test_a_shared_object_is_made_once_owned_by_nobody_and_outlives_its_parents(cluster: WiredCluster) -> None:
    def plan(seen: Observed) -> Plan:
        return Plan(status={"message": "done"}, shared=[a_claim("environments")])

    async with running(cluster, ControllerConfig("test", TRAINING_JOB, plan, MANAGER, shared=(PVC,))):
        for name in ("i", "j"):
            await cluster.create(TRAINING_JOB, a_training_job(name))
            await until(cluster, TRAINING_JOB, name, "default", message_is("done"))
        claim = await cluster.get(PVC, "environments", "default")
        assert "ownerReferences" not in claim["metadata"]


async def test_requeue_after_looks_again_without_any_change(cluster: WiredCluster) -> None:
    looks: list[int] = []

    def plan(seen: Observed) -> Plan:
        looks.append(1)
        return Plan(status={"message": str(min(len(looks), 5))}, requeue_after=timedelta(milliseconds=1) if len(looks) < 5 else None)

    async with running(cluster, ControllerConfig("test", TRAINING_JOB, plan, MANAGER)):
        await cluster.create(TRAINING_JOB, a_training_job("j"))
        await until(cluster, TRAINING_JOB, "j", "default", message_is("5"))


async def test_a_defect_in_one_parents_reconcile_does_not_stop_the_others(cluster: WiredCluster, caplog: pytest.LogCaptureFixture) -> None:
    def plan(seen: Observed) -> Plan:
        if name_of(seen.parent) == "bad":
            raise ZeroDivisionError("defect")
        return Plan(status={"message": "fine"})

    async with running(cluster, ControllerConfig("test", TRAINING_JOB, plan, MANAGER, workers=1)):
        await cluster.create(TRAINING_JOB, a_training_job("bad"))
        await cluster.create(TRAINING_JOB, a_training_job("good"))
        await until(cluster, TRAINING_JOB, "good", "default", message_is("fine"))
    assert "TrainingJob default/bad: defect in its reconcile" in caplog.text


async def test_a_finalizer_holds_the_parent_until_its_teardown_is_done(cluster: WiredCluster) -> None:
    def teardown(seen: Observed) -> Plan:
        return Plan(status=seen.parent.get("status") or {})

    config = ControllerConfig(
        "test", TRAINING_JOB, reconcile, MANAGER, children=(Child(CONFIG_MAP),), finalizer="moorage.dev/test", finalize=teardown
    )
    async with running(cluster, config):
        await cluster.create(TRAINING_JOB, a_training_job("j", command="a b"))
        held = await until(cluster, TRAINING_JOB, "j", "default", message_is("j-a j-b"))
        assert held["metadata"]["finalizers"] == ["moorage.dev/test"]
        await cluster.delete(TRAINING_JOB, "j", "default")
        await until_gone(cluster, TRAINING_JOB, "j", "default")
    assert not (await cluster.list(CONFIG_MAP, "default")).items


class Died(BaseException):
    """kill -9, as near as one process comes to it."""


@pytest.mark.parametrize("moment", ["before", "after"])
async def test_a_controller_killed_at_any_request_converges_when_started_again(moment: str) -> None:
    finished = False
    for deadly in range(100):
        async with in_memory_cluster() as memory:
            await memory.create(TRAINING_JOB, a_training_job("j", command="a b c"))
            stale = await memory.create(TRAINING_JOB, a_training_job("k", command="a"))
            await memory.create(CONFIG_MAP, a_config_map("k-stale", owner=stale))
            cluster = WiredCluster(memory)
            count = 0

            def trip(request: Request, deadly: int = deadly) -> None:
                nonlocal count
                count += 1
                if count > deadly:
                    raise Died

            setattr(cluster, moment, trip)
            controller = asyncio.create_task(Controller(cluster, CONFIG).run())
            done = asyncio.create_task(converged(memory))
            await asyncio.wait({controller, done}, return_when=asyncio.FIRST_COMPLETED)
            finished = done.done()
            controller.cancel()
            (outcome,) = await asyncio.gather(controller, return_exceptions=True)
            assert isinstance(outcome, asyncio.CancelledError | BaseExceptionGroup)
            async with running(memory):
                await asyncio.wait_for(done, 60)
        if finished:
            break
    assert finished and deadly > 8


@pytest.mark.looptime
async def test_an_outage_in_the_middle_is_outlived(cluster: WiredCluster) -> None:
    down = False

    def flaky(request: Request) -> None:
        if down:
            raise Unavailable("the API is down")

    broken = WiredCluster(cluster, before=flaky, during=flaky)
    async with running(broken):
        await cluster.create(TRAINING_JOB, a_training_job("j", command="a b"))
        await until(cluster, TRAINING_JOB, "j", "default", message_is("j-a j-b"))
        down = True
        await cluster.patch(TRAINING_JOB, "j", "default", {"spec": {"command": "c"}})
        await cluster.delete(CONFIG_MAP, "j-b", "default")
        await asyncio.sleep(600)
        assert message_is("j-a j-b")(await cluster.get(TRAINING_JOB, "j", "default"))
        down = False
        await until(cluster, TRAINING_JOB, "j", "default", message_is("j-c"), within=timedelta(seconds=30))
        assert not await exists(cluster, CONFIG_MAP, "j-a", "default")


async def converged(cluster: Cluster) -> None:
    await until(cluster, TRAINING_JOB, "j", "default", message_is("j-a j-b j-c"))
    await until(cluster, TRAINING_JOB, "k", "default", message_is("k-a"))
    await until_gone(cluster, CONFIG_MAP, "k-stale", "default")


async def versions(cluster: Cluster) -> dict[str, str]:
    found = {}
    for kind in (TRAINING_JOB, CONFIG_MAP, EVENT):
        for item in (await cluster.list(kind)).items:
            found[f"{kind}/{name_of(item)}"] = item["metadata"]["resourceVersion"]
    return found


async def settled(cluster: WiredCluster) -> None:
    """Until no request was sent for a while: the one thing here that has no condition to wait for."""
    quiet = 0
    while quiet < 5:
        before = len(cluster.requests)
        await asyncio.sleep(0.02)
        quiet = quiet + 1 if len(cluster.requests) == before else 0


def test_a_finalizer_without_its_teardown_is_a_configuration_error() -> None:
    with pytest.raises(ValueError, match="belong together"):
        Controller(WiredCluster(None), ControllerConfig("x", TRAINING_JOB, reconcile, MANAGER, finalizer="a/b"))  # type: ignore[arg-type]


async def test_a_child_that_was_made_counts_before_the_watch_has_told_of_it(cluster: WiredCluster) -> None:
    parent = await cluster.create(TRAINING_JOB, a_training_job("p"))
    informers = Informers(cluster)
    late = informers.informer(JOB)  # not running yet: it knows of nothing
    children = Children(cluster, MANAGER, [(Child(JOB), late)])
    assert children.owned(parent) == {"Job": []}
    assert await children.converge(parent, [a_job("p-1")]) == []
    made = await cluster.get(JOB, "p-1", "default")
    assert [uid_of(each) for each in children.owned(parent)["Job"]] == [uid_of(made)]
    running = asyncio.create_task(informers.run())
    try:
        await late.synced.wait()
        assert [uid_of(each) for each in children.owned(parent)["Job"]] == [uid_of(made)]
        await cluster.delete(JOB, "p-1", "default")
        await until_gone(cluster, JOB, "p-1", "default")
        async with asyncio.timeout(60):
            while late.get("p-1", "default") is not None:
                await asyncio.sleep(0)
        assert children.owned(parent) == {"Job": []}
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
