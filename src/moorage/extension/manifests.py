"""What the extension puts into a cluster, as a pure function of its settings. Everything but the CRDs and cluster roles lives in `azureml`."""

from __future__ import annotations

from dataclasses import dataclass

from moorage import __version__
from moorage.extension.settings import ExtensionSettings
from moorage.specs.manifest import Manifest
from moorage.wire import crds

NAMESPACE = "azureml"
AGENT = "gateway"
ROUTER = "azureml-fe-v2"
ROUTER_SERVICE = "azureml-fe"
CONNECTION_SECRET = "moorage-agent"
COMPONENT_IMAGE = f"moorage.dev/component:{__version__}"
MANAGED_BY = {"app.kubernetes.io/managed-by": "moorage"}
# Tolerated by the extension's own pods (spec, "Taints that ML workloads tolerate").
SYSTEM_TOLERATIONS: tuple[Manifest, ...] = (
    {"key": "ml.azure.com/amlarc", "operator": "Equal", "value": "true"},
    {"key": "ml.azure.com/amlarc-system", "operator": "Equal", "value": "true"},
)


@dataclass(frozen=True, slots=True)
class Connection:
    """How the agent reaches the workspace service. `token` is a secret and goes into one Secret only."""

    url: str
    registration: str
    token: str
    ca: str


@dataclass(frozen=True, slots=True)
class Component:
    """One row of `extension show`: a capability by its documented name, and the Deployment that carries it (None: not installed, with the reason)."""

    name: str
    kind: str
    carried_by: str | None
    note: str = ""


def components(settings: ExtensionSettings) -> list[Component]:
    """The documented components this installation has or leaves out, in the order of the spec's table."""
    rows = [
        Component("relayserver", "Deployment", AGENT, "part of the gateway, which always dials out"),
        Component("gateway", "Deployment", AGENT),
    ]
    if settings.training:
        rows.append(Component("aml-operator", "Deployment", AGENT))
    if settings.inference:
        rows.append(Component("amlarc-identity-controller", "Deployment", AGENT, "renews the workloads' tokens"))
        rows.append(Component("azureml-fe-v2", "Deployment", ROUTER))
        rows.append(Component("inference-operator-controller-manager", "Deployment", AGENT))
    later = "not part of this version"
    rows.append(Component("metrics-controller-manager", "Deployment", None, later))
    rows.append(Component("prometheus-operator", "Deployment", None, later))
    if settings.training:
        rows.append(
            Component(
                "volcano-scheduler",
                "Deployment",
                None,
                "jobs of one instance need none; those of several become gangs where it is installed",
            )
        )
    rows.append(Component("fluent-bit", "DaemonSet", None, "the agent carries job and deployment logs itself"))
    return rows


def render(name: str, settings: ExtensionSettings, connection: Connection) -> list[Manifest]:
    """Every object in the order to apply: namespace and CRDs first, Deployments last."""
    objects: list[Manifest] = [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}},
        *crds.definitions(),
        _service_account(AGENT),
        _agent_role(settings),
        _binding(AGENT),
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": CONNECTION_SECRET, "namespace": NAMESPACE},
            "type": "Opaque",
            "stringData": {"url": connection.url, "cluster": connection.registration, "token": connection.token, "ca.crt": connection.ca},
        },
        _deployment(
            AGENT, agent_container(settings), settings, volumes=[{"name": "connection", "secret": {"secretName": CONNECTION_SECRET}}]
        ),
    ]
    if settings.inference and settings.router_service is not None:
        objects += [
            _service_account(ROUTER),
            _router_role(),
            _binding(ROUTER),
            _router_service(settings),
            _deployment(ROUTER, router_container(), settings, volumes=[]),
        ]
    for each in objects:
        labels = each["metadata"].setdefault("labels", {})
        labels.update(MANAGED_BY | {"moorage.dev/extension": name})
    return objects


def agent_container(settings: ExtensionSettings) -> Manifest:
    """Gateway, operators and token renewal share one process: less memory than the original's four Deployments (budget in the spec)."""
    roles = [role for role, wanted in (("training", settings.training), ("inference", settings.inference)) if wanted]
    return {
        "name": "agent",
        "command": ["moorage", "run", "agent"],
        "args": [
            *(f"--enable={role}" for role in roles),
            *(f"--node-selector={key}={value}" for key, value in settings.node_selector.items()),
        ],
        "ports": [{"name": "health", "containerPort": 8081}],
        "volumeMounts": [{"name": "connection", "mountPath": "/etc/moorage/connection", "readOnly": True}],
        "resources": {"requests": {"cpu": "50m", "memory": "128Mi"}, "limits": {"cpu": "1", "memory": "512Mi"}},
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "livenessProbe": {"httpGet": {"path": "/healthz", "port": "health"}, "periodSeconds": 10, "failureThreshold": 6},
        "readinessProbe": {"httpGet": {"path": "/readyz", "port": "health"}, "periodSeconds": 2, "failureThreshold": 3},
    }


def router_container() -> Manifest:
    return {
        "name": "router",
        "command": ["moorage", "run", "router"],
        "ports": [{"name": "http", "containerPort": 8080}, {"name": "health", "containerPort": 8081}],
        "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"cpu": "2", "memory": "512Mi"}},
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "livenessProbe": {"httpGet": {"path": "/healthz", "port": "health"}, "periodSeconds": 10, "failureThreshold": 6},
        "readinessProbe": {"httpGet": {"path": "/readyz", "port": "health"}, "periodSeconds": 2, "failureThreshold": 3},
    }


def _deployment(name: str, container: Manifest, settings: ExtensionSettings, *, volumes: list[Manifest]) -> Manifest:
    selector = {"app.kubernetes.io/component": name}
    pod: Manifest = {
        "serviceAccountName": name,
        "nodeSelector": {"kubernetes.io/os": "linux"} | dict(settings.node_selector),
        "tolerations": list(SYSTEM_TOLERATIONS),
        "securityContext": {"runAsNonRoot": True, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [
            container
            | {
                "image": COMPONENT_IMAGE,
                "env": [
                    {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                    {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                    {"name": "POD_NAMESPACE", "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}},
                ],
                "securityContext": {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}},
            }
        ],
    }
    if volumes:
        pod["volumes"] = volumes
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": NAMESPACE, "labels": dict(selector)},
        "spec": {
            "replicas": 1,
            # Two agents at once would be safe (leases, idempotent streams) but the new one would only wait for the old one.
            "strategy": {"type": "Recreate"}
            if name == AGENT
            else {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
            "selector": {"matchLabels": selector},
            "template": {"metadata": {"labels": selector | MANAGED_BY}, "spec": pod},
        },
    }


def _router_service(settings: ExtensionSettings) -> Manifest:
    assert settings.router_service is not None
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": ROUTER_SERVICE, "namespace": NAMESPACE},
        "spec": {
            "type": settings.router_service.value,
            "selector": {"app.kubernetes.io/component": ROUTER},
            "ports": [{"name": "http", "port": 80, "targetPort": "http", "protocol": "TCP"}],
        },
    }


def _service_account(name: str) -> Manifest:
    return {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": NAMESPACE}}


def _binding(name: str) -> Manifest:
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": f"moorage-{name}"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": f"moorage-{name}"},
        "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": NAMESPACE}],
    }


# Verbs, each used on the way (tests/real/test_main_job.py compares them with the audit log). Server-side apply is `patch`, and `create` for what is new.
_WATCH = ["list", "watch"]
_OWN = ["get", "create", "patch", "delete"]


def _agent_role(settings: ExtensionSettings) -> Manifest:
    """What the agent does, verb by verb. It may write Secrets (the workloads' tokens) but list none."""
    ours = ("trainingjobs", "onlineendpoints", "onlinedeployments")
    rules: list[Manifest] = [
        {"apiGroups": [""], "resources": ["nodes", "services", "persistentvolumeclaims", "configmaps"], "verbs": _WATCH},
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", *_WATCH]},
        {"apiGroups": [""], "resources": ["pods/log"], "verbs": ["get"]},
        {"apiGroups": [""], "resources": ["namespaces"], "verbs": [*_WATCH, "create"]},
        {"apiGroups": [""], "resources": ["persistentvolumeclaims"], "verbs": ["create"]},
        {"apiGroups": [""], "resources": ["events"], "verbs": ["get", *_WATCH, "create", "patch"]},
        {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get", "create", "patch"]},
        {"apiGroups": [""], "resources": ["configmaps"], "verbs": _OWN},
        {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["get", "create", "update"]},
        {"apiGroups": ["amlarc.azureml.com"], "resources": ["instancetypes"], "verbs": _WATCH},
        {"apiGroups": ["moorage.dev"], "resources": list(ours), "verbs": [*_WATCH, *_OWN]},
        {"apiGroups": ["moorage.dev"], "resources": [f"{plural}/status" for plural in ours], "verbs": ["patch"]},
        # Whoever makes an object that blocks its owner's deletion must be allowed this, where OwnerReferencesPermissionEnforcement is on (OpenShift).
        {"apiGroups": ["moorage.dev"], "resources": [f"{plural}/finalizers" for plural in ours], "verbs": ["update"]},
    ]
    if settings.training:
        rules.append({"apiGroups": ["batch"], "resources": ["jobs"], "verbs": [*_WATCH, *_OWN]})
        # Gangs, where there is Volcano; and the pods of a job of several are told of each other by an annotation.
        rules.append({"apiGroups": ["scheduling.volcano.sh"], "resources": ["podgroups"], "verbs": [*_WATCH, *_OWN]})
        volcano = {"resources": ["customresourcedefinitions"], "resourceNames": ["podgroups.scheduling.volcano.sh"]}
        rules.append({"apiGroups": ["apiextensions.k8s.io"], **volcano, "verbs": _WATCH})
        rules.append({"apiGroups": [""], "resources": ["pods"], "verbs": ["patch"]})
    if settings.inference:
        rules.append({"apiGroups": ["apps"], "resources": ["deployments"], "verbs": [*_WATCH, *_OWN]})
        rules.append({"apiGroups": [""], "resources": ["services"], "verbs": _OWN})
    return _cluster_role(AGENT, rules)


def _router_role() -> Manifest:
    """The router reads, and no Secret: endpoints hold digests of keys. Which generation of them it serves it says in their status."""
    return _cluster_role(
        ROUTER,
        [
            {"apiGroups": ["moorage.dev"], "resources": ["onlineendpoints", "onlinedeployments"], "verbs": _WATCH},
            {"apiGroups": ["moorage.dev"], "resources": ["onlineendpoints/status"], "verbs": ["patch"]},
            {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": _WATCH},
        ],
    )


def _cluster_role(name: str, rules: list[Manifest]) -> Manifest:
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": {"name": f"moorage-{name}"},
        "rules": rules,
    }
