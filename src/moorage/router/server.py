"""The router as a whole: the table in force, its pools, the listening socket, slow-client limits, draining."""

from __future__ import annotations

import asyncio
import secrets
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass

from moorage.router.access_log import AccessLog, AccessRecord
from moorage.router.authentication import NOBODY, Check, VerifiedTokens, check_of
from moorage.router.balance import WeightedRotation
from moorage.router.connection import ClientConnection
from moorage.router.metrics import RouterMetrics
from moorage.router.mirror import Drop, Mirror
from moorage.router.replicas import ReplicaPool
from moorage.router.upstream import close_idle
from moorage.specs.routing import EndpointRoute, RoutingTable

_SWEEP_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Limits:
    """What a client may do. Times in seconds.

    Args:
        body_bytes: largest request; the default is the original's 100 MiB.
        header_bytes: request line and headers together.
        headers: number of header fields.
        receive_seconds: longest silence in the middle of a request.
        idle_seconds: longest silence between requests.
    """

    body_bytes: int = 100 * 1024 * 1024
    header_bytes: int = 64 * 1024
    headers: int = 128
    receive_seconds: float = 30.0
    idle_seconds: float = 75.0


class ServedEndpoint:
    """An endpoint of the table with what must outlive a table: its pools and the positions in its rotations."""

    __slots__ = ("_mirrored", "_rotation", "denies", "pools", "route")

    def __init__(self, route: EndpointRoute, denies: Check = NOBODY) -> None:
        self.route = route
        # Why a caller with this Authorization header is not let in, or None.
        self.denies = denies
        self.pools: dict[str, ReplicaPool] = {}
        self._rotation = WeightedRotation(route.traffic)
        self._mirrored: dict[str, WeightedRotation] = {}

    def update(self, route: EndpointRoute) -> None:
        if route.traffic != self.route.traffic:
            self._rotation = WeightedRotation(route.traffic)
        if route.mirror != self.route.mirror:
            self._mirrored = {}
        self.route = route

    def admits_as(self, route: EndpointRoute) -> bool:
        """Whether `route` lets the very same callers in, so that their tokens need not be looked at again."""
        return (self.route.key_digests, self.route.tokens) == (route.key_digests, route.tokens)

    def choose(self, pinned: str) -> ReplicaPool | None:
        """The pool of the pinned deployment, or by traffic; None when there is none."""
        name = pinned or self._rotation.choose()
        return self.pools.get(name) if name else None

    def choose_mirror(self, deployment: str) -> ReplicaPool | None:
        """The pool that gets a copy of a request to `deployment`; None when this one is not copied.

        Each deployment with traffic has a rotation of its own: one for all would, where the shares have a common measure, copy the
        requests of always the same deployment.
        """
        mirror = self.route.mirror
        if not mirror:
            return None
        rotation = self._mirrored.get(deployment)
        if rotation is None:
            rotation = self._mirrored[deployment] = WeightedRotation({"": 100 - sum(mirror.values()), **mirror})
        return self.pools.get(rotation.choose() or "")


class Router:
    """Give it tables with `replace`, sockets with `listen`. All methods belong to one event loop; `now` (seconds since 1970) ends tokens."""

    def __init__(
        self,
        log: AccessLog,
        *,
        limits: Limits | None = None,
        loop: asyncio.AbstractEventLoop | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.loop = loop or asyncio.get_running_loop()
        self.limits = limits or Limits()
        self.draining = False
        self.ready = False
        self._endpoints: dict[str, ServedEndpoint] = {}
        self._verified = VerifiedTokens()
        self._now = now
        self._pools: dict[tuple[str, str], ReplicaPool] = {}
        self.metrics = RouterMetrics(self._pools)
        self.mirror = Mirror(self.loop, self._note_copy)
        self._log = log
        log.on_error = self._log_lost
        self._connections: set[ClientConnection] = set()
        self._servers: list[asyncio.Server] = []
        self._sweeper: asyncio.TimerHandle | None = None
        self._emptied = asyncio.Event()
        self._emptied.set()
        self._id_prefix = secrets.token_hex(6)
        self._id_count = 0

    def replace(self, table: RoutingTable) -> None:
        """Put a table in force between two requests; none in flight or queue is lost by it."""
        self.ready = True
        self.metrics.tables += 1
        for name in self._endpoints.keys() - table.endpoints.keys():
            del self._endpoints[name]
        for name, route in table.endpoints.items():
            served = self._endpoints.get(name)
            if served is None:
                served = self._endpoints[name] = ServedEndpoint(route, check_of(route, self._verified, self._now))
            else:
                if not served.admits_as(route):
                    served.denies = check_of(route, self._verified, self._now)
                served.update(route)
            for deployment in served.pools.keys() - route.deployments.keys():
                del served.pools[deployment]
            for deployment, spec in route.deployments.items():
                pool = self._pools.get((name, deployment))
                if pool is None:
                    pool = self._pools[name, deployment] = ReplicaPool(spec, self.loop)
                    pool.dropped = close_idle
                elif pool.route != spec:
                    pool.update(spec)
                served.pools[deployment] = pool
        wanted = {(name, deployment) for name, route in table.endpoints.items() for deployment in route.deployments}
        for key in self._pools.keys() - wanted:
            self._pools.pop(key).close()
        self.metrics.forget(table.endpoints)

    def endpoint(self, name: str) -> ServedEndpoint | None:
        return self._endpoints.get(name)

    def new_request_id(self) -> str:
        """Unique and cheap: random per process, counted within it."""
        self._id_count += 1
        return f"{self._id_prefix}-{self._id_count:08x}"

    async def listen(self, host: str, port: int, *, sock: socket.socket | None = None) -> tuple[str, int]:
        """Accept connections; returns the address, of interest when `port` is 0. OSError when it is taken."""
        if sock is not None:
            server = await self.loop.create_server(lambda: ClientConnection(self), sock=sock, backlog=1024)
        else:
            server = await self.loop.create_server(lambda: ClientConnection(self), host, port, backlog=1024)
        self._servers.append(server)
        bound = server.sockets[0].getsockname()
        return bound[0], bound[1]

    async def drain(self, seconds: float) -> int:
        """Stop accepting, let what runs finish for at most `seconds`, then close. Returns how many connections were cut."""
        self.draining = True
        for server in self._servers:
            server.close()
        for connection in list(self._connections):
            if connection.state == "idle":
                connection.close()
        try:
            async with asyncio.timeout(seconds):
                await self._emptied.wait()
        except TimeoutError:
            pass
        cut = len(self._connections)
        for connection in list(self._connections):
            connection.abort()
        self.mirror.close()
        for pool in self._pools.values():
            pool.close()
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        await asyncio.sleep(0)
        self._log.close()
        return cut

    # Used by connections and exchanges

    def opened(self, connection: ClientConnection) -> None:
        self._connections.add(connection)
        self._emptied.clear()
        if self._sweeper is None:
            self._sweeper = self.loop.call_later(_SWEEP_SECONDS, self._sweep)

    def closed(self, connection: ClientConnection) -> None:
        self._connections.discard(connection)
        if not self._connections:
            self._emptied.set()

    def note(self, record: AccessRecord) -> None:
        self.metrics.count(record)
        self._log.write(record)

    def _note_copy(self, record: AccessRecord, dropped: Drop | None) -> None:
        self.metrics.count_copy(record, dropped.value if dropped is not None else "")
        self._log.write(record)

    def _sweep(self) -> None:
        """Close whoever is silent for too long. Runs only while there are connections."""
        self._sweeper = None
        now = self.loop.time()
        for connection in list(self._connections):
            allowed = {"idle": self.limits.idle_seconds, "receiving": self.limits.receive_seconds}.get(connection.state)
            if allowed is not None and now - connection.last_activity > allowed:
                connection.close()
        if self._connections:
            self._sweeper = self.loop.call_later(_SWEEP_SECONDS, self._sweep)

    def _log_lost(self, error: OSError) -> None:
        self.metrics.lost_log_batches += 1
