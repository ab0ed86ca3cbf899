"""What the controllers of a cluster say when a pod they want is refused, and that they go on once it is not: needs the controller manager."""

from __future__ import annotations

from datetime import timedelta

from moorage.kube.cluster import Cluster
from moorage.kube.kinds import DEPLOYMENT, EVENT, JOB, POD, REPLICA_SET, SERVICE_ACCOUNT, Kind
from moorage.kube.metadata import controller_uid, uid_of
from moorage.specs.condition import find
from moorage.specs.manifest import Manifest
from moorage.testing.builders import an_object
from moorage.testing.world import until, until_all

_PATIENCE = timedelta(seconds=60)
_NOBODY = "nobody-yet"


class RefusalConformance:
    """Fixtures: `cluster`, and `namespace`, in which pods of an account that does not exist are refused."""

    async def test_a_job_whose_pod_is_refused_tells_so_in_an_event_and_goes_on(self, cluster: Cluster, namespace: str) -> None:
        job = await cluster.create(
            JOB, an_object(JOB, "refused", namespace=namespace, spec={"template": a_template(restartPolicy="Never")})
        )
        event = await _refusal(cluster, namespace, JOB, uid_of(job))
        assert (event["type"], event["source"]["component"]) == ("Warning", "job-controller")
        await _admit(cluster, namespace)
        await until_all(cluster, POD, namespace, lambda pods: any(controller_uid(pod) == uid_of(job) for pod in pods), within=_PATIENCE)

    async def test_a_deployment_whose_pods_are_refused_has_a_condition_until_they_are_not(self, cluster: Cluster, namespace: str) -> None:
        spec = {"replicas": 1, "selector": {"matchLabels": {"app": "refused"}}, "template": a_template()}
        await cluster.create(DEPLOYMENT, an_object(DEPLOYMENT, "refused", namespace=namespace, spec=spec))
        failing = await until(cluster, DEPLOYMENT, "refused", namespace, lambda one: _failure(one) is not None, within=_PATIENCE)
        condition = _failure(failing)
        assert condition is not None
        assert (condition["status"], condition["reason"]) == ("True", "FailedCreate")
        assert _NOBODY in condition["message"]
        (replica_set,) = (await cluster.list(REPLICA_SET, namespace)).items
        event = await _refusal(cluster, namespace, REPLICA_SET, uid_of(replica_set))
        assert event["source"]["component"] == "replicaset-controller"
        await _admit(cluster, namespace)
        await until(cluster, DEPLOYMENT, "refused", namespace, lambda one: _failure(one) is None, within=_PATIENCE)
        assert len((await cluster.list(POD, namespace)).items) == 1


def a_template(**spec: str) -> Manifest:
    """A pod template of the account that does not exist."""
    container = {"name": "main", "image": "example.com/image:1"}
    return {"metadata": {"labels": {"app": "refused"}}, "spec": {"serviceAccountName": _NOBODY, "containers": [container], **spec}}


def _failure(deployment: Manifest) -> Manifest | None:
    return find((deployment.get("status") or {}).get("conditions"), "ReplicaFailure")


async def _refusal(cluster: Cluster, namespace: str, kind: Kind, uid: str) -> Manifest:
    fields = f"involvedObject.kind={kind.kind},reason=FailedCreate"

    def told(events: list[Manifest]) -> bool:
        return any(event["reason"] == "FailedCreate" and event["involvedObject"]["uid"] == uid for event in events)

    await until_all(cluster, EVENT, namespace, told, within=_PATIENCE)
    # As our operators ask for it.
    found = [event for event in (await cluster.list(EVENT, namespace, fields=fields)).items if event["involvedObject"]["uid"] == uid]
    assert all(event["message"].startswith("Error creating: ") and _NOBODY in event["message"] for event in found)
    return found[0]


async def _admit(cluster: Cluster, namespace: str) -> None:
    await cluster.create(SERVICE_ACCOUNT, an_object(SERVICE_ACCOUNT, _NOBODY, namespace=namespace))
