"""Runs the service on uvicorn and uvloop until SIGTERM or SIGINT: open requests finish, then the engines stop, then the store closes."""

from __future__ import annotations

import asyncio
import errno
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from socket import AF_INET, AF_INET6, create_server, socket

import uvicorn
import uvloop
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from moorage.errors import Invalid, Unavailable
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
    listening = _listen(settings)
    async with open_services(settings) as services, running_engines(services):
        config = uvicorn.Config(
            create_app(services),
            ssl_certfile=settings.tls_certificate,
            ssl_keyfile=settings.tls_key,
            http="httptools",
            lifespan="off",
            log_config=None,
            # The boundary logs, without query strings.
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=max(1, int(settings.stop_grace.total_seconds())),
        )
        await _Server(config, services, started).serve([listening])


class _Server(uvicorn.Server):
    """uvicorn's, which also says when and where it listens, and ends the gateway's endless answers when it stops."""

    def __init__(self, config: uvicorn.Config, services: Services, started: Started | None) -> None:
        super().__init__(config)
        self._changes = services.store.changes
        self._announce = started

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        # uvicorn's raises the signal again when it is done, which would end the process before the engines stopped and the store closed.
        loop = asyncio.get_running_loop()
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        try:
            yield
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)

    async def startup(self, sockets: list[socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started and self._announce and sockets:
            host, port = sockets[0].getsockname()[:2]
            self._announce(host, port)

    async def shutdown(self, sockets: list[socket] | None = None) -> None:
        self._changes.close()
        for connection in list(self.server_state.connections):
            # An idle TLS connection would wait for the other side's goodbye, which a client's pool never sends.
            if isinstance(connection, HttpToolsProtocol) and (connection.cycle is None or connection.cycle.response_complete):
                connection.transport.abort()
        await super().shutdown(sockets)


def _listen(settings: Settings) -> socket:
    family = AF_INET6 if ":" in settings.host else AF_INET
    try:
        return create_server((settings.host, settings.port), family=family, backlog=2048)
    except OSError as error:
        advice = (
            "Another process listens there: stop it, or set MOORAGE_PORT."
            if error.errno == errno.EADDRINUSE
            else "Set MOORAGE_HOST or MOORAGE_PORT."
        )
        raise Unavailable(
            f"The service cannot listen on {settings.host}:{settings.port}: {error.strerror}. {advice}",
            code="AddressUnavailable",
            target="port",
        ) from error


def _check_tls(settings: Settings) -> None:
    if (settings.tls_certificate is None) != (settings.tls_key is None):
        raise Invalid("Set both MOORAGE_TLS_CERTIFICATE and MOORAGE_TLS_KEY, or neither.", target="tls_certificate")
    for path in (settings.tls_certificate, settings.tls_key):
        if path is not None and not Path(path).is_file():
            raise Invalid(f"TLS file {path} does not exist.", target=str(path))
