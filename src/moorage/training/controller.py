"""Wiring of the training operator to the controller runtime."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from moorage.kube.configuration import Child, ControllerConfig, Labelled, Related, Update, lies_in
from moorage.kube.kinds import CONFIG_MAP, EVENT, INSTANCE_TYPE, JOB, NAMESPACE, POD, POD_GROUP, PVC, TRAINING_JOB
from moorage.specs.manifest import Manifest
from moorage.specs.security import ENFORCE_LABEL
from moorage.training import claims
from moorage.training.reconcile import reconcile

_OURS = "moorage.dev/job"


def config(namespace: str | None = None, *, pinned: Mapping[str, str] | None = None, grouped: bool = False) -> ControllerConfig:
    """The controller of TrainingJobs in one namespace, or in all.

    Args:
        pinned: labels of the nodes that workloads may use (`nodeSelector.KEY`).
        grouped: the cluster serves Volcano's PodGroup, so that the pods of a job of several get a place together or not at all.
    """
    groups = (Child(POD_GROUP, labels=_OURS),) if grouped else ()
    return ControllerConfig(
        name="training",
        parent=TRAINING_JOB,
        reconcile=partial(reconcile, pinned=pinned or {}, grouped=grouped),
        manager="moorage-training",
        children=(Child(JOB, labels=_OURS, update=Update.ON_DELETE), Child(CONFIG_MAP, labels=_OURS, update=Update.ON_DELETE), *groups),
        # By label and not through the Job: pods outlive it for as long as they end, and a job is Canceled only once they are gone.
        descendants=(Labelled(POD, (_OURS,), _label),),
        related=(
            Related(INSTANCE_TYPE),
            Related(PVC, labels=f"{claims.LABEL}=true"),
            Related(NAMESPACE, labels=f"{ENFORCE_LABEL}=restricted", concerns=lies_in),
            # What a Job's controller says when it cannot create a pod stands nowhere else.
            Related(EVENT, fields="involvedObject.kind=Job,reason=FailedCreate", concerns=_is_about),
        ),
        shared=(PVC,),
        namespace=namespace,
    )


def _is_about(job: Manifest, event: Manifest) -> bool:
    # The Job has the TrainingJob's name.
    return bool((event.get("involvedObject") or {}).get("name") == job["metadata"]["name"])


def _label(job: Manifest) -> tuple[str, ...]:
    return (job["metadata"]["name"],)
