"""Runs the service on uvicorn and uvloop until SIGTERM or SIGINT: open requests finish, then the engines stop, then the store closes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from socket import socket

import uvicorn
import uvloop

from moorage.errors import Invalid
from moorage.server.app import create_app, running_engines
from moorage.server.services import Services, open_services
from moorage.server.settings import Settings

Started = Callable[[str, int], None]


def run_server(settings: Settings, started: Started | None = None) -> None:
    """Serve until told to stop.

    Args:
        settings: all of them.
        started: called once with address and port when the service accepts connections.
    """
    uvloop.run(serve(settings, started))


async def serve(settings: Settings, started: Started | None = None) -> None:
    """`run_server` within a running loop."""
    _check_tls(settings)
    async with open_services(settings) as services, running_engines(services):
        config = uvicorn.Config(
            create_app(services),
            host=settings.host,
            port=settings.port,
            ssl_certfile=settings.tls_certificate,
            ssl_keyfile=settings.tls_key,
            lifespan="off",
            log_config=None,
            # The boundary logs, without query strings.
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=max(1, int(settings.stop_grace.total_seconds())),
        )
        await _Server(config, services, started).serve()


class _Server(uvicorn.Server):
    """uvicorn's, which also says when and where it listens, and ends the gateway's endless answers when it stops."""

    def __init__(self, config: uvicorn.Config, services: Services, started: Started | None) -> None:
        super().__init__(config)
        self._changes = services.store.changes
        self._announce = started

    async def startup(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        await super().startup(None)
        if self.started and self._announce:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            self._announce(host, port)

    async def shutdown(self, sockets: list[socket] | None = None) -> None:
        self._changes.close()
        await super().shutdown(sockets)


def _check_tls(settings: Settings) -> None:
    if (settings.tls_certificate is None) != (settings.tls_key is None):
        raise Invalid("Set both MOORAGE_TLS_CERTIFICATE and MOORAGE_TLS_KEY, or neither.", target="tls_certificate")
    for path in (settings.tls_certificate, settings.tls_key):
        if path is not None and not Path(path).is_file():
            raise Invalid(f"TLS file {path} does not exist.", target=str(path))
