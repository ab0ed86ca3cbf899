"""EndpointSlices, volumes, nodes, namespaces and garbage, decided on snapshots."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from moorage.embedded.control import collector, endpoints, namespaces, nodes, volumes
from moorage.embedded.control.collector import Node, Owner
from moorage.embedded.control.steps import Create, Decision, Delete, Patch, Record
from moorage.errors import Unavailable
from moorage.kube.kinds import CONFIG_MAP, POD, PVC, SECRET

Manifest = dict[str, Any]
NOW = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)
TEXT = "2026-11-22T12:00:00Z"


def created(decision: Decision) -> list[Manifest]:
    return [step.manifest for step in decision.steps if isinstance(step, Create)]


def patches(decision: Decision) -> list[Any]:
    return [step.patch for step in decision.steps if isinstance(step, Patch)]


# EndpointSlices


def service(**spec: Any) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web", "namespace": "default", "uid": "s"},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 5001}], **spec},
    }


def backend(
    name: str, ip: str | None = "127.16.0.1", *, ready: bool = True, phase: str = "Running", port: int = 5001, **metadata: Any
) -> Manifest:
    return {
        "metadata": {"name": name, "namespace": "default", "uid": name, "labels": {"app": "web"}, **metadata},
        "spec": {"nodeName": "n", "containers": [{"ports": [{"name": "http", "containerPort": port}]}]},
        "status": {"phase": phase, "podIP": ip, "conditions": [{"type": "Ready", "status": "True" if ready else "False"}]},
    }


def stored(manifests: list[Manifest]) -> list[Manifest]:
    return [one | {"metadata": {**one["metadata"], "uid": one["metadata"]["name"], "resourceVersion": "1"}} for one in manifests]


@pytest.mark.parametrize(
    ("pod", "conditions"),
    [
        (backend("a"), {"ready": True, "serving": True, "terminating": False}),
        (backend("a", ready=False), {"ready": False, "serving": False, "terminating": False}),
        (backend("a", deletionTimestamp=TEXT), {"ready": False, "serving": True, "terminating": True}),
    ],
)
def test_an_endpoint_tells_the_state_of_its_pod(pod: Manifest, conditions: dict[str, bool]) -> None:
    (one,) = created(endpoints.decide(service(), [pod], []))
    (endpoint,) = one["endpoints"]
    assert endpoint["conditions"] == conditions
    assert endpoint["targetRef"] == {"kind": "Pod", "namespace": "default", "name": "a", "uid": "a"}
    assert one["ports"] == [{"name": "", "port": 5001, "protocol": "TCP"}]
    assert one["metadata"]["labels"]["kubernetes.io/service-name"] == "web"


def test_pods_without_address_finished_or_of_others_are_no_endpoints_but_the_slice_is_there() -> None:
    other = backend("c", labels={"app": "db"})
    (one,) = created(endpoints.decide(service(), [backend("a", None), backend("b", phase="Succeeded"), other], []))
    assert one["endpoints"] == []


def test_not_ready_addresses_are_published_when_asked_for() -> None:
    (one,) = created(endpoints.decide(service(publishNotReadyAddresses=True), [backend("a", ready=False)], []))
    assert one["endpoints"][0]["conditions"]["ready"] is True


def test_named_ports_that_differ_get_slices_of_their_own() -> None:
    named = service(ports=[{"name": "http", "port": 80, "targetPort": "http"}])
    found = created(endpoints.decide(named, [backend("a", port=1), backend("b", port=2)], []))
    assert sorted(one["ports"][0]["port"] for one in found) == [1, 2]


def test_a_slice_holds_a_hundred_and_one_pod_changes_one_slice() -> None:
    pods = [backend(f"p{number:03}", f"127.16.0.{number}") for number in range(250)]
    slices = stored(created(endpoints.decide(service(), pods, [])))
    assert sorted(len(one["endpoints"]) for one in slices) == [50, 100, 100]
    assert not endpoints.decide(service(), pods, slices).steps
    assert len(endpoints.decide(service(), pods[1:], slices).steps) == 1


def test_slices_of_other_makers_are_left_alone() -> None:
    theirs = stored([{"metadata": {"name": "x", "labels": {"endpointslice.kubernetes.io/managed-by": "me"}}, "endpoints": []}])
    assert not [step for step in endpoints.decide(service(), [], theirs).steps if not isinstance(step, Create)]
    assert not endpoints.decide(service(selector=None), [backend("a")], theirs).steps


# Volumes

ROOT = Path("/state/volumes")
CLASS = volumes.storage_class()


def claim(**spec: Any) -> Manifest:
    metadata = {"name": "data", "namespace": "default", "uid": "c", "resourceVersion": "1", "finalizers": ["kubernetes.io/pvc-protection"]}
    asked = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}, "storageClassName": "moorage-local"}
    return {"metadata": {**metadata, **spec.pop("metadata", {})}, "spec": {**asked, **spec}, "status": {"phase": "Pending"}}


def volume(name: str, size: str = "1Gi", **spec: Any) -> Manifest:
    offered = {"capacity": {"storage": size}, "accessModes": ["ReadWriteOnce"], "storageClassName": "moorage-local"}
    return {"metadata": {"name": name, "uid": name, "resourceVersion": "1"}, "spec": {**offered, **spec}, "status": {"phase": "Available"}}


def claimed(decision: Decision) -> str | None:
    return next((patch["spec"]["volumeName"] for patch in patches(decision) if "volumeName" in patch.get("spec", {})), None)


def decide(one: Manifest, *there: Manifest, in_use: bool = False) -> Decision:
    return volumes.decide_claim(one, there, [CLASS], root=ROOT, in_use=in_use)


def test_the_smallest_volume_that_fits_is_taken() -> None:
    there = [volume("big", "5Gi"), volume("fit", "2Gi"), volume("small", "500Mi"), volume("other", "1Gi", storageClassName="x")]
    assert claimed(decide(claim(), *there)) == "fit"
    assert claimed(decide(claim(accessModes=["ReadWriteMany"]), *there)) is None
    assert claimed(decide(claim(selector={"matchLabels": {"a": "b"}}), *there)) is None


def test_a_volume_meant_for_the_claim_wins() -> None:
    meant = volume("meant", "9Gi", claimRef={"namespace": "default", "name": "data"})
    assert claimed(decide(claim(), volume("fit"), meant)) == "meant"


def test_a_volume_is_made_below_the_folder_under_a_name_that_follows_from_the_claim() -> None:
    (made,) = created(decide(claim()))
    assert made["metadata"]["name"] == "pvc-c"
    assert made["spec"]["hostPath"]["path"] == "/state/volumes/pvc-c"
    assert made["spec"]["claimRef"]["uid"] == "c"
    assert made["spec"]["persistentVolumeReclaimPolicy"] == "Delete"
    assert claimed(decide(claim(), made | {"metadata": {**made["metadata"], "resourceVersion": "1"}})) == "pvc-c"


def test_a_claim_without_class_gets_the_default_one_and_an_empty_class_means_none() -> None:
    bare = claim()
    del bare["spec"]["storageClassName"]
    (made,) = created(decide(bare))
    assert made["spec"]["storageClassName"] == "moorage-local"
    assert not created(decide(claim(storageClassName="")))


def test_an_unknown_class_is_said_once() -> None:
    decision = decide(claim(storageClassName="fast"))
    (event,) = [step for step in decision.steps if isinstance(step, Record)]
    assert event.message == 'storageclass.storage.k8s.io "fast" not found'
    marked = claim(storageClassName="fast", metadata={"annotations": patches(decision)[-1]["metadata"]["annotations"]})
    assert not decide(marked).steps


def test_a_claim_in_use_is_kept_until_its_pods_have_finished() -> None:
    going = claim(metadata={"deletionTimestamp": TEXT})
    assert not decide(going, in_use=True).steps
    assert patches(decide(going)) == [{"metadata": {"finalizers": None}}]


def test_a_claim_whose_volume_is_gone_is_lost() -> None:
    one = claim(volumeName="v", metadata={"annotations": {"pv.kubernetes.io/bind-completed": "yes"}})
    assert {"status": {"phase": "Lost"}} in patches(decide(one))


def test_a_volume_follows_its_claim_and_is_reclaimed_after_it() -> None:
    made = volumes.volume_for(claim(), CLASS, ROOT)
    made["metadata"] |= {"uid": "v", "resourceVersion": "1"}
    assert patches(volumes.decide_volume(made, claim(volumeName="pvc-c"))) == [{"status": {"phase": "Bound"}}]
    made["status"] = {"phase": "Bound"}
    assert not volumes.reclaims(made)
    assert patches(volumes.decide_volume(made, None)) == [{"status": {"phase": "Released"}}]
    made["status"] = {"phase": "Released"}
    assert volumes.reclaims(made)
    assert isinstance(volumes.decide_volume(made, None).steps[0], Delete)


def test_only_the_folder_that_was_made_is_removed(tmp_path: Path) -> None:
    root = tmp_path / "volumes"
    made = volumes.volume_for(claim(), CLASS, root)
    volumes.make_folder(root, "pvc-c")
    (root / "pvc-c" / "file").write_text("x")
    volumes.remove_folder(root, made)
    volumes.remove_folder(root, made)
    assert not (root / "pvc-c").exists()
    precious = tmp_path / "precious"
    precious.mkdir()
    for path in (os.fspath(precious), f"{root}/pvc-c/../../precious", os.fspath(root), None):
        changed = made | {"spec": {**made["spec"], "hostPath": {"path": path}}}
        with pytest.raises(Unavailable):
            volumes.remove_folder(root, changed)
    (root / "pvc-c").symlink_to(precious)
    with pytest.raises(Unavailable, match="symbolic link"):
        volumes.remove_folder(root, made)
    assert precious.exists()


# Nodes

GRACE = timedelta(seconds=40)
ALIVE = nodes.Heartbeat(timedelta(seconds=5), GRACE, renewed=True)
LOST = nodes.Heartbeat(timedelta(seconds=41), GRACE)


def machine(status: str = "True", taints: list[Manifest] | None = None, **more: Any) -> Manifest:
    ready = {"type": "Ready", "status": status, "reason": more.pop("reason", "KubeletReady")}
    return {
        "metadata": {"name": "n", "uid": "n", "resourceVersion": "1"},
        "spec": {"taints": taints or [], **more},
        "status": {"conditions": [ready]},
    }


def tainted(decision: Decision) -> set[tuple[str, str]]:
    found = [patch["spec"]["taints"] for patch in patches(decision) if "spec" in patch]
    return {(one["key"].rpartition("/")[2], one["effect"]) for one in (found[0] or [])} if found else set()


def test_a_healthy_node_costs_no_write_and_is_looked_at_when_its_grace_is_over() -> None:
    decision = nodes.decide(machine(), [], ALIVE, NOW)
    assert not decision.steps
    assert decision.requeue_after == timedelta(seconds=35)


def test_a_silent_node_becomes_unknown_tainted_and_its_pods_unready() -> None:
    pods = [backend("a"), backend("b", ready=False)]
    decision = nodes.decide(machine(), pods, LOST, NOW)
    assert tainted(decision) == {("unreachable", "NoSchedule"), ("unreachable", "NoExecute")}
    conditions = next(
        patch["status"]["conditions"]
        for patch in patches(decision)
        if "conditions" in patch.get("status", {}) and len(patch["status"]["conditions"][0]) > 3
    )
    (ready,) = (one for one in conditions if one["type"] == "Ready")
    assert (ready["status"], ready["reason"]) == ("Unknown", "NodeStatusUnknown")
    assert {one["status"] for one in conditions} == {"Unknown"}
    assert [step.object["metadata"]["name"] for step in decision.steps if isinstance(step, Patch) and step.kind == POD] == ["a"]
    assert decision.requeue_after == timedelta(seconds=300)


def test_a_node_that_is_heard_again_comes_back() -> None:
    taints = [{"key": "node.kubernetes.io/unreachable", "effect": effect, "timeAdded": TEXT} for effect in ("NoSchedule", "NoExecute")]
    lost = machine("Unknown", taints, reason="NodeStatusUnknown")
    decision = nodes.decide(lost, [], ALIVE, NOW)
    assert {"spec": {"taints": None}} in patches(decision)
    doubtful = nodes.Heartbeat(timedelta(0), GRACE)
    assert not nodes.decide(lost, [], doubtful, NOW).steps


@pytest.mark.parametrize(
    ("tolerations", "after"),
    [
        ([], 300),
        ([{"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 30}], 30),
        ([{"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute"}], None),
    ],
)
def test_pods_leave_a_lost_node_when_they_tolerate_it_no_longer(tolerations: list[Manifest], after: int | None) -> None:
    taints = [{"key": "node.kubernetes.io/unreachable", "effect": effect, "timeAdded": TEXT} for effect in ("NoSchedule", "NoExecute")]
    one = backend("a", ready=False)
    one["spec"]["tolerations"] = tolerations
    lost = machine("Unknown", taints, reason="NodeStatusUnknown")
    decision = nodes.decide(lost, [one], LOST, NOW)
    assert decision.requeue_after == (timedelta(seconds=after) if after else None)
    later = nodes.decide(lost, [one], LOST, NOW + timedelta(seconds=301))
    assert any(isinstance(step, Delete) for step in later.steps) is (after is not None)


def test_cordoning_taints_and_a_users_taint_stays() -> None:
    mine = {"key": "gpu", "value": "yes", "effect": "NoSchedule"}
    decision = nodes.decide(machine(taints=[mine], unschedulable=True), [], ALIVE, NOW)
    assert tainted(decision) == {("gpu", "NoSchedule"), ("unschedulable", "NoSchedule")}


# Garbage


def thing(name: str, *owners: str, **metadata: Any) -> Node:
    references = [{"apiVersion": "v1", "kind": "X", "name": owner, "uid": owner, "blockOwnerDeletion": True} for owner in owners]
    return Node(
        CONFIG_MAP,
        {"metadata": {"name": name, "namespace": "d", "uid": name, "resourceVersion": "1", "ownerReferences": references, **metadata}},
    )


@pytest.mark.parametrize(
    ("owners", "outcome"),
    [
        ({}, None),
        ({"a": Owner.ALIVE}, None),
        ({"a": Owner.GONE}, "Background"),
        ({"a": Owner.UNKNOWN}, None),
        ({"a": Owner.GONE, "b": Owner.UNKNOWN}, None),
        ({"a": Owner.GONE, "b": Owner.ALIVE}, ["b"]),
        ({"a": Owner.WAITING, "b": Owner.ALIVE}, ["b"]),
        ({"a": Owner.WAITING}, "Background"),
        ({"a": Owner.GONE, "b": Owner.GONE}, "Background"),
    ],
)
def test_an_object_lives_as_long_as_one_of_its_owners(owners: dict[str, Owner], outcome: Any) -> None:
    decision = collector.decide(thing("x", *owners), lambda reference: owners[reference["uid"]], [])
    match decision.steps:
        case []:
            assert outcome is None
        case [Delete(propagation=propagation)]:
            assert outcome == propagation
        case [Patch(patch=patch)]:
            assert [one["uid"] for one in patch["metadata"]["ownerReferences"]] == outcome


def test_a_foreground_deletion_goes_down_and_comes_back_up() -> None:
    middle, leaf = thing("middle", "top"), thing("leaf", "middle")
    (down,) = collector.decide(middle, lambda reference: Owner.WAITING, [leaf]).steps
    assert isinstance(down, Delete)
    assert down.propagation == "Foreground"
    going = thing("middle", "top", deletionTimestamp=TEXT, finalizers=["foregroundDeletion"])
    assert not collector.decide(going, lambda reference: Owner.WAITING, [leaf]).steps
    (up,) = collector.decide(going, lambda reference: Owner.WAITING, []).steps
    assert isinstance(up, Patch)
    assert up.patch == {"metadata": {"finalizers": None}}


def test_an_orphaning_deletion_frees_the_dependents_first() -> None:
    going = thing("top", deletionTimestamp=TEXT, finalizers=["orphan", "mine"])
    first, last = collector.decide(going, lambda reference: Owner.ALIVE, [thing("leaf", "top")]).steps
    assert isinstance(first, Patch)
    assert isinstance(last, Patch)
    assert (first.object["metadata"]["name"], first.patch) == ("leaf", {"metadata": {"ownerReferences": None}})
    assert last.patch == {"metadata": {"finalizers": ["mine"]}}


# Namespaces


def test_a_namespace_is_furnished_and_its_certificate_kept_true() -> None:
    space = {"metadata": {"name": "team"}, "spec": {"finalizers": ["kubernetes"]}}
    assert [one["metadata"]["name"] for one in created(namespaces.furnish(space, None, None, "PEM"))] == ["default", "kube-root-ca.crt"]
    stale = {"metadata": {"name": "kube-root-ca.crt", "namespace": "team", "uid": "b"}, "data": {"ca.crt": "OLD"}}
    assert patches(namespaces.furnish(space, {}, stale, "PEM")) == [{"data": {"ca.crt": "PEM"}}]


def test_a_namespace_goes_after_its_contents() -> None:
    space = {
        "metadata": {"name": "team", "deletionTimestamp": TEXT},
        "spec": {"finalizers": ["kubernetes"]},
        "status": {"phase": "Terminating"},
    }
    contents = [
        Node(SECRET, thing("s").object),
        Node(PVC, thing("c", deletionTimestamp=TEXT, finalizers=["kubernetes.io/pvc-protection"]).object),
    ]
    decision = namespaces.end(space, contents, NOW)
    assert [step.object["metadata"]["name"] for run in decision.apart for step in run if isinstance(step, Delete)] == ["s"]
    messages = [one["message"] for one in patches(decision)[0]["status"]["conditions"]]
    assert messages == [
        "Some resources are remaining: persistentvolumeclaims. has 1 resource instances, secrets. has 1 resource instances",
        "Some content in the namespace has finalizers remaining: kubernetes.io/pvc-protection in 1 resource instances",
    ]
    (last,) = namespaces.end(space, [], NOW).steps
    assert isinstance(last, Patch)
    assert (last.patch, last.subresource) == ({"spec": {"finalizers": []}}, "finalize")
