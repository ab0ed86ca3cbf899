"""Indexed Jobs that are done before all of their pods are: needs the controller manager, a scheduler, and puppet nodes."""

from __future__ import annotations

from typing import Any

from moorage.errors import Invalid
from moorage.kube.cluster import Cluster
from moorage.kube.kinds import JOB, POD
from moorage.kube.metadata import name_of
from moorage.specs.manifest import Manifest
from moorage.testing.builders import an_object
from moorage.testing.conformance.sets import PATIENCE, a_template, running
from moorage.testing.puppets import EXIT, Puppets
from moorage.testing.world import refused, until, until_all

INDEX = "batch.kubernetes.io/job-completion-index"


def a_job(puppets: Puppets, namespace: str, rules: list[Manifest], **spec: Any) -> Manifest:
    template = a_template(puppets, "job", restartPolicy="Never")
    whole = {
        "completionMode": "Indexed",
        "completions": 3,
        "parallelism": 3,
        "successPolicy": {"rules": rules},
        "template": template,
        **spec,
    }
    return an_object(JOB, "done", namespace=namespace, spec=whole)


async def end(cluster: Cluster, namespace: str, index: int, code: int = 0) -> None:
    """Let the pod of that index end."""
    (pod,) = (await cluster.list(POD, namespace, labels=f"{INDEX}={index}")).items
    await cluster.patch(POD, name_of(pod), namespace, {"metadata": {"annotations": {EXIT: str(code)}}})


def concluded(job: Manifest) -> list[tuple[str, str, str]]:
    """The Job's conditions once it is over."""
    found = [
        (one["type"], one["reason"], one["message"]) for one in (job.get("status") or {}).get("conditions") or () if one["status"] == "True"
    ]
    return found if any(type in ("Complete", "Failed") for type, _, _ in found) else []


class JobConformance:
    """Needs, besides `cluster` and `namespace`, `puppets`."""

    async def test_a_job_is_complete_when_all_indexes_of_its_success_policy_are(
        self, cluster: Cluster, namespace: str, puppets: Puppets
    ) -> None:
        await _succeeds(cluster, namespace, puppets, [{"succeededIndexes": "0-1"}], (1, 0))

    async def test_a_job_is_complete_when_enough_indexes_of_a_rule_are(self, cluster: Cluster, namespace: str, puppets: Puppets) -> None:
        await _succeeds(cluster, namespace, puppets, [{"succeededIndexes": "0"}, {"succeededIndexes": "1-2", "succeededCount": 1}], (2,))

    async def test_a_job_is_complete_when_any_indexes_are_enough(self, cluster: Cluster, namespace: str, puppets: Puppets) -> None:
        await _succeeds(cluster, namespace, puppets, [{"succeededCount": 2}], (0, 2))

    async def test_a_failure_counts_before_the_success_policy(self, cluster: Cluster, namespace: str, puppets: Puppets) -> None:
        await cluster.create(JOB, a_job(puppets, namespace, [{"succeededIndexes": "0"}], backoffLimit=0))
        await until_all(cluster, POD, namespace, running(3), within=PATIENCE)
        await end(cluster, namespace, 1, 1)
        job = await until(cluster, JOB, "done", namespace, lambda job: bool(concluded(job)), within=PATIENCE)
        assert [(type, reason) for type, reason, _ in concluded(job)] == [
            ("FailureTarget", "BackoffLimitExceeded"),
            ("Failed", "BackoffLimitExceeded"),
        ], job["status"]

    async def test_what_a_success_policy_gets_wrong_is_named(self, cluster: Cluster, namespace: str, puppets: Puppets) -> None:
        cases: list[tuple[list[Manifest], Manifest, str]] = [
            ([], {}, "spec.successPolicy.rules: Required value: at least one rules must be specified when the successPolicy is specified"),
            ([{}], {}, "at least one of succeededCount or succeededIndexes must be specified"),
            ([{"succeededIndexes": "0-3"}], {}, 'error parsing succeededIndexes: too large index: "3"'),
            ([{"succeededIndexes": "1,0"}], {}, "error parsing succeededIndexes: non-increasing order, previous: 1, current: 0"),
            ([{"succeededIndexes": "a"}], {}, 'error parsing succeededIndexes: cannot convert string to integer for index: "a"'),
            ([{"succeededCount": 4}], {}, "must be less than or equal to 3 (the number of specified completions)"),
            (
                [{"succeededIndexes": "0-1", "succeededCount": 3}],
                {},
                "must be less than or equal to 2 (the number of indexes in the specified succeededIndexes field)",
            ),
            ([{"succeededCount": 1}], {"completionMode": "NonIndexed"}, "requires indexed completion mode"),
        ]
        for rules, spec, words in cases:
            with refused(Invalid) as refusal:
                await cluster.create(JOB, a_job(puppets, namespace, rules, **spec))
            assert words in str(refusal.error), refusal.error


async def _succeeds(cluster: Cluster, namespace: str, puppets: Puppets, rules: list[Manifest], ends: tuple[int, ...]) -> None:
    await cluster.create(JOB, a_job(puppets, namespace, rules))
    await until_all(cluster, POD, namespace, running(3), within=PATIENCE)
    for index in ends:
        await end(cluster, namespace, index)
    job = await until(cluster, JOB, "done", namespace, lambda job: bool(concluded(job)), within=PATIENCE)
    said = "SuccessPolicy", f"Matched rules at index {len(rules) - 1}"
    assert concluded(job) == [("SuccessCriteriaMet", *said), ("Complete", *said)], job["status"]
    assert job["status"]["succeeded"] == len(ends), job["status"]
    assert job["status"]["completedIndexes"] == ",".join(str(index) for index in sorted(ends)), job["status"]
    pods = await until_all(cluster, POD, namespace, lambda pods: len(pods) == len(ends), within=PATIENCE)
    assert {pod["status"]["phase"] for pod in pods} == {"Succeeded"}
