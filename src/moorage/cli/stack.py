"""The two services of `moorage up`: what is started, when it is ready, how it is stopped. Nothing here knows what they are for."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path

from moorage.cli.home import Home, Process
from moorage.clock import monotonic
from moorage.errors import Conflict, Invalid, Unavailable
from moorage.files import write_private
from moorage.specs.manifest import Manifest

ROLES = ("cluster", "server")
HOST = "127.0.0.1"
# A cold start on a busy laptop; the second start's budget is 10 s (benchmarks/first_light.py).
READY_WITHIN = timedelta(seconds=90)
# Pods get their grace of 30 s, then the processes theirs.
STOPPED_WITHIN = timedelta(seconds=75)
_LOOK_SECONDS = 0.05
_PATIENCE = timedelta(seconds=2)
# Starts in a row that ended at once: the next ones will too.
GIVEN_UP_AFTER = 3


@dataclass(frozen=True, slots=True)
class StackSettings:
    """What `up` was asked for. Kept in the state folder, so that a restart of any process finds the same."""

    api_port: int = 6550
    port: int = 8450
    nodes: int = 2
    # The file that maps web addresses to local files; empty when there is none.
    url_map: str = ""
    # Nodes as a file declared them; empty when only their number was asked for.
    declared: Sequence[Manifest] = ()
    # The program that makes images of build contexts; empty when there is none.
    image_builder: str = ""

    @property
    def api_url(self) -> str:
        return f"https://{HOST}:{self.api_port}"

    @property
    def url(self) -> str:
        return f"https://{HOST}:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        mapped = {"MOORAGE_URL_MAP": self.url_map} if self.url_map else {}
        builder = {"MOORAGE_IMAGE_BUILDER": self.image_builder} if self.image_builder else {}
        return {"MOORAGE_HOST": HOST, "MOORAGE_PORT": str(self.port), "MOORAGE_PUBLIC_URL": self.url, **mapped, **builder}


def read_settings(home: Home) -> StackSettings:
    """What the last `up` was asked for, or the defaults."""
    try:
        stored = json.loads(home.settings.read_text(encoding="utf-8"))["stack"]
        return StackSettings(**stored)
    except (FileNotFoundError, KeyError, TypeError, json.JSONDecodeError):
        return StackSettings()


def write_settings(home: Home, settings: StackSettings) -> None:
    body = {"stack": asdict(settings), "environment": settings.environment | {"MOORAGE_HOME": str(home.folder)}}
    write_private(home.settings, json.dumps(body))
    for role in ROLES:
        home.note_failures(role, 0)


def running(home: Home) -> dict[str, Process]:
    """The live processes by role, the supervisor among them."""
    found = {role: home.process(role) for role in ("supervisor", *ROLES)}
    return {role: process for role, process in found.items() if process is not None}


def check_ports(settings: StackSettings) -> None:
    """Conflict when somebody else listens where we would, with the option that chooses another port."""
    if settings.api_port == settings.port:
        # Both services let others listen beside them, so that neither would notice.
        raise Invalid(f"--port and --api-port are both {settings.port}: the two services need a port each.", target="--port")
    for port, option, what in (
        (settings.api_port, "--api-port", "the embedded cluster"),
        (settings.port, "--port", "the workspace service"),
    ):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    raise Conflict(
                        f"Port {port} of {HOST}, meant for {what}, is taken. Choose another with {option}.", target=option
                    ) from error
                raise Invalid(
                    f"Port {port} of {HOST} cannot be used for {what}: {error.strerror}. Choose another with {option}.", target=option
                ) from error


def start(home: Home) -> int:
    """Start the supervisor, detached from this terminal; it starts or adopts the rest. Returns its pid."""
    with home.log("supervisor").open("ab") as log:
        supervisor = subprocess.Popen(
            [sys.executable, "-m", "moorage.cli.supervisor"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            cwd=home.folder,
            env=os.environ | {"MOORAGE_HOME": str(home.folder)},
        )
    # Ours until we end; then init's. Not waiting for it is the point.
    supervisor.returncode = 0
    return supervisor.pid


def wait_ready(home: Home, settings: StackSettings) -> None:
    """Return once both services answer that they are ready; Unavailable with the end of the log of the one that does not."""
    deadline = monotonic() + READY_WITHIN.total_seconds()
    while waiting := not_ready(home, settings):
        for role in waiting:
            if home.failures(role) >= GIVEN_UP_AFTER:
                raise Unavailable(f"{role} ends as soon as it starts. The end of {home.log(role)}:\n{tail(home.log(role))}")
        if monotonic() > deadline:
            role = waiting[0]
            raise Unavailable(
                f"{role} is not ready after {READY_WITHIN.total_seconds():.0f} s. The end of {home.log(role)}:\n{tail(home.log(role))}"
            )
        if home.process("supervisor") is None and monotonic() > deadline - READY_WITHIN.total_seconds() + 5:
            raise Unavailable(f"The supervisor ended. The end of {home.log('supervisor')}:\n{tail(home.log('supervisor'))}")
        # A refused connection is the only sign there is before a service listens.
        time.sleep(_LOOK_SECONDS)


def not_ready(home: Home, settings: StackSettings, *, patience: timedelta = _PATIENCE) -> list[str]:
    """Which of the two services do not answer, within `patience` each, that they are ready."""
    context = trust(home)
    urls = zip(ROLES, (settings.api_url, settings.url), strict=True)
    return [role for role, url in urls if not answers(f"{url}/readyz", context, patience=patience)]


def answers(address: str, context: ssl.SSLContext, *, patience: timedelta = _PATIENCE) -> bool:
    try:
        # Never through a proxy: it is this machine that is asked.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
        with opener.open(address, timeout=patience.total_seconds()) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError, TimeoutError):
        return False


def trust(home: Home) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(home.pki / "ca.pem"))


def stop(home: Home) -> list[str]:
    """Stop everything in order; returns the roles that had been running. Pods end with their grace, state stays."""
    found = running(home)
    if supervisor := found.get("supervisor"):
        os.kill(supervisor.pid, signal.SIGTERM)
        _wait_gone(found, STOPPED_WITHIN)
    # Without a supervisor, or past its patience, each is asked itself.
    for role in reversed(ROLES):
        if process := home.process(role):
            os.kill(process.pid, signal.SIGTERM)
            _wait_gone({role: process}, STOPPED_WITHIN)
    left = running(home)
    for process in left.values():
        os.kill(process.pid, signal.SIGKILL)
    _wait_gone(left, timedelta(seconds=5))
    for role in ("supervisor", *ROLES):
        (home.run / f"{role}.json").unlink(missing_ok=True)
    return list(found)


def _wait_gone(processes: dict[str, Process], patience: timedelta) -> None:
    deadline = monotonic() + patience.total_seconds()
    while any(process.alive for process in processes.values()) and monotonic() < deadline:
        # They are not our children: nothing wakes us.
        time.sleep(_LOOK_SECONDS)


def tail(path: Path, lines: int = 12) -> str:
    """The last lines of a log, indented."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return "  (empty)"
    return "\n".join(f"  {line}" for line in text.splitlines()[-lines:]) or "  (empty)"
