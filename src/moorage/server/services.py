"""What every handler and engine works with, opened once per process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from prometheus_client import CollectorRegistry

from moorage import clock
from moorage.artifacts import Artifacts
from moorage.clock import Clock
from moorage.identity.keyfiles import kept_signing_key, secret_key, signing_key
from moorage.identity.links import Links
from moorage.identity.scoring import ScoringTokens
from moorage.identity.tokens import Tokens
from moorage.server.blobstore import BlobStore
from moorage.server.founding import ensure_workspace
from moorage.server.imports import Imports
from moorage.server.settings import Settings
from moorage.store import Store


@dataclass(frozen=True, slots=True)
class Services:
    """The parts of a running service.

    Attributes:
        settings: as the process was started.
        store: SQL state.
        tokens: issues and verifies bearer tokens.
        scoring: issues tokens that open endpoints; routers verify them.
        blobs: every blob of every workspace.
        links: makes and checks signed links to blobs.
        imports: copies of the operator's files that are under way.
        metrics: what `/metrics` shows; add your collectors to it.
        now: the clock of everything.
    """

    settings: Settings
    store: Store
    blobs: BlobStore
    tokens: Tokens
    scoring: ScoringTokens
    links: Links
    imports: Imports
    metrics: CollectorRegistry
    now: Clock = clock.now


def _scoring(settings: Settings, now: Clock) -> ScoringTokens:
    """The tokens of endpoints. A predecessor kept beside the key (how-to/operate.md) goes on to count for what it signed."""
    previous = kept_signing_key(settings.keys / "scoring-previous.pem")
    return ScoringTokens(
        signing_key(settings.keys / "scoring.pem"),
        [previous.public_key()] if previous is not None else [],
        lifetime=settings.scoring_token_lifetime,
        now=now,
    )


@asynccontextmanager
async def open_services(settings: Settings, *, now: Clock = clock.now) -> AsyncIterator[Services]:
    """Open store and keys, make the default workspace, and close everything at the end."""
    settings.home.mkdir(mode=0o700, parents=True, exist_ok=True)
    async with AsyncExitStack() as stack:
        store = await Store.open(settings.database, secret_key(settings.keys / "sealing.key"), now=now)
        stack.push_async_callback(store.close)
        artifacts = Artifacts.open(settings.artifacts)
        stack.push_async_callback(artifacts.close)
        await artifacts.check()
        blobs = BlobStore(store, artifacts, settings.blob_limit, now)
        stack.push_async_callback(blobs.close)
        imports = Imports()
        stack.push_async_callback(imports.close)
        services = Services(
            settings=settings,
            store=store,
            blobs=blobs,
            tokens=Tokens(signing_key(settings.keys / "signing.pem"), now=now),
            scoring=_scoring(settings, now),
            links=Links(secret_key(settings.keys / "links.key"), now=now),
            imports=imports,
            metrics=CollectorRegistry(),
            now=now,
        )
        await store.write(lambda tx: ensure_workspace(tx, settings.default_workspace, {"location": settings.location, "properties": {}}))
        yield services
