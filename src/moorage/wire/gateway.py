"""The gateway protocol: the two idempotent streams between a cluster's agent and the workspace service.

Down, `GET /gateway/v1/clusters/{cluster}/desired?since=R` answers newline-delimited JSON, one DesiredEvent a line, for as long as the connection
lives. Up, `POST /gateway/v1/clusters/{cluster}/reports` takes a ReportBatch and answers a ReportReceipt. Both sides may die at any line: the
agent resumes the first with the last revision it made true, and repeats the second until a receipt names its sequence number.
`POST /gateway/v1/clusters/{cluster}/tokens` (TokenRequest -> TokenGrant) gives workloads their short-lived access; `POST
/gateway/v1/clusters/{cluster}/answers/{id}` (raw bytes) answers an ASK. All with `Authorization: Bearer <agent token>`.
`{cluster}` is the id of the registration (`ClusterRegistration.id`), an opaque path segment.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from moorage.specs.manifest import Manifest

PREFIX = "/gateway/v1/clusters"
# A blank line this often keeps proxies from cutting an idle stream, and tells the agent that the service lives.
HEARTBEAT_SECONDS = 10
# Annotation of a desired object that has done its work: whoever deletes it in the cluster wants it gone, and it is not made anew.
FINISHED = "moorage.dev/finished"
# Reasons of the agent's events about an object that its cluster does not take: it will not, or it could not be asked just now.
NOT_APPLIED = "NotApplied"
NOT_APPLIED_YET = "NotAppliedYet"


class _Body(BaseModel):
    model_config = ConfigDict(extra="ignore", populate_by_name=True)


class ObjectKey(_Body):
    """Which desired object: the CR's kind, namespace and name."""

    kind: str
    namespace: str
    name: str


class DesiredType(StrEnum):
    RESET = "RESET"  # forget what you hold: every wanted object follows, then SYNCED
    APPLY = "APPLY"  # `object` is wanted as it stands here
    DELETE = "DELETE"  # `key` is not wanted any more
    SYNCED = "SYNCED"  # everything up to `revision` has been sent; after a RESET, delete what was not named
    ASK = "ASK"  # answer `ask` once


class Ask(_Body):
    """A question to the cluster, answered by POST to answers/{id}. Lost when either side restarts; the asker asks again."""

    id: str
    type: Literal["deploymentLogs"]
    key: ObjectKey
    container: Literal["InferenceServer", "StorageInitializer"] = "InferenceServer"
    tail: int = 100


class DesiredEvent(_Body):
    type: DesiredType
    revision: int = 0
    object: Manifest | None = None
    key: ObjectKey | None = None
    ask: Ask | None = None


class StatusReport(_Body):
    """The whole status of one desired object as the cluster has it now. Later ones replace earlier ones."""

    kind: Literal["status"] = "status"
    key: ObjectKey
    uid: str
    generation: int
    status: Manifest
    # The revision of the DesiredEvent that the cluster's object carries; 0 while that is not known; None: the agent does not tell.
    revision: int | None = None
    # True once every log chunk of this job has been acknowledged: the workspace makes a job terminal only then.
    logs_complete: bool = Field(False, alias="logsComplete")


class GoneReport(_Body):
    """A desired object and all it owned is no more."""

    kind: Literal["gone"] = "gone"
    key: ObjectKey


class NodeInfo(_Body):
    name: str
    ready: bool
    schedulable: bool = True
    labels: dict[str, str] = {}
    allocatable: dict[str, str] = {}


class InventoryReport(_Body):
    """What the cluster is and has. Instance types are whole InstanceType manifests."""

    kind: Literal["inventory"] = "inventory"
    kubernetes_version: str = Field(alias="kubernetesVersion")
    distribution: str = ""
    agent_version: str = Field("", alias="agentVersion")
    nodes: list[NodeInfo] = []
    instance_types: list[Manifest] = Field([], alias="instanceTypes")
    # Base address of the router as clients reach it, e.g. http://127.101.0.7:80; empty while there is none.
    router_url: str = Field("", alias="routerUrl")
    extensions: list[Manifest] = []


class EventReport(_Body):
    """A Kubernetes event about a desired object or one of its pods, so that a waiting job can say why."""

    kind: Literal["event"] = "event"
    key: ObjectKey
    uid: str
    about: str  # e.g. Pod/NAME
    type: str
    reason: str
    message: str
    count: int = 1
    time: datetime


class LogReport(_Body):
    """Bytes of one log of a job, from `offset` on. The workspace keeps what it lacks and ignores what it has.

    `stream` is the name under the job's artifacts, e.g. `user_logs/std_log.txt`.
    """

    kind: Literal["log"] = "log"
    key: ObjectKey
    stream: str
    offset: int
    data: str  # base64


Report = Annotated[StatusReport | GoneReport | InventoryReport | EventReport | LogReport, Field(discriminator="kind")]


class ReportBatch(_Body):
    """Reports in order. `instance` names one life of the agent; `sequence` counts up from 1 within it."""

    instance: str
    sequence: int
    reports: list[Report]


class LogPosition(_Body):
    key: ObjectKey
    stream: str
    size: int


class ReportReceipt(_Body):
    """`accepted` is the batch's sequence once all of it is stored. `logs` says how far each log named in the batch now reaches:
    a size under what was sent means the workspace lost its tail (disk restored from a backup): send again from there."""

    accepted: int
    logs: list[LogPosition] = []


class TokenRequest(_Body):
    keys: list[ObjectKey]


class TokenGrant(_Body):
    """Access for workloads, by key in the order asked; a key that is not desired gets none."""

    tokens: list[WorkloadToken]


class WorkloadToken(_Body):
    key: ObjectKey
    # Base address of the blob facade, e.g. https://127.0.0.1:8443/blobstore
    endpoint: str
    token: str
    expires: datetime


TokenGrant.model_rebuild()
