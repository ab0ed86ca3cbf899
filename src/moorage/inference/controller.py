"""Wiring of the inference operator to the controller runtime."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from moorage.ids import label_value
from moorage.inference import endpoint
from moorage.inference.manifests import INSTANCE_LABEL
from moorage.inference.reconcile import reconcile
from moorage.kube.configuration import Child, ControllerConfig, Labelled, Related, lies_in
from moorage.kube.kinds import CONFIG_MAP, DEPLOYMENT, INSTANCE_TYPE, NAMESPACE, ONLINE_DEPLOYMENT, ONLINE_ENDPOINT, POD, PVC, SERVICE
from moorage.specs.manifest import Manifest
from moorage.specs.security import ENFORCE_LABEL

_OURS = "moorage.dev/deployment"
_MANAGER = "moorage-inference"


def config(namespace: str | None = None, *, pinned: Mapping[str, str] | None = None) -> ControllerConfig:
    """The controller of OnlineDeployments in one namespace, or in all. `pinned`: labels of the nodes that workloads may use (`nodeSelector.KEY`)."""
    return ControllerConfig(
        name="inference",
        parent=ONLINE_DEPLOYMENT,
        reconcile=partial(reconcile, pinned=pinned or {}),
        manager=_MANAGER,
        children=(Child(CONFIG_MAP, labels=_OURS), Child(DEPLOYMENT, labels=_OURS), Child(SERVICE, labels=_OURS)),
        # The first key keeps other applications' pods, which carry the second too, out of memory.
        descendants=(Labelled(POD, (_OURS, INSTANCE_LABEL), _labels),),
        related=(Related(INSTANCE_TYPE), Related(NAMESPACE, labels=f"{ENFORCE_LABEL}=restricted", concerns=lies_in)),
        shared=(PVC,),
        namespace=namespace,
    )


def endpoint_config(namespace: str | None = None) -> ControllerConfig:
    """The controller of OnlineEndpoints."""
    return ControllerConfig(
        name="inference-endpoints",
        parent=ONLINE_ENDPOINT,
        reconcile=endpoint.reconcile,
        manager=_MANAGER,
        related=(Related(ONLINE_DEPLOYMENT, concerns=endpoint.belongs),),
        namespace=namespace,
    )


def _labels(deployment: Manifest) -> tuple[str, ...]:
    return label_value(deployment["spec"]["deployment"]), deployment["metadata"]["name"]
