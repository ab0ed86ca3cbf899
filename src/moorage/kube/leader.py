"""Leader election over a coordination.k8s.io Lease: of several candidates one works. Times are measured on this process's own clock from when a
change of the Lease was seen, never by what others wrote into it, so that clocks may differ and jump."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta

from moorage.clock import Clock, now, rfc3339_micro
from moorage.errors import Conflict, MoorageError, NotFound
from moorage.kube.backoff import Backoff
from moorage.kube.cluster import Cluster
from moorage.kube.kinds import LEASE
from moorage.specs.manifest import Manifest

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LeaseConfig:
    """Which Lease, and how long it lasts (client-go's defaults).

    Args:
        identity: this candidate; unique per process, e.g. the pod's name with its uid.
        duration: how long others wait after the last renewal they saw.
        renew_deadline: the leader stops working when it could not renew for this long; under `duration`.
        retry: pause between attempts, to renew as well as to acquire.
    """

    name: str
    namespace: str
    identity: str
    duration: timedelta = timedelta(seconds=15)
    renew_deadline: timedelta = timedelta(seconds=10)
    retry: timedelta = timedelta(seconds=2)


class LeaderElection:
    """Runs work while it is the leader, and only then."""

    def __init__(self, cluster: Cluster, config: LeaseConfig, *, clock: Clock = now) -> None:
        if config.renew_deadline >= config.duration:
            raise ValueError("renew_deadline must be under duration, or two leaders work at once")
        self._cluster = cluster
        self._config = config
        self._clock = clock
        self._lease: Manifest | None = None
        self._seen_at = 0.0
        self.leading = False

    async def run(self, work: Callable[[], Awaitable[None]]) -> None:
        """Acquire, run `work`, and start over when leadership is lost; returns when `work` does. Gives the lease back on the way out."""
        while True:
            await self._acquire()
            if await self._lead(work):
                return

    async def _acquire(self) -> None:
        pauses = Backoff(self._config.retry, self._config.retry, jitter=0.2)
        while True:
            if await self._try():
                break
            await asyncio.sleep(pauses.next().total_seconds())
        log.info("leading with lease %s/%s as %s", self._config.namespace, self._config.name, self._config.identity)

    async def _lead(self, work: Callable[[], Awaitable[None]]) -> bool:
        """Whether `work` came to its own end; False when leadership was lost."""
        self.leading = True
        working = asyncio.ensure_future(work())
        renewing = asyncio.create_task(self._renew(), name="lease renewal")
        try:
            await asyncio.wait({working, renewing}, return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                working.result()
                return True
            renewing.result()
            log.warning("lost lease %s/%s; stopping work", self._config.namespace, self._config.name)
            return False
        finally:
            for task in (working, renewing):
                task.cancel()
            await asyncio.gather(working, renewing, return_exceptions=True)
            self.leading = False
            await self._release()

    async def _renew(self) -> None:
        """Renew until that has failed for `renew_deadline`, or somebody else holds the lease."""
        loop = asyncio.get_running_loop()
        renewed = loop.time()
        while loop.time() - renewed < self._config.renew_deadline.total_seconds():
            await asyncio.sleep(self._config.retry.total_seconds())
            left = renewed + self._config.renew_deadline.total_seconds() - loop.time()
            try:
                async with asyncio.timeout(max(left, 0)):
                    held = await self._try()
            except TimeoutError:
                return
            if held:
                renewed = loop.time()
            elif self._holder() not in ("", self._config.identity):
                return

    def _holder(self) -> str:
        return str(((self._lease or {}).get("spec") or {}).get("holderIdentity") or "")

    async def _try(self) -> bool:
        """One attempt to hold the lease; False when it is another's or the cluster did not answer."""
        try:
            return await self._hold()
        except Conflict:
            return False  # another candidate was faster; the next look shows who
        except MoorageError as error:
            log.warning("lease %s/%s: %s", self._config.namespace, self._config.name, error)
            return False

    async def _hold(self) -> bool:
        config, loop = self._config, asyncio.get_running_loop()
        try:
            lease = await self._cluster.get(LEASE, config.name, config.namespace)
        except NotFound:
            self._see(await self._cluster.create(LEASE, self._manifest({}, transitions=0)))
            return True
        self._see(lease)
        spec = lease.get("spec") or {}
        holder = spec.get("holderIdentity") or ""
        if holder not in ("", config.identity):
            lasts = float(spec.get("leaseDurationSeconds") or config.duration.total_seconds())
            if loop.time() < self._seen_at + lasts:
                return False
        transitions = int(spec.get("leaseTransitions") or 0) + (holder != config.identity)
        self._see(await self._cluster.replace(LEASE, self._manifest(lease, transitions=transitions)))
        return True

    def _see(self, lease: Manifest) -> None:
        if self._lease is None or self._lease.get("spec") != lease.get("spec"):
            self._seen_at = asyncio.get_running_loop().time()
        self._lease = lease

    def _manifest(self, known: Manifest, *, transitions: int) -> Manifest:
        config, moment, spec = self._config, rfc3339_micro(self._clock()), known.get("spec") or {}
        metadata = known.get("metadata") or {"name": config.name, "namespace": config.namespace}
        acquired = spec.get("acquireTime") if spec.get("holderIdentity") == config.identity else None
        return {
            "apiVersion": LEASE.api_version,
            "kind": LEASE.kind,
            "metadata": metadata,
            "spec": {
                "holderIdentity": config.identity,
                "leaseDurationSeconds": max(1, round(config.duration.total_seconds())),
                "acquireTime": acquired or moment,
                "renewTime": moment,
                "leaseTransitions": transitions,
            },
        }

    async def _release(self) -> None:
        """Let the next candidate in at once. When that fails the lease runs out by itself."""
        if self._lease is None or self._holder() != self._config.identity:
            return
        released = {**self._lease, "spec": {**self._lease["spec"], "holderIdentity": "", "leaseDurationSeconds": 1}}
        self._lease = None
        try:
            async with asyncio.timeout(self._config.retry.total_seconds()):
                await self._cluster.replace(LEASE, released)
        except (MoorageError, TimeoutError) as error:
            log.info("lease %s/%s could not be given back: %s", self._config.namespace, self._config.name, error)
