"""Access of workload pods: a Secret `NAME-access` beside each desired TrainingJob and OnlineDeployment, whose token is renewed when half of its life
is over, and before a changed spec reaches the cluster: its new pods may read what it names. The time to renew and the spec it was granted for stand
on the Secret, so that a new agent goes on where the last one was."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

import orjson

from moorage.clock import Clock, now, parse_rfc3339, rfc3339
from moorage.errors import MoorageError, NotFound, Unavailable
from moorage.gateway.connection import Connection, Granted, Workspace
from moorage.gateway.desired import MANAGER, Desired, Target, is_desired, target_of
from moorage.kube.cluster import Cluster
from moorage.kube.informer import Informer
from moorage.kube.kinds import SECRET
from moorage.kube.metadata import controller_uid, is_deleting, name_of, namespace_of, owner_reference, uid_of
from moorage.kube.queue import WorkQueue
from moorage.specs.manifest import Manifest

log = logging.getLogger(__name__)

_LABELS = {"app.kubernetes.io/managed-by": "moorage", "app.kubernetes.io/component": "access"}
KINDS_WITH_ACCESS = ("TrainingJob", "OnlineDeployment")
_RENEW_AT = "moorage.dev/renew-at"
_GRANTED_FOR = "moorage.dev/granted-for"
_TERMINAL = frozenset({"Completed", "Failed", "Canceled"})
# Looked at again at least this often: the wall clock may jump, and somebody may delete the Secret.
_LONGEST_WAIT = timedelta(minutes=15)
# An owner's status changes many times in the seconds after its start; its Secret is not read for each.
_FRESH = timedelta(minutes=1)
_WORKERS = 2


def access_name(owner: str) -> str:
    return f"{owner}-access"


def spec_digest(wanted: Manifest | None) -> str:
    """What tells one wanted spec from another; empty when none is known."""
    return hashlib.blake2b(orjson.dumps(wanted["spec"], option=orjson.OPT_SORT_KEYS), digest_size=8).hexdigest() if wanted else ""


def access_secret(owner: Manifest, granted: Granted, ca: str, moment: datetime, *, spec: str = "") -> Manifest:
    """The Secret with the access that was granted at `moment` for a spec of that digest."""
    values = {
        "endpoint": granted.token.endpoint,
        "token": granted.token.token,
        "expires": rfc3339(granted.token.expires),
        "ca.crt": ca,
    }
    return {
        "apiVersion": SECRET.api_version,
        "kind": SECRET.kind,
        "metadata": {
            "name": access_name(name_of(owner)),
            "namespace": namespace_of(owner),
            "labels": _LABELS,
            "annotations": {_RENEW_AT: rfc3339(moment + granted.lifetime / 2), _GRANTED_FOR: spec},
            "ownerReferences": [owner_reference(owner)],
        },
        "type": "Opaque",
        # Not stringData: server-side apply keeps no owner of fields that are never stored.
        "data": {name: base64.b64encode(value.encode()).decode() for name, value in values.items()},
    }


def renew_in(secret: Manifest | None, owner: Manifest, moment: datetime, *, spec: str = "") -> timedelta:
    """How long until the access must be renewed; not positive: now, also when it was granted for another spec than the one of digest `spec`."""
    if secret is None or controller_uid(secret) != uid_of(owner):
        return timedelta(0)
    noted = secret["metadata"].get("annotations") or {}
    if spec and noted.get(_GRANTED_FOR) != spec:
        return timedelta(0)
    try:
        return parse_rfc3339(noted[_RENEW_AT]) - moment
    except (KeyError, ValueError):
        return timedelta(0)


def needs_access(owner: Manifest) -> bool:
    """Whether pods of `owner` still come to the workspace."""
    if is_deleting(owner) or not is_desired(owner):
        return False
    return not (owner["kind"] == "TrainingJob" and (owner.get("status") or {}).get("phase") in _TERMINAL)


@dataclass(frozen=True, slots=True)
class _Kept:
    """What a Secret was found to be, and when (`loop.time()`)."""

    owner: str  # uid
    spec: str
    renew_at: datetime
    looked: float


class AccessKeeper:
    """Keeps the Secrets. It gets them by name: the agent has no right to list Secrets, which would show it everybody's."""

    def __init__(
        self,
        cluster: Cluster,
        workspace: Workspace,
        connection: Connection,
        owners: Mapping[str, Informer],
        desired: Desired,
        *,
        clock: Clock = now,
    ) -> None:
        self._cluster = cluster
        self._workspace = workspace
        self._connection = connection
        self._owners = owners
        self._desired = desired
        self._clock = clock
        self._kept: dict[Target, _Kept] = {}
        self._queue: WorkQueue[Target] = WorkQueue(initial=timedelta(milliseconds=200), maximum=timedelta(seconds=30))
        for kind in KINDS_WITH_ACCESS:
            owners[kind].subscribe(self._owner_changed)

    def _owner_changed(self, old: Manifest | None, new: Manifest | None) -> None:
        if new is not None:
            self._queue.add(target_of(new))
        elif old is not None:
            self._kept.pop(target_of(old), None)

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as group:
            for number in range(_WORKERS):
                group.create_task(self._work(), name=f"access worker {number}")

    async def _work(self) -> None:
        while (target := await self._queue.get()) is not None:
            try:
                await self._keep(target)
            except MoorageError as error:
                pause = self._queue.retry(target)
                log.warning("access of %s %s/%s: %s; again in %.1f s", *target, error, pause.total_seconds())
            else:
                self._queue.forget(target)
            finally:
                self._queue.done(target)

    async def _keep(self, target: Target) -> None:
        owner = self._owners[target.kind].get(target.name, target.namespace)
        if owner is None or not needs_access(owner):
            return
        wait = await self.grant(target, owner, self._desired.get(target))
        self._queue.add_after(target, min(max(wait, timedelta(seconds=1)), _LONGEST_WAIT))

    async def before_change(self, target: Target, live: Manifest, wanted: Manifest) -> None:
        """Grant access for a changed spec before the cluster has it. What a job may read and write is settled when it is submitted."""
        if target.kind == "OnlineDeployment" and needs_access(live):
            await self.grant(target, live, wanted)

    async def grant(self, target: Target, owner: Manifest, wanted: Manifest | None) -> timedelta:
        """Renew the access of `owner` unless it is young and was granted for the wanted spec; when to come again.

        Raises:
            Unavailable: the workspace grants none.
        """
        spec = spec_digest(wanted)
        if (known := self._known(target, owner, spec)) > timedelta(0):
            return known
        try:
            secret = await self._cluster.get(SECRET, access_name(target.name), target.namespace)
        except NotFound:
            secret = None
        wait = renew_in(secret, owner, self._clock(), spec=spec)
        if wait > timedelta(0):
            return self._keep_in_mind(target, owner, spec, wait)
        granted = await self._workspace.tokens([target.key])
        if not granted:
            raise Unavailable("the workspace grants no access to it: it is not desired any more, or not yet")
        secret = access_secret(owner, granted[0], self._connection.ca, self._clock(), spec=spec)
        try:
            made = await self._cluster.apply(SECRET, secret, manager=MANAGER)
        except NotFound:
            return _LONGEST_WAIT  # the namespace is gone, and the owner with it
        return self._keep_in_mind(target, owner, spec, renew_in(made, owner, self._clock(), spec=spec))

    def _known(self, target: Target, owner: Manifest, spec: str) -> timedelta:
        """How long the Secret is as it should be by the last look, when that was a moment ago; zero: look."""
        kept = self._kept.get(target)
        if kept is None or kept.owner != uid_of(owner) or (spec and kept.spec != spec):
            return timedelta(0)
        if asyncio.get_running_loop().time() - kept.looked >= _FRESH.total_seconds():
            return timedelta(0)
        return kept.renew_at - self._clock()

    def _keep_in_mind(self, target: Target, owner: Manifest, spec: str, wait: timedelta) -> timedelta:
        self._kept[target] = _Kept(uid_of(owner), spec, self._clock() + wait, asyncio.get_running_loop().time())
        return wait
