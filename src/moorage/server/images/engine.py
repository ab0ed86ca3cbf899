"""Builds what is asked for: a few images at once, each by one process under a lease, from the rows alone, so that the end of any process loses nothing.

A build whose process dies is done anew by the next one, once the lease is over; its builder has ended by then (shim.py). A build that nobody waits for any
more is stopped.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from uuid import uuid4

from moorage.errors import Conflict, Invalid, MoorageError, Unavailable
from moorage.server.background import background
from moorage.server.images import builds
from moorage.server.images.builder import build, clear, explained, read_command, workplace
from moorage.server.images.builds import TOPIC, Claim
from moorage.server.images.context import Space, download
from moorage.server.images.log import BuildLog, copy_log
from moorage.server.images.release import Outcome, end, end_unreadable, leave
from moorage.server.services import Services
from moorage.specs.image_build import BUILD_LOG, suggested_name
from moorage.specs.uris import join
from moorage.store import Bell, Resource, ResourceKey, Transaction
from moorage.wire.assets import BuildContext

_BEAT = timedelta(seconds=5)
_ASLEEP_AT_MOST = timedelta(seconds=30)
_RETRY_SECONDS = 1.0
_log = logging.getLogger(__name__)


@asynccontextmanager
async def image_builds(services: Services) -> AsyncIterator[None]:
    """Runs the engine for as long as the context lasts. Builds that are going on are stopped at its end, and done anew by the next process."""
    engine = _Engine(services)
    try:
        async with background(engine.run(), name="image-builds"):
            yield
    finally:
        await engine.stop()


class _Engine:
    def __init__(self, services: Services) -> None:
        self._services = services
        self._owner = uuid4().hex
        self._running: dict[ResourceKey, asyncio.Task[None]] = {}
        self._told = False
        self._space = Space(services.settings.builds)

    async def run(self) -> None:
        with self._services.store.changes.subscribe(TOPIC) as bell:
            while True:
                wait = _ASLEEP_AT_MOST
                try:
                    if await self._look(bell):
                        # A lease of a process that died ends without a bell.
                        wait = _BEAT
                except MoorageError as error:
                    # The database is away, or another process was faster; everything is found again at the next look.
                    _log.warning("image builds wait: %s", error.message)
                await bell.wait(wait)

    async def stop(self) -> None:
        for task in self._running.values():
            task.cancel()
        await asyncio.gather(*self._running.values(), return_exceptions=True)

    async def _look(self, bell: Bell) -> bool:
        """Let cancelled jobs go, and begin what can be begun; whether anything is active."""
        store, settings = self._services.store, self._services.settings
        if not self._running:
            # The next build would do it as well, but where no builder is configured any more there is none.
            await asyncio.to_thread(clear, settings.builds)
        going = await store.read(_leaving)
        for job, log in going:
            copied = await _copy(self._services, job, log)
            await store.write(lambda tx, job=job, copied=copied: _let_go(tx, job.key, with_log=copied))  # type: ignore[misc]
        for row in await store.read(builds.unreadable):
            if row.key not in self._running and await store.write(lambda tx, key=row.key: end_unreadable(tx, key, self._owner)):  # type: ignore[misc]
                _log.error(
                    "what was noted of the build of %s in %s cannot be read; the build has failed", row.key.name, row.key.workspace.id
                )
        active = await store.read(builds.active)
        if not active:
            return False
        if not settings.image_builder and not self._told:
            self._told = True
            _log.warning("%d image builds wait for an image builder; none is configured (MOORAGE_IMAGE_BUILDER)", len(active))
        room = settings.image_builds - len(self._running) if settings.image_builder else 0
        busy = frozenset(self._running)
        for claim in await store.write(lambda tx: builds.claim(tx, self._owner, room, busy)):
            task = asyncio.create_task(self._build(claim), name=f"image-build {claim.build.label}")
            self._running[claim.key] = task
            task.add_done_callback(lambda task, key=claim.key: self._done(key, task, bell))  # type: ignore[misc]
        return True

    def _done(self, key: ResourceKey, task: asyncio.Task[None], bell: Bell) -> None:
        del self._running[key]
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("a build of an image broke off; it is done anew once its lease is over", exc_info=error)
        bell.ring()

    async def _build(self, claim: Claim) -> None:
        """One attempt, to its end or to the point where it is not ours any more."""
        keeping = asyncio.create_task(self._keep(claim))
        making = asyncio.create_task(_make(self._services, claim, self._space))
        try:
            await asyncio.wait({keeping, making}, return_when=asyncio.FIRST_COMPLETED)
            if not making.done():
                making.cancel()
                await asyncio.wait({making})
                if not keeping.result():
                    return
                await self._end(claim, Outcome())
            else:
                await self._end(claim, making.result())
        except asyncio.CancelledError:
            making.cancel()
            await asyncio.wait({making})
            # The service stops: whoever comes next may begin at once.
            with contextlib.suppress(Unavailable):
                await self._services.store.write(lambda tx: tx.leases.release(claim.lease))
            raise
        finally:
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)

    async def _keep(self, claim: Claim) -> bool:
        """Hold the lease; return True once nobody waits for the build any more, False when it is another process's."""
        store, lease = self._services.store, claim.lease

        def renew(tx: Transaction) -> bool:
            tx.leases.renew(claim.lease, builds.LEASE)
            row = tx.resources.find(claim.key)
            return row is not None and builds.is_wanted(tx, row)

        with store.changes.subscribe(TOPIC) as bell:
            while True:
                try:
                    if not await store.write(renew):
                        return True
                    lease = replace(lease, expires_at=self._services.now() + builds.LEASE)
                except Conflict:
                    return False
                except Unavailable:
                    if self._services.now() >= lease.expires_at:
                        return False
                await bell.wait(_BEAT)

    async def _end(self, claim: Claim, outcome: Outcome) -> None:
        logs: dict[ResourceKey, bool] = {}
        while True:
            try:
                missing = await self._services.store.write(lambda tx: end(tx, claim, outcome, logs))
                if not missing:
                    return
                for job in missing:
                    logs[job.key] = await _copy(self._services, job, claim.build.log)
            except Conflict as error:
                _log.warning("the end of a build of %s is not kept: %s", claim.build.label, error.message)
                return
            except Unavailable as error:
                _log.warning("the end of a build of %s cannot be kept yet: %s", claim.build.label, error.message)
                await asyncio.sleep(_RETRY_SECONDS)


async def _make(services: Services, claim: Claim, space: Space) -> Outcome:
    """Bring the context here, run the builder, and tidy up; errors of all of that are the build's outcome."""
    settings, build_row = services.settings, claim.build
    context = BuildContext(build_row.environment, build_row.version, build_row.address, build_row.dockerfile, build_row.digest)
    name = suggested_name(claim.key.workspace.id, context.environment, context.version, context.digest)
    log = BuildLog(services.blobs, build_row.log)
    async with log.growing():
        try:
            async with asyncio.timeout(settings.image_build_timeout.total_seconds()):
                command = read_command(settings.image_builder, target="MOORAGE_IMAGE_BUILDER")
                async with workplace(settings.builds) as place:
                    files, size = await download(services.store, services.blobs, context, place.context, space)
                    log.add(f"Building {name} from {files} files, {size:,} bytes, {context.dockerfile}\n".encode())
                    image = await build(command, place, context.dockerfile, name, log)
            log.add(f"Built {image}\n".encode())
            return Outcome(image)
        except TimeoutError:
            late = f"it took longer than {settings.image_build_timeout} (MOORAGE_IMAGE_BUILD_TIMEOUT)."
            error: MoorageError = Invalid(late, code="ImageBuildTimedOut")
        except MoorageError as failure:
            error = failure
        message = explained(build_row.label, error.message, log)
        log.add(f"Not built: {error.message}\n".encode())
        return Outcome(error=Invalid(message, code=error.code))


def _leaving(tx: Transaction) -> list[tuple[Resource, str]]:
    return [(each, builds.build_of(row).log) for row in builds.active(tx) for each in builds.waiters(tx, row) if builds.leaving(each)]


def _let_go(tx: Transaction, key: ResourceKey, *, with_log: bool) -> None:
    job = tx.resources.find(key)
    if job is not None and builds.held(job) is not None and builds.leaving(job):
        leave(tx, job, with_log=with_log)


async def _copy(services: Services, job: Resource, log: str) -> bool:
    artifacts = str(job.state.get("artifacts") or "")
    container, _, folder = artifacts.partition("/")
    return await copy_log(services.blobs, log, f"{container}/{join(folder, BUILD_LOG)}")
