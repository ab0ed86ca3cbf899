"""The health check: findings with the documented codes (spec "Health check"), as a pure function over what was read from the cluster.

Codes below E45000 stop the operation, the others are told and kept in the report.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from moorage.extension.manifests import MANAGED_BY, NAMESPACE
from moorage.extension.settings import ExtensionSettings
from moorage.specs.manifest import Manifest

# N = 1.37 and the two minors before it (spec "Supported Kubernetes versions").
NEWEST_MINOR = 37
SUPPORTED_MINORS = 3


class Code(StrEnum):
    UNKNOWN_ERROR = "E40000"
    INSUFFICIENT_NODE = "E40002"
    AGENT_UNHEALTHY = "E45001"
    FE_ROLE_CONFLICT = "E45004"
    FE_DEPLOYMENT_CONFLICT = "E45005"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing the check found: what, the evidence for it, and what to do."""

    code: Code
    evidence: str
    remedy: str

    @property
    def critical(self) -> bool:
        return self.code.value < "E45000"

    def __str__(self) -> str:
        return f"{self.code.value} {self.code.name}: {self.evidence} {self.remedy}"


def supported_version(git_version: str) -> bool | None:
    """Whether a server's `gitVersion` lies in the supported window; None when it cannot be read."""
    found = re.match(r"v?1\.(\d+)", git_version)
    if not found:
        return None
    return NEWEST_MINOR - SUPPORTED_MINORS < int(found[1]) <= NEWEST_MINOR


def window() -> str:
    """`1.35, 1.36 or 1.37`, for messages."""
    minors = [f"1.{minor}" for minor in range(NEWEST_MINOR - SUPPORTED_MINORS + 1, NEWEST_MINOR + 1)]
    return f"{', '.join(minors[:-1])} or {minors[-1]}"


def preflight(
    settings: ExtensionSettings, version: str, nodes: Sequence[Manifest], existing: Sequence[Manifest], *, any_version: bool = False
) -> list[Finding]:
    """What speaks against installing.

    Args:
        settings: what is to be installed.
        version: the server's gitVersion.
        nodes: every node.
        existing: live objects that have the names of ours.
        any_version: the user insists on a version outside the window.
    """
    findings: list[Finding] = []
    if supported_version(version) is False and not any_version:
        findings.append(
            Finding(
                Code.UNKNOWN_ERROR,
                f"The cluster runs Kubernetes {version}; supported is {window()}.",
                "Upgrade it, or insist with --any-kubernetes-version.",
            )
        )
    fitting = [node for node in nodes if _ready(node) and _matches(node, settings)]
    if not fitting:
        wanted = ", ".join(f"{key}={value}" for key, value in settings.node_selector.items()) or "any label"
        findings.append(
            Finding(
                Code.INSUFFICIENT_NODE,
                f"Of {len(nodes)} nodes none is ready, schedulable and matches {wanted}.",
                "Add or label nodes, or change nodeSelector.KEY.",
            )
        )
    for each in existing:
        if (found := foreign(each)) is not None:
            findings.append(found)
    return findings


def foreign(manifest: Manifest) -> Finding | None:
    """A finding when the object bears a name of ours and another owner, else None."""
    metadata = manifest["metadata"]
    labels = metadata.get("labels") or {}
    if labels.items() >= MANAGED_BY.items() or manifest["kind"] in ("Namespace", "CustomResourceDefinition"):
        return None
    where = f"{manifest['kind']} {metadata.get('namespace', '')}/{metadata['name']}".replace(" /", " ")
    owner = labels.get("app.kubernetes.io/managed-by", "somebody else")
    code = Code.FE_ROLE_CONFLICT if manifest["kind"].startswith("ClusterRole") else Code.FE_DEPLOYMENT_CONFLICT
    namespace = f" -n {metadata['namespace']}" if metadata.get("namespace") else ""
    return Finding(
        code,
        f"{where} exists and belongs to {owner}.",
        f"Adopt it: kubectl label{namespace} {manifest['kind'].lower()} {metadata['name']} app.kubernetes.io/managed-by=moorage --overwrite; or remove it.",
    )


def unhealthy(pods: Sequence[Manifest]) -> list[Finding]:
    """One finding for every pod of the extension that is not ready, with the reason Kubernetes gives."""
    return [
        Finding(
            Code.AGENT_UNHEALTHY, f"Pod {pod['metadata']['name']}: {why}.", f"kubectl -n {NAMESPACE} describe pod {pod['metadata']['name']}"
        )
        for pod in pods
        if (why := why_not_ready(pod))
    ]


def why_not_ready(pod: Manifest) -> str:
    """Why a pod is not ready, in one phrase; empty when it is."""
    status = pod.get("status") or {}
    conditions = {each["type"]: each for each in status.get("conditions") or []}
    if conditions.get("Ready", {}).get("status") == "True":
        return ""
    if (scheduled := conditions.get("PodScheduled", {})).get("status") == "False":
        return str(scheduled.get("message") or "not scheduled")
    for container in [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]:
        state = container.get("state") or {}
        last = (container.get("lastState") or {}).get("terminated") or {}
        if waiting := state.get("waiting"):
            tail = f"; its last run ended with exit code {last['exitCode']}: {last.get('message', '').strip()}" if last else ""
            return f"container {container['name']} waits: {waiting.get('reason', '')} {waiting.get('message', '')}".strip() + tail
        if (ended := state.get("terminated")) and ended.get("exitCode"):
            return f"container {container['name']} ended with exit code {ended['exitCode']}: {ended.get('message', '').strip()}"
    return f"phase {status.get('phase', 'Pending')}, not ready yet"


# Starts of one container that failed while we looked on: the next ones fail the same way.
_HOPELESS_RESTARTS = 3


class CrashLoop:
    """Asked with the pods as they change: whether a container of one keeps ending while we wait. Restarts from before do not count."""

    def __init__(self) -> None:
        self._before: dict[tuple[str, str], int] = {}

    def __call__(self, pods: Sequence[Manifest]) -> bool:
        hopeless = False
        for pod in pods:
            for container in (pod.get("status") or {}).get("containerStatuses") or []:
                key = pod["metadata"].get("uid", pod["metadata"]["name"]), container["name"]
                restarts = int(container.get("restartCount", 0))
                before = self._before.setdefault(key, restarts)
                waiting = ((container.get("state") or {}).get("waiting") or {}).get("reason")
                hopeless |= waiting == "CrashLoopBackOff" and restarts - before >= _HOPELESS_RESTARTS
        return hopeless


def _ready(node: Manifest) -> bool:
    conditions = (node.get("status") or {}).get("conditions") or []
    ready = any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)
    return ready and not (node.get("spec") or {}).get("unschedulable")


def _matches(node: Manifest, settings: ExtensionSettings) -> bool:
    labels = node["metadata"].get("labels") or {}
    return all(labels.get(key) == value for key, value in settings.node_selector.items())
