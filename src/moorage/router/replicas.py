"""Who may run where: exact concurrency per replica and one bounded first-in-first-out queue per deployment, with a second one behind it for copies.

A slot is held until the replica has really finished, even when the client has gone or timed out: run() cannot be interrupted, and
handing the slot on would put a second request on a replica that promised to take one.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

from moorage.router.balance import least_busy
from moorage.specs.routing import Address, DeploymentRoute

# A replica that refused a connection is left out this long; readiness from the cluster decides soon after.
SUSPECT_SECONDS = 1.0


class Refusal(Enum):
    """Why a request got no replica."""

    QUEUE_FULL = "too many requests are pending"
    WAITED_TOO_LONG = "no replica became free in time"
    NO_REPLICA = "the deployment has no healthy replica"


@dataclass(slots=True, eq=False)
class Replica:
    """One address, how many requests it holds now, and idle connections to it (kept by `upstream`)."""

    address: Address
    busy: int = 0
    removed: bool = False
    suspect_until: float = 0.0
    idle: list[object] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class Waiter:
    """A queued request: `granted` is called with a replica, or `refused` with the reason, exactly one of them and once."""

    granted: Callable[[Replica], None]
    refused: Callable[[Refusal], None]
    tried: frozenset[Address]
    timer: asyncio.TimerHandle | None = None


class ReplicaPool:
    """The replicas of one deployment with their queue. Lives as long as the deployment; a new table changes it in place."""

    __slots__ = ("_loop", "_rotation", "_wake", "copies", "dropped", "queue", "replicas", "route")

    def __init__(self, route: DeploymentRoute, loop: asyncio.AbstractEventLoop) -> None:
        self.route = route
        self.replicas: list[Replica] = [Replica(address) for address in route.replicas]
        self.queue: deque[Waiter] = deque()
        # Copies of requests to other deployments. Callers who name this deployment go before them.
        self.copies: deque[Waiter] = deque()
        self._loop = loop
        self._rotation = 0
        self._wake: asyncio.TimerHandle | None = None
        # Called with each replica that is no longer in the table, so that its idle connections are closed.
        self.dropped: Callable[[Replica], None] = lambda replica: None

    @property
    def busy(self) -> int:
        """Requests at replicas now, copies among them; with `waiting` the autoscaler's signal."""
        return sum(replica.busy for replica in self.replicas)

    @property
    def waiting(self) -> int:
        """Requests and copies in the queues."""
        return len(self.queue) + len(self.copies)

    def update(self, route: DeploymentRoute) -> None:
        """Take over a new route: replicas that stay keep their load, removed ones finish what they have, new ones serve the queue at once."""
        self.route = route
        known = {replica.address: replica for replica in self.replicas}
        self.replicas = [known.pop(address) if address in known else Replica(address) for address in route.replicas]
        for replica in known.values():
            replica.removed = True
            self.dropped(replica)
        self._serve_queue()

    def close(self) -> None:
        """The deployment is gone: what waits is refused, what runs goes on."""
        self.update(DeploymentRoute(self.route.name, (), self.route.concurrency, self.route.queue_wait, self.route.timeout))
        for queue in (self.queue, self.copies):
            while queue:
                self._refuse(queue.popleft(), Refusal.NO_REPLICA)

    def acquire(
        self,
        granted: Callable[[Replica], None],
        refused: Callable[[Refusal], None],
        tried: frozenset[Address] = frozenset(),
        *,
        copy: bool = False,
    ) -> Waiter | None:
        """Ask for a slot. Answers at once through a callback, or queues and returns the Waiter, which `cancel` takes.

        Args:
            granted: gets the replica; the caller owes one `release`.
            refused: gets the reason.
            tried: replicas that already failed this request.
            copy: of another deployment's request: it waits behind all who are no copies, in a queue of the same size.
        """
        queue = self.copies if copy else self.queue
        if (not queue or tried) and not (copy and self.queue) and (replica := self._free(tried)) is not None:
            replica.busy += 1
            granted(replica)
            return None
        if tried and all(replica.address in tried for replica in self.replicas):
            refused(Refusal.NO_REPLICA)
            return None
        # As many may wait as may run, the managed service's rule: 2 x concurrency x instances in all (contract/router.md).
        if not tried and len(queue) >= max(1, len(self.replicas)) * self.route.concurrency:
            refused(Refusal.QUEUE_FULL)
            return None
        waiter = Waiter(granted, refused, tried)
        waiter.timer = self._loop.call_later(self.route.queue_wait.total_seconds(), self._expire, waiter)
        if tried:
            # A retry keeps its place: it was at the head of the queue before.
            queue.appendleft(waiter)
        else:
            queue.append(waiter)
        self._wake_when_trusted()
        return waiter

    def cancel(self, waiter: Waiter) -> None:
        """The client has gone; its place in the queue is given up."""
        if waiter.timer is not None:
            waiter.timer.cancel()
        for queue in (self.queue, self.copies):
            if waiter in queue:
                queue.remove(waiter)

    def release(self, replica: Replica) -> None:
        """A slot is free again; the head of the queue gets it."""
        replica.busy -= 1
        self._serve_queue()

    def suspect(self, replica: Replica) -> None:
        """A connection to it failed: leave it out for a moment."""
        replica.suspect_until = self._loop.time() + SUSPECT_SECONDS

    def _free(self, tried: frozenset[Address]) -> Replica | None:
        now = self._loop.time()
        usable = [replica for replica in self.replicas if replica.suspect_until <= now and replica.address not in tried]
        if not usable:
            return None
        index = least_busy(usable, self.route.concurrency, self._rotation)
        if index is None:
            return None
        self._rotation = (self._rotation + 1) % 1_000_000_007
        return usable[index]

    def _serve_queue(self) -> None:
        while queue := self.queue or self.copies:
            replica = self._free(queue[0].tried)
            if replica is None:
                self._wake_when_trusted()
                return
            waiter = queue.popleft()
            if waiter.timer is not None:
                waiter.timer.cancel()
            replica.busy += 1
            waiter.granted(replica)

    def _wake_when_trusted(self) -> None:
        """When requests wait only because replicas are suspect, look again as soon as the first is trusted."""
        now = self._loop.time()
        later = [replica.suspect_until for replica in self.replicas if replica.suspect_until > now]
        if later and self._wake is None:
            self._wake = self._loop.call_at(min(later) + 0.001, self._woken)

    def _woken(self) -> None:
        self._wake = None
        self._serve_queue()

    def _expire(self, waiter: Waiter) -> None:
        waiter.timer = None
        self.cancel(waiter)
        waiter.refused(Refusal.WAITED_TOO_LONG if self.replicas else Refusal.NO_REPLICA)

    @staticmethod
    def _refuse(waiter: Waiter, reason: Refusal) -> None:
        if waiter.timer is not None:
            waiter.timer.cancel()
        waiter.refused(reason)
