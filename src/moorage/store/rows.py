"""What the store hands out: frozen rows, free of any database type."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from moorage.ids import Workspace
from moorage.specs.manifest import Manifest


@dataclass(frozen=True, slots=True)
class ResourceKey:
    """Which resource: `ResourceKey(w, "jobs", "j1")`, `ResourceKey(w, "environments/versions", "3", "sklearn")`.

    Args:
        workspace: its address; compared without regard to case.
        type: the ARM type below the workspace, e.g. `onlineEndpoints/deployments`.
        name: the last name in the id; a version resource's name is the version.
        parent: the name before it, for two-part types.
    """

    workspace: Workspace
    type: str
    name: str
    parent: str = ""

    @property
    def id(self) -> str:
        """The ARM id, in the casing of `workspace` and `type`."""
        if self.type == "workspaces":
            return self.workspace.id
        outer, _, inner = self.type.partition("/")
        return self.workspace.child(outer, self.parent, inner, self.name) if inner else self.workspace.child(outer, self.name)


@dataclass(frozen=True, slots=True)
class Resource:
    """One ARM resource as stored.

    Attributes:
        body: what the client sent (tags, location, identity, sku, properties), unknown keys included.
        state: what the service itself knows and clients do not send (status, provisioning, hashes).
        lookup: a second, indexed key, e.g. a code's hash or a job's parent.
        version: counts writes; the guard of optimistic updates.
        sequence: counts creations over all resources; the cursor of paging.
    """

    key: ResourceKey
    body: Manifest
    state: Manifest
    lookup: str
    archived: bool
    created_at: datetime
    created_by: str
    modified_at: datetime
    modified_by: str
    version: int
    sequence: int

    @property
    def id(self) -> str:
        return self.key.id

    @property
    def name(self) -> str:
        return self.key.name

    @property
    def properties(self) -> Manifest:
        found = self.body.get("properties")
        return found if isinstance(found, dict) else {}

    @property
    def etag(self) -> str:
        return f'"{self.sequence}-{self.version}"'


class OperationStatus(StrEnum):
    IN_PROGRESS = "InProgress"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    CANCELED = "Canceled"


@dataclass(frozen=True, slots=True)
class Operation:
    """A long-running operation on the resource whose ARM id is `target`."""

    id: str
    workspace: str
    target: str
    kind: str
    status: OperationStatus
    error_code: str
    error_message: str
    created_at: datetime
    finished_at: datetime | None


@dataclass(frozen=True, slots=True, order=True)
class ObjectName:
    """A desired object within its cluster: kind, namespace, name."""

    kind: str
    namespace: str
    name: str


@dataclass(frozen=True, slots=True)
class Cluster:
    """A registered cluster.

    Attributes:
        id: the registration, an opaque path segment of the gateway protocol.
        arm_id: the id users know, `/subscriptions/.../connectedClusters/NAME`.
        body: what the client sent.
        inventory: the last InventoryReport, as JSON; empty before the first.
        last_seen: when its agent last spoke.
        revision: that of the newest change among its desired objects.
        floor: the oldest revision an agent can still resume from; deletions before it are forgotten.
        agent_instance, agent_sequence: the last accepted report batch; the instance is followed by earlier lives, newest first.
    """

    id: str
    arm_id: str
    body: Manifest
    inventory: Manifest
    created_at: datetime
    last_seen: datetime | None
    revision: int
    floor: int
    agent_instance: str
    agent_sequence: int


@dataclass(frozen=True, slots=True)
class DesiredOwner:
    """Which resource wants an object: a job, endpoint or deployment."""

    workspace: Workspace
    type: str
    name: str
    parent: str = ""

    @property
    def key(self) -> ResourceKey:
        return ResourceKey(self.workspace, self.type, self.name, self.parent)


@dataclass(frozen=True, slots=True)
class DesiredObject:
    """A wanted object, or (`object` is None) the memory that it is wanted no more."""

    cluster: str
    name: ObjectName
    revision: int
    object: Manifest | None
    owner: DesiredOwner


@dataclass(frozen=True, slots=True)
class ReportedStatus:
    """The last status a cluster reported of one object."""

    cluster: str
    name: ObjectName
    uid: str
    generation: int
    status: Manifest
    logs_complete: bool
    gone: bool
    reported_at: datetime


@dataclass(frozen=True, slots=True)
class ClusterEvent:
    cluster: str
    name: ObjectName
    uid: str
    about: str
    type: str
    reason: str
    message: str
    count: int
    time: datetime


@dataclass(frozen=True, slots=True)
class Lease:
    """Exclusive right to work on `name` until `expires_at`; `token` grows with every change of hands and fences late writes."""

    name: str
    owner: str
    token: int
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Part:
    """A run of a blob's bytes, which is one immutable object of the artifact store; `block` is the id of the block it came in, if any."""

    object: str
    size: int
    block: str = ""


@dataclass(frozen=True, slots=True)
class Blob:
    """A committed blob: its bytes are `parts`, one after the other. `headers` are those that whoever wrote it wants shown, e.g. `Content-Encoding`."""

    container: str
    name: str
    size: int
    md5: str
    etag: str
    content_type: str
    created_at: datetime
    modified_at: datetime
    metadata: dict[str, str] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    parts: tuple[Part, ...] = ()
