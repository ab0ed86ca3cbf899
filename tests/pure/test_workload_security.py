"""Who pods run as, held against the Pod Security Standards, and what is said of pods that the cluster refuses."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest
from tests.pure import test_inference_reconcile as serving
from tests.pure import test_training_reconcile as training

from moorage.kube.reconcile import Observed
from moorage.specs import refusal
from moorage.specs.manifest import Manifest
from moorage.specs.security import ENFORCE_LABEL

# https://kubernetes.io/docs/concepts/security/pod-security-standards/
BASELINE_CAPABILITIES = {
    "AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD", "NET_BIND_SERVICE", "SETFCAP", "SETGID", "SETPCAP", "SETUID",
    "SYS_CHROOT",
}  # fmt: skip
RESTRICTED_VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}


def containers(pod: Manifest) -> Iterator[tuple[str, Manifest]]:
    for container in (*pod["initContainers"], *pod["containers"]):
        yield container["name"], container.get("securityContext") or {}


def breaches_of_baseline(pod: Manifest) -> list[str]:
    found = [key for key in ("hostNetwork", "hostPID", "hostIPC") if pod.get(key)]
    found += [volume["name"] for volume in pod["volumes"] if "hostPath" in volume]
    for name, context in containers(pod):
        if context.get("privileged") or set((context.get("capabilities") or {}).get("add") or ()) - BASELINE_CAPABILITIES:
            found.append(name)
        if (context.get("seccompProfile") or {}).get("type") == "Unconfined":
            found.append(name)
    return found


def breaches_of_restricted(pod: Manifest) -> list[str]:
    found = breaches_of_baseline(pod)
    found += [volume["name"] for volume in pod["volumes"] if not (volume.keys() - {"name"} <= RESTRICTED_VOLUMES)]
    for name, context in containers(pod):
        capabilities = context.get("capabilities") or {}
        if (
            context.get("allowPrivilegeEscalation") is not False
            or context.get("runAsNonRoot") is not True
            or not context.get("runAsUser")
            or "ALL" not in (capabilities.get("drop") or ())
            or set(capabilities.get("add") or ()) - {"NET_BIND_SERVICE"}
            or (context.get("seccompProfile") or {}).get("type") not in ("RuntimeDefault", "Localhost")
        ):
            found.append(name)
    return found


def namespace(name: str, level: str = "restricted") -> Manifest:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": {ENFORCE_LABEL: level}}}


def pod_of(kind: str, *namespaces: Manifest, **changes: Any) -> Manifest:
    module: Any = training if kind == "training" else serving
    parent = training.training_job(**changes) if kind == "training" else serving.online_deployment(**changes)
    seen: Observed = module.see(parent)
    plan = module.reconcile(dataclasses.replace(seen, related={**seen.related, "Namespace": list(namespaces)}))
    found: Manifest = plan.children[1]["spec"]["template"]["spec"]
    return found


KINDS = pytest.mark.parametrize("kind", ["training", "serving"])


@KINDS
def test_every_container_conforms_where_the_namespace_enforces_restricted(kind: str) -> None:
    pod = pod_of(kind, namespace("team"))
    assert breaches_of_restricted(pod) == []
    assert pod["securityContext"] == {"fsGroup": 1000, "fsGroupChangePolicy": "OnRootMismatch"}
    main = pod["containers"][0]
    assert main["securityContext"]["runAsUser"] == main["securityContext"]["runAsGroup"] == 1000
    # Its home is on a volume that it may write to.
    home = next(item["value"] for item in main["env"] if item["name"] == "HOME")
    mounts = {mount["mountPath"]: mount for mount in main["volumeMounts"]}
    assert not mounts[home].get("readOnly")


@KINDS
@pytest.mark.parametrize("others", [(), (namespace("other"),), (namespace("team", "baseline"),)])
def test_elsewhere_the_code_runs_as_its_image_says_and_ours_as_ordinary_users(kind: str, others: tuple[Manifest, ...]) -> None:
    pod = pod_of(kind, *others)
    assert breaches_of_baseline(pod) == []
    # The uploads can read what only root may, since the code may be root.
    assert breaches_of_restricted(pod) == (["upload"] if kind == "training" else []) + ["main"]
    main = pod["containers"][0]
    assert not {"runAsUser", "runAsGroup", "runAsNonRoot", "capabilities"} & main["securityContext"].keys()
    assert "HOME" not in {item["name"] for item in main["env"]}


@KINDS
def test_claims_of_others_keep_their_group_unless_a_volume_of_ours_needs_one(kind: str) -> None:
    assert pod_of(kind, environment={"image": "i"})["securityContext"] == {}
    assert pod_of(kind)["securityContext"]["fsGroup"] == 1000


def test_a_users_own_home_counts() -> None:
    env = pod_of("training", namespace("team"), environmentVariables={"HOME": "/data/me"})["containers"][0]["env"]
    assert [item["value"] for item in env if item["name"] == "HOME"] == ["/data/me"]


def event(message: str, *, uid: str = "job-1", time: str = "2026-11-22T11:00:00Z") -> Manifest:
    about = {"kind": "Job", "name": "train-1-ab", "namespace": "team", "uid": uid}
    return {"metadata": {"name": "e"}, "involvedObject": about, "reason": "FailedCreate", "message": message, "lastTimestamp": time}


PSA = (
    'Error creating: pods "train-1-ab-x7k2p" is forbidden: violates PodSecurity "restricted:latest": runAsNonRoot != true '
    '(pod or container "main" must set securityContext.runAsNonRoot=true)'
)


@pytest.mark.parametrize(
    ("words", "reason", "said"),
    [
        (PSA, "PodSecurityRefused", "label the namespace pod-security.kubernetes.io/enforce=restricted"),
        (f"(combined from similar events): {PSA}", "PodSecurityRefused", 'pod: violates PodSecurity "restricted:latest": runAsNonRoot'),
        (
            'Error creating: pods "a" is forbidden: exceeded quota: q, requested: limits.cpu=1, used: limits.cpu=4, limited: limits.cpu=4',
            "QuotaExceeded",
            "limited: limits.cpu=4. It is tried again and goes on when there is room",
        ),
        ('Error creating: pods "a" is forbidden: failed quota: q: must specify limits.x for: main', "QuotaRefused", "out of the quota"),
        (
            'Error creating: pods "a" is forbidden: maximum memory usage per Container is 1Gi, but limit is 2Gi',
            "LimitRangeRefused",
            "Choose an instance type within",
        ),
        (
            'Error creating: pods "a" is forbidden: [minimum cpu usage per Pod is 2, but request is 1, maximum memory usage per Pod is 1Gi]',
            "LimitRangeRefused",
            "minimum cpu usage per Pod is 2",
        ),
        ('Error creating: admission webhook "p.example" denied the request: no', "AdmissionRefused", "denied the request: no. Ask whoever"),
        (
            "Error creating: pods \"a\" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'b' denied request: no",
            "AdmissionRefused",
            "Ask whoever",
        ),
        (
            'Error creating: Internal error occurred: failed calling webhook "p.example": failed to call webhook: Post "https://p": EOF',
            "AdmissionFailed",
            "does not answer",
        ),
        (
            'Error creating: pods "a" is forbidden: error looking up service account team/default: serviceaccount "default" not found',
            "ServiceAccountMissing",
            "tried again",
        ),
        ('Error creating: Pod "a-1" is invalid: spec.x: Forbidden', "PodRefused", "pod: is invalid: spec.x: Forbidden. It is tried again."),
        ("Error creating: ", "PodRefused", "no reason was given. It"),
    ],
)
def test_a_refusal_is_told_in_the_clusters_words_with_the_remedy(words: str, reason: str, said: str) -> None:
    found = refusal.explained(words)
    assert found.reason == reason
    assert found.reason in refusal.REASONS
    assert said in found.message


def refused(events: list[Manifest], pods: list[Manifest] | None = None) -> Manifest:
    children = training.job_with(training.reconcile(training.see(training.training_job())))
    children[1]["metadata"]["uid"] = "job-1"
    seen = training.see(training.training_job(), children=children, pods=pods or [])
    status = training.reconcile(dataclasses.replace(seen, related={**seen.related, "Event": events})).status
    assert status is not None
    return status


def test_a_job_whose_pod_is_refused_says_so_while_it_waits() -> None:
    status = refused([event(PSA)])
    assert (status["phase"], status["reason"]) == ("Queued", "PodSecurityRefused")
    condition = next(each for each in status["conditions"] if each["type"] == "Succeeded")
    assert condition["status"] == "Unknown"
    assert "violates PodSecurity" in condition["message"]


def test_the_pods_new_name_at_every_try_changes_nothing() -> None:
    again = event(PSA.replace("x7k2p", "q2w4e"), time="2026-11-22T11:01:00Z")
    assert refused([event(PSA), again]) == refused([event(PSA)])


def test_refusals_of_an_earlier_job_of_the_name_and_of_before_the_pod_do_not_count() -> None:
    assert refused([event(PSA, uid="job-0")])["reason"] == "Starting"
    ended = training.pod("Failed", node="n1")
    assert refused([event(PSA, time="2026-11-22T10:00:00Z")], [ended])["phase"] == "Preparing"
    assert refused([event(PSA, time="2026-11-22T11:00:00Z")], [ended])["reason"] == "PodSecurityRefused"
    assert refused([event(PSA)], [training.pod("Running", main=training.RUNNING)])["phase"] == "Running"


def test_a_refusal_is_recorded_once() -> None:
    children = training.job_with(training.reconcile(training.see(training.training_job())))
    children[1]["metadata"]["uid"] = "job-1"
    job = training.training_job()
    for events in ([("Warning", "PodSecurityRefused")], []):
        seen = training.see(job, children=children)
        plan = training.reconcile(dataclasses.replace(seen, related={**seen.related, "Event": [event(PSA)]}))
        assert [each[:2] for each in plan.events] == events
        job["status"] = plan.status


def test_a_deployment_tells_of_its_refused_replicas_and_serves_on() -> None:
    failure = {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": PSA.removeprefix("Error creating: ")}
    parent = serving.online_deployment()
    children = serving.living(parent, conditions=[failure])
    status = serving.status_of(serving.reconcile(serving.see(parent, children=children)))
    assert (status["phase"], status["reason"]) == ("Creating", "PodSecurityRefused")
    late = {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"}
    children = serving.living(parent, conditions=[failure, late])
    status = serving.status_of(serving.reconcile(serving.see(parent, children=children)))
    assert (status["phase"], status["reason"]) == ("Failed", "DeadlineExceeded")
    assert "violates PodSecurity" in status["message"]
