"""Where a workload can go: the compute target it names, its cluster as last reported, and the cluster's instance types."""

from __future__ import annotations

from dataclasses import dataclass

from moorage.errors import Conflict, Invalid
from moorage.ids import Workspace
from moorage.specs.computes import known_instance_types
from moorage.specs.endpoints import ProvisioningState
from moorage.specs.instance_type import InstanceType
from moorage.specs.manifest import Manifest
from moorage.store import Cluster, Resource, ResourceKey, Transaction
from moorage.wire.manifests import Placement

# As the original calls compute that belongs to nobody; here it is a name that a compute target can have.
SERVERLESS = "serverless"


@dataclass(frozen=True, slots=True)
class Place:
    """A usable compute target.

    Attributes:
        compute: its resource.
        cluster: the registration behind it.
        placement: for rendering manifests.
        types: the cluster's instance types by name.
    """

    compute: Resource
    cluster: Cluster
    placement: Placement
    types: dict[str, InstanceType]


def compute_name(text: str) -> str:
    """The compute's name in any spelling: full id, `azureml:NAME`, `{W}/computes/azureml:NAME` (as the Python SDK sends it), or bare."""
    return text.rpartition("/")[2].removeprefix("azureml:")


def find_place(tx: Transaction, workspace: Workspace, text: str, *, target: str) -> Place:
    """The compute a workload names.

    One that names none means what the original calls serverless: the compute of that name, and where there is none the workspace's only one.

    Args:
        text: its id or name; "" and `serverless` for none.

    Raises:
        Invalid: unknown (with the list), none named of several, or not (yet) attached.
        Conflict: being detached.
    """
    name = compute_name(text) or SERVERLESS
    compute = tx.resources.find(ResourceKey(workspace, "computes", name))
    if compute is not None:
        return place_of(tx, compute, target=target)
    known = tx.resources.names(workspace, "computes")
    names = ", ".join(known) or "none yet"
    if name != SERVERLESS:
        raise Invalid(
            f"{target}: the workspace has no compute '{name}' (it has: {names}). Name one of these, or attach a cluster (compute attach).",
            code="ComputeNotFound",
            target=target,
        )
    if len(known) != 1:
        raise Invalid(
            f"{target}: no compute is named, and the workspace has {len(known) or 'none yet'}{f' ({names})' if known else ''}. Name one "
            f"(compute: azureml:NAME), or attach a cluster under the name {SERVERLESS}: what names no compute goes there.",
            code="ComputeNotFound",
            target=target,
        )
    return place_of(tx, tx.resources.get(ResourceKey(workspace, "computes", known[0])), target=target)


def place_of(tx: Transaction, compute: Resource, *, target: str) -> Place:
    """The place behind a compute that is ready for work."""
    if compute.state.get("detaching"):
        raise Conflict(f"{target}: compute '{compute.name}' is being detached.", code="ComputeDetaching", target=target)
    state = compute.state.get("provisioningState")
    if state != ProvisioningState.SUCCEEDED:
        raise Invalid(
            f"{target}: compute '{compute.name}' is not ready for work: its provisioning state is {state}. "
            f"See: moorage compute show --name {compute.name}.",
            code="ComputeNotReady",
            target=target,
        )
    cluster = tx.clusters.get(compute.lookup)
    return Place(compute, cluster, placement_of(compute), known_types(cluster))


def placement_of(compute: Resource) -> Placement:
    inner = compute.properties.get("properties") or {}
    return Placement(compute.key.workspace, compute.name, str(inner.get("namespace") or "default"))


def known_types(cluster: Cluster) -> dict[str, InstanceType]:
    found: list[Manifest] = cluster.inventory.get("instanceTypes") or []
    return known_instance_types(found)
