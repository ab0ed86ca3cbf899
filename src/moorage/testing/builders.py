"""Readable builders of manifests for tests: each gives the smallest valid object, and keyword arguments say what the test is about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from moorage.kube.kinds import (
    CONFIG_MAP,
    DEPLOYMENT,
    INSTANCE_TYPE,
    JOB,
    NAMESPACE,
    NODE,
    ONLINE_DEPLOYMENT,
    ONLINE_ENDPOINT,
    POD,
    PVC,
    SECRET,
    SERVICE,
    TRAINING_JOB,
    Kind,
)
from moorage.kube.metadata import owner_reference
from moorage.specs.manifest import Manifest


def an_object(
    kind: Kind,
    name: str,
    *,
    namespace: str = "default",
    labels: Mapping[str, str] | None = None,
    owner: Manifest | None = None,
    finalizers: Sequence[str] = (),
    **body: Any,
) -> Manifest:
    """Any object: metadata from the arguments, everything else from `body`."""
    metadata: Manifest = {"name": name}
    if kind.namespaced:
        metadata["namespace"] = namespace
    if labels:
        metadata["labels"] = dict(labels)
    if owner is not None:
        metadata["ownerReferences"] = [owner_reference(owner)]
    if finalizers:
        metadata["finalizers"] = list(finalizers)
    return {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": metadata, **body}


def a_namespace(name: str, **rest: Any) -> Manifest:
    return an_object(NAMESPACE, name, **rest)


def a_config_map(name: str, data: Mapping[str, str] | None = None, **rest: Any) -> Manifest:
    return an_object(CONFIG_MAP, name, data=dict(data or {}), **rest)


def a_secret(name: str, data: Mapping[str, str] | None = None, **rest: Any) -> Manifest:
    return an_object(SECRET, name, stringData=dict(data or {}), **rest)


def a_container(
    name: str = "main",
    *,
    command: Sequence[str] = ("true",),
    image: str = "example.com/image:1",
    requests: Mapping[str, str] | None = None,
    **rest: Any,
) -> Manifest:
    resources = {"resources": {"requests": dict(requests)}} if requests else {}
    return {"name": name, "image": image, "command": list(command), **resources, **rest}


def a_pod_spec(*containers: Manifest, restart: str = "Never", grace: int = 0, **spec: Any) -> Manifest:
    return {
        "containers": list(containers or (a_container(),)),
        "restartPolicy": restart,
        "terminationGracePeriodSeconds": grace,
        **spec,
    }


def a_pod(name: str, *containers: Manifest, spec: Mapping[str, Any] | None = None, **rest: Any) -> Manifest:
    return an_object(POD, name, spec=a_pod_spec(*containers, **(spec or {})), **rest)


def a_node(name: str, *, cpu: str = "4", memory: str = "8Gi", ready: bool = True, gpus: int = 0, **rest: Any) -> Manifest:
    size = {"cpu": cpu, "memory": memory, "pods": "110", **({"nvidia.com/gpu": str(gpus)} if gpus else {})}
    condition = {
        "type": "Ready",
        "status": "True" if ready else "False",
        "reason": "Test",
        "message": "",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }
    return an_object(NODE, name, status={"capacity": size, "allocatable": dict(size), "conditions": [condition]}, **rest)


def a_job(name: str, *containers: Manifest, spec: Mapping[str, Any] | None = None, **rest: Any) -> Manifest:
    return an_object(JOB, name, spec={"backoffLimit": 0, "template": {"spec": a_pod_spec(*containers)}, **(spec or {})}, **rest)


def a_deployment(name: str, *containers: Manifest, replicas: int = 1, **rest: Any) -> Manifest:
    chosen = {"app": name}
    template = {"metadata": {"labels": chosen}, "spec": a_pod_spec(*containers, restart="Always")}
    return an_object(DEPLOYMENT, name, spec={"replicas": replicas, "selector": {"matchLabels": chosen}, "template": template}, **rest)


def a_service(name: str, *, port: int = 80, target: int = 8080, selector: Mapping[str, str] | None = None, **rest: Any) -> Manifest:
    ports = [{"name": "http", "port": port, "targetPort": target, "protocol": "TCP"}]
    return an_object(SERVICE, name, spec={"ports": ports, "selector": dict(selector or {"app": name})}, **rest)


def a_claim(name: str, *, size: str = "1Gi", **rest: Any) -> Manifest:
    return an_object(PVC, name, spec={"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}}, **rest)


def an_instance_type(name: str, *, cpu: str = "1", memory: str = "1Gi", gpus: int = 0, **spec: Any) -> Manifest:
    size = {"cpu": cpu, "memory": memory}
    limits = {**size, **({"nvidia.com/gpu": gpus} if gpus else {})}
    return an_object(INSTANCE_TYPE, name, spec={"resources": {"requests": size, "limits": limits}, **spec})


def a_training_job(
    name: str, *, command: str = "true", namespace: str = "default", labels: Mapping[str, str] | None = None, **spec: Any
) -> Manifest:
    whole = {
        "workspace": "ws",
        "resourceGroup": "rg",
        "subscription": "sub",
        "compute": "local",
        "job": name,
        "command": command,
        "environment": {"image": "example.com/image:1"},
        **spec,
    }
    return an_object(TRAINING_JOB, name, namespace=namespace, labels=labels, spec=whole)


def an_online_endpoint(name: str, *, namespace: str = "default", labels: Mapping[str, str] | None = None, **spec: Any) -> Manifest:
    whole = {
        "workspace": "ws",
        "resourceGroup": "rg",
        "subscription": "sub",
        "compute": "local",
        "endpoint": name,
        "authMode": "Key",
        **spec,
    }
    return an_object(ONLINE_ENDPOINT, name, namespace=namespace, labels=labels, spec=whole)


def an_online_deployment(name: str, *, namespace: str = "default", labels: Mapping[str, str] | None = None, **spec: Any) -> Manifest:
    whole = {
        "workspace": "ws",
        "resourceGroup": "rg",
        "subscription": "sub",
        "compute": "local",
        "endpoint": "ep",
        "deployment": name,
        "environment": {"image": "example.com/image:1"},
        **spec,
    }
    return an_object(ONLINE_DEPLOYMENT, name, namespace=namespace, labels=labels, spec=whole)
