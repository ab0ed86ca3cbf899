"""Resource ids and names: ARM ids, and the Kubernetes names derived from them.

Kubernetes names are a pure function of the workspace's names, so that every write is idempotent under a retry.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from moorage.errors import Invalid

_PROVIDER = "Microsoft.MachineLearningServices"
_WORKSPACE_ID = re.compile(
    r"^/?subscriptions/(?P<sub>[^/]+)/resourceGroups/(?P<rg>[^/]+)/providers/Microsoft\.MachineLearningServices/workspaces/(?P<ws>[^/]+)(?P<rest>/.*)?$",
    re.IGNORECASE,
)
_CLUSTER_ID = re.compile(
    r"^/subscriptions/(?P<sub>[^/]+)/resourceGroups/(?P<rg>[^/]+)/providers/"
    r"(?P<kind>Microsoft\.Kubernetes/connectedClusters|Microsoft\.ContainerService/managedClusters)/(?P<name>[^/]+)$",
    re.IGNORECASE,
)
# RFC 1123 label: the strictest of Kubernetes' name rules, so that a name fits every kind.
_DNS_LABEL = re.compile(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")
_KUBE_NAME_LIMIT = 63


@dataclass(frozen=True, slots=True, order=True)
class Workspace:
    """A workspace's address; all three parts are opaque path segments."""

    subscription: str
    resource_group: str
    name: str

    @property
    def id(self) -> str:
        """`/subscriptions/S/resourceGroups/G/providers/Microsoft.MachineLearningServices/workspaces/W`."""
        return f"/subscriptions/{self.subscription}/resourceGroups/{self.resource_group}/providers/{_PROVIDER}/workspaces/{self.name}"

    def child(self, *segments: str) -> str:
        """The id of something in the workspace: `child("jobs", "j1")`."""
        return "/".join((self.id, *segments))


def parse_workspace_id(text: str) -> tuple[Workspace, tuple[str, ...]]:
    """Split an ARM id into its workspace and the segments after it (`("jobs", "j1")`); Invalid when it is none."""
    found = _WORKSPACE_ID.match(text)
    if not found:
        raise Invalid(
            f"'{text}' is not a workspace resource id (/subscriptions/S/resourceGroups/G/providers/{_PROVIDER}/workspaces/W/...)."
        )
    rest = tuple(part for part in (found["rest"] or "").split("/") if part)
    return Workspace(found["sub"], found["rg"], found["ws"]), rest


@dataclass(frozen=True, slots=True, order=True)
class ClusterId:
    """A cluster's ARM-shaped id; `connected` clusters dial out, `managed` ones may be reached."""

    subscription: str
    resource_group: str
    name: str
    connected: bool = True

    def __str__(self) -> str:
        kind = "Microsoft.Kubernetes/connectedClusters" if self.connected else "Microsoft.ContainerService/managedClusters"
        return f"/subscriptions/{self.subscription}/resourceGroups/{self.resource_group}/providers/{kind}/{self.name}"


def parse_cluster_id(text: str) -> ClusterId:
    """Read a cluster's resource id; Invalid, naming both accepted forms, when it is none."""
    found = _CLUSTER_ID.match(text)
    if not found:
        raise Invalid(
            f"'{text}' is not a cluster's resource id. Use /subscriptions/S/resourceGroups/G/providers/Microsoft.Kubernetes/connectedClusters/NAME "
            "or .../Microsoft.ContainerService/managedClusters/NAME.",
            target="resource_id",
        )
    return ClusterId(found["sub"], found["rg"], found["name"], connected="connectedclusters" in found["kind"].lower())


def digest(*parts: str, length: int = 8) -> str:
    """A short stable hash of the parts, lower-case hexadecimal."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:length]


def kube_name(workspace: Workspace, *names: str, limit: int = 52) -> str:
    """A Kubernetes name for something of a workspace: readable, a valid DNS label, unique per workspace and names.

    Args:
        workspace: whose it is; two workspaces may share a namespace.
        names: e.g. the job's name, or the endpoint's and the deployment's.
        limit: longest result. 52 leaves 11 characters for what controllers append (`-` + 10) within 63.
    """
    if limit > _KUBE_NAME_LIMIT:
        raise ValueError(f"limit {limit} is over {_KUBE_NAME_LIMIT}")
    suffix = digest(workspace.id.lower(), *names)
    slug = re.sub(r"[^a-z0-9]+", "-", "-".join(names).lower()).strip("-") or "x"
    if not slug[0].isalpha():
        slug = f"x{slug}"
    return f"{slug[: limit - len(suffix) - 1].rstrip('-')}-{suffix}"


def is_dns_label(text: str) -> bool:
    """Whether Kubernetes takes it as a namespace or Service name."""
    return len(text) <= _KUBE_NAME_LIMIT and bool(_DNS_LABEL.match(text))


def label_value(text: str) -> str:
    """A label value that stands for any text: itself where allowed, else cut and hashed (63 characters of `[A-Za-z0-9._-]`)."""
    cleaned = re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-._")
    return text if cleaned == text and len(text) <= _KUBE_NAME_LIMIT else f"{cleaned[:54].rstrip('-._') or 'x'}-{digest(text)}"
