"""PodDisruptionBudgets and eviction: how much may go, what is refused and why. Needs the controller manager, a scheduler, and puppet nodes."""

from __future__ import annotations

from typing import Any, Protocol

from moorage.errors import Invalid, NotFound, Throttled
from moorage.kube.cluster import Cluster
from moorage.kube.kinds import DEPLOYMENT, DISRUPTION_BUDGET, POD
from moorage.kube.metadata import is_deleting, name_of
from moorage.specs.manifest import Manifest
from moorage.testing.builders import a_pod, an_object
from moorage.testing.conformance.sets import PATIENCE, a_template, running, status_of
from moorage.testing.puppets import LINGERS, UNREADY, Puppets
from moorage.testing.world import refused, until, until_all, until_gone

_REFUSED = "Cannot evict pod as it would violate the pod's disruption budget."


class Evicting(Cluster, Protocol):
    """A cluster with subresources to post to."""

    async def create_subresource(self, kind: Any, name: str, namespace: str | None, subresource: str, body: Manifest) -> Manifest: ...


async def evict(cluster: Evicting, namespace: str, pod: str, **options: Any) -> Manifest:
    body: Manifest = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": namespace}}
    if options:
        body["deleteOptions"] = options
    return await cluster.create_subresource(POD, pod, namespace, "eviction", body)


def a_budget(namespace: str, name: str = "budget", app: str = "web", **spec: Any) -> Manifest:
    return an_object(DISRUPTION_BUDGET, name, namespace=namespace, spec={"selector": {"matchLabels": {"app": app}}, **spec})


async def until_counted(cluster: Cluster, namespace: str, **counts: int) -> Manifest:
    """The budget once it has seen its pods."""

    def counted(one: Manifest) -> bool:
        status = status_of(one)
        seen = status.get("observedGeneration") == one["metadata"]["generation"]
        return seen and all(status.get(name) == count for name, count in counts.items())

    return await until(cluster, DISRUPTION_BUDGET, "budget", namespace, counted, within=PATIENCE)


async def three_pods(cluster: Cluster, namespace: str, puppets: Puppets, **notes: str) -> list[str]:
    template = a_template(puppets, "web", notes=dict(notes) or None)
    spec = {"replicas": 3, "selector": {"matchLabels": {"app": "web"}}, "template": template}
    await cluster.create(DEPLOYMENT, an_object(DEPLOYMENT, "web", namespace=namespace, spec=spec))
    pods = await until_all(cluster, POD, namespace, lambda found: len(found) == 3 and all(status_of(pod).get("phase") == "Running" for pod in found), within=PATIENCE)  # fmt: skip
    return sorted(name_of(pod) for pod in pods)


class DisruptionConformance:
    """Fixtures: `cluster`, `namespace`, and `puppets`, two nodes of this test's own."""

    async def test_a_budget_lets_go_what_is_above_it_and_no_more(self, cluster: Evicting, namespace: str, puppets: Puppets) -> None:
        names = await three_pods(cluster, namespace, puppets)
        await until_all(cluster, POD, namespace, running(3), within=PATIENCE)
        await cluster.create(DISRUPTION_BUDGET, a_budget(namespace, minAvailable=2))
        seen = await until_counted(cluster, namespace, currentHealthy=3, desiredHealthy=2, expectedPods=3, disruptionsAllowed=1)
        (condition,) = seen["status"]["conditions"]
        assert (condition["type"], condition["status"], condition["reason"]) == ("DisruptionAllowed", "True", "SufficientPods")
        await cluster.patch(POD, names[0], namespace, {"metadata": {"annotations": {LINGERS: "yes"}, "finalizers": ["example.com/hold"]}})
        # The Deployment makes a new pod in its place, which must not come before the second eviction is asked for.
        await cluster.patch(
            DEPLOYMENT, "web", namespace, {"spec": {"template": {"metadata": {"annotations": {UNREADY: "yes"}}}, "paused": True}}
        )
        await evict(cluster, namespace, names[0])
        gone = await cluster.get(POD, names[0], namespace)
        assert is_deleting(gone)
        (target,) = [one for one in gone["status"]["conditions"] if one["type"] == "DisruptionTarget"]
        assert (target["status"], target["reason"], target["message"]) == ("True", "EvictionByEvictionAPI", "Eviction API: evicting")
        await cluster.patch(DISRUPTION_BUDGET, "budget", namespace, {"spec": {"minAvailable": 3}})
        await until_counted(cluster, namespace, desiredHealthy=3, disruptionsAllowed=0)
        with refused(Throttled) as refusal:
            await evict(cluster, namespace, names[1])
        assert refusal.message == _REFUSED
        assert refusal.error is not None
        (cause,) = refusal.error.details
        assert cause.message.startswith("The disruption budget budget needs 3 healthy pods and has ")
        assert not is_deleting(await cluster.get(POD, names[1], namespace))
        await cluster.patch(POD, names[0], namespace, {"metadata": {"annotations": {LINGERS: None}, "finalizers": None}})
        await until_gone(cluster, POD, names[0], namespace, within=PATIENCE)

    async def test_percentages_count_the_controllers_pods(self, cluster: Evicting, namespace: str, puppets: Puppets) -> None:
        await three_pods(cluster, namespace, puppets)
        await until_all(cluster, POD, namespace, running(3), within=PATIENCE)
        await cluster.create(DISRUPTION_BUDGET, a_budget(namespace, maxUnavailable="34%"))
        await until_counted(cluster, namespace, expectedPods=3, desiredHealthy=1, disruptionsAllowed=2)
        await cluster.patch(DISRUPTION_BUDGET, "budget", namespace, {"spec": {"maxUnavailable": None, "minAvailable": "50%"}})
        await until_counted(cluster, namespace, expectedPods=3, desiredHealthy=2, disruptionsAllowed=1)
        await cluster.patch(DISRUPTION_BUDGET, "budget", namespace, {"spec": {"minAvailable": None, "maxUnavailable": 0}})
        await until_counted(cluster, namespace, desiredHealthy=3, disruptionsAllowed=0)

    async def test_broken_pods_may_go_where_the_policy_allows_it(self, cluster: Evicting, namespace: str, puppets: Puppets) -> None:
        names = await three_pods(cluster, namespace, puppets, **{UNREADY: "yes"})
        await cluster.create(DISRUPTION_BUDGET, a_budget(namespace, minAvailable=1))
        await until_counted(cluster, namespace, currentHealthy=0, desiredHealthy=1, disruptionsAllowed=0)
        with refused(Throttled):
            await evict(cluster, namespace, names[0])
        await cluster.patch(DISRUPTION_BUDGET, "budget", namespace, {"spec": {"unhealthyPodEvictionPolicy": "AlwaysAllow"}})
        await evict(cluster, namespace, names[0])
        await until_gone(cluster, POD, names[0], namespace, within=PATIENCE)

    async def test_what_has_no_budget_or_never_ran_goes_at_once(self, cluster: Evicting, namespace: str, puppets: Puppets) -> None:
        stuck = {"nodeSelector": {"no-such": "node"}}
        made = await cluster.create(POD, a_pod("stuck", spec=stuck, namespace=namespace, labels={"app": "web"}))
        await cluster.create(DISRUPTION_BUDGET, a_budget(namespace, minAvailable=1))
        await until_counted(cluster, namespace, expectedPods=1, disruptionsAllowed=0)
        await evict(cluster, namespace, "stuck", dryRun=["All"])
        assert not is_deleting(await cluster.get(POD, "stuck", namespace))
        await evict(cluster, namespace, "stuck", preconditions={"uid": made["metadata"]["uid"]})
        await until_gone(cluster, POD, "stuck", namespace, within=PATIENCE)
        with refused(NotFound):
            await evict(cluster, namespace, "stuck")

    async def test_a_pod_of_a_controller_without_a_size_cannot_be_counted_in_percent(
        self, cluster: Evicting, namespace: str, puppets: Puppets
    ) -> None:
        owner = await cluster.create(DISRUPTION_BUDGET, a_budget(namespace, "other", "nobody", minAvailable=1))
        await cluster.create(
            POD, a_pod("one", spec={"nodeSelector": puppets.selector}, namespace=namespace, labels={"app": "web"}, owner=owner)
        )
        await until(cluster, POD, "one", namespace, lambda pod: status_of(pod).get("phase") == "Running", within=PATIENCE)
        await cluster.create(DISRUPTION_BUDGET, a_budget(namespace, maxUnavailable="50%"))

        def failed(one: Manifest) -> bool:
            return any(found["reason"] == "SyncFailed" for found in status_of(one).get("conditions") or ())

        seen = await until(cluster, DISRUPTION_BUDGET, "budget", namespace, failed, within=PATIENCE)
        assert seen["status"]["conditions"][0]["message"] == "poddisruptionbudgets.policy does not implement the scale subresource"

    async def test_wrong_budgets_are_refused(self, cluster: Evicting, namespace: str, puppets: Puppets) -> None:
        for spec in ({"minAvailable": 1, "maxUnavailable": 1}, {"minAvailable": "150%"}, {"maxUnavailable": -1}, {"minAvailable": "many"}):
            with refused(Invalid):
                await cluster.create(DISRUPTION_BUDGET, a_budget(namespace, **spec))
