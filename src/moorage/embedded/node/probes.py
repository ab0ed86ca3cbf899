"""Startup, liveness and readiness probes: how one look is made, and how many of them count."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import ssl
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from moorage.embedded.node import shim
from moorage.embedded.node.attempt import Attempt
from moorage.embedded.node.mounts import Rewriting
from moorage.errors import Invalid, MoorageError
from moorage.specs.manifest import Manifest
from moorage.specs.mounted import VARIABLE

_LONGEST_OUTPUT = 10 * 1024
_LONGEST_HEAD = 64 * 1024


@dataclass(frozen=True, slots=True)
class Look:
    """What one probe saw."""

    good: bool
    output: str = ""


@dataclass(frozen=True, slots=True)
class Streak:
    """Equal results in a row, and the verdict that enough of them make. `verdict` None: not enough yet."""

    good: bool | None = None
    length: int = 0
    verdict: bool | None = None

    def add(self, look: Look, probe: Manifest) -> Streak:
        """The streak after one more look (kubelet prober/worker.go)."""
        length = self.length + 1 if look.good == self.good else 1
        needed = int(probe.get("successThreshold") or 1) if look.good else int(probe.get("failureThreshold") or 3)
        seen = replace(self, good=look.good, length=length)
        return replace(seen, verdict=look.good) if length >= needed else seen


def seconds(probe: Manifest, name: str, default: float) -> float:
    value = probe.get(name)
    return default if value is None else float(value)


async def watch(probe: Manifest, look: Callable[[], Any], told: Callable[[Look, Streak], bool]) -> None:
    """Probe at the probe's pace until `told` answers False."""
    streak = Streak()
    await asyncio.sleep(seconds(probe, "initialDelaySeconds", 0))
    while True:
        seen: Look = await look()
        streak = streak.add(seen, probe)
        if not told(seen, streak):
            return
        await asyncio.sleep(max(1.0, seconds(probe, "periodSeconds", 10)))


@dataclass(frozen=True, slots=True)
class Target:
    """Where a container's probes and hooks go."""

    attempt: Attempt
    container: Manifest
    pod_ip: str

    async def look(self, probe: Manifest) -> Look:
        limit = timedelta(seconds=seconds(probe, "timeoutSeconds", 1))
        if "exec" in probe:
            return await execute(self.attempt, probe["exec"].get("command") or [], limit)
        try:
            async with asyncio.timeout(limit.total_seconds()):
                return await self._connect(probe)
        except TimeoutError:
            return Look(False, f"context deadline exceeded (no answer within {limit.total_seconds():g}s)")
        except (OSError, MoorageError) as error:
            return Look(False, str(error))

    async def _connect(self, probe: Manifest) -> Look:
        if "httpGet" in probe:
            return await self._get(probe["httpGet"])
        if "tcpSocket" in probe:
            _, writer = await asyncio.open_connection(probe["tcpSocket"].get("host") or self.pod_ip, self.port(probe["tcpSocket"]["port"]))
            await _close(writer)
            return Look(True)
        raise Invalid("a probe needs exec, httpGet or tcpSocket; grpc is not supported on the embedded cluster", target="probe")

    def port(self, named: int | str) -> int:
        """A port number, or the container's port of that name."""
        if str(named).isdigit():
            return int(named)
        for port in self.container.get("ports") or ():
            if port.get("name") == named:
                return int(port["containerPort"])
        raise Invalid(f"container {self.container['name']!r} has no port named {named!r}", target="port")

    async def _get(self, get: Manifest) -> Look:
        host, port = get.get("host") or self.pod_ip, self.port(get["port"])
        secure = ssl.create_default_context() if str(get.get("scheme", "HTTP")).upper() == "HTTPS" else None
        if secure:
            # The kubelet does not verify either: pods have certificates of their own.
            secure.check_hostname, secure.verify_mode = False, ssl.CERT_NONE
        reader, writer = await asyncio.open_connection(host, port, ssl=secure, limit=_LONGEST_HEAD)
        try:
            headers = {"Host": f"{host}:{port}", "User-Agent": "kube-probe/moorage", "Accept": "*/*", "Connection": "close"}
            headers.update({item["name"]: item["value"] for item in get.get("httpHeaders") or ()})
            path = get.get("path") or "/"
            head = f"GET {path if path.startswith('/') else '/' + path} HTTP/1.1\r\n" + _lines(headers) + "\r\n"
            writer.write(head.encode("latin-1"))
            await writer.drain()
            status = (await reader.readline()).decode("latin-1").split()
        finally:
            await _close(writer)
        if len(status) < 2 or not status[1].isdigit():
            return Look(False, "malformed HTTP response")
        good = 200 <= int(status[1]) < 400
        return Look(good, "" if good else f"HTTP probe failed with statuscode: {status[1]}")


def _lines(headers: Mapping[str, str]) -> str:
    return "".join(f"{name}: {value}\r\n" for name, value in headers.items())


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


async def execute(attempt: Attempt, command: list[str], limit: timedelta) -> Look:
    """Run a command inside the container and read what it says; its whole process group ends with the time limit."""
    document = json.loads(await asyncio.to_thread((attempt.folder / "launch.json").read_text))
    # Empty where the container has a root of its own.
    places = Rewriting(json.loads(document["env"].get(VARIABLE) or "{}") if document["namespace"] == "none" else {})
    words = [sys.executable, "-I", "-S", "-B", str(Path(shim.__file__)), "enter", str(attempt.folder), str(attempt.pid)]
    words += map(places.text, command)
    child = await asyncio.create_subprocess_exec(
        *words,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
        env={"PATH": os.defpath},
    )
    try:
        async with asyncio.timeout(limit.total_seconds()):
            output, _ = await child.communicate()
    except TimeoutError:
        return Look(False, f'command {command!r} timed out after "{limit.total_seconds():g}s"')
    finally:
        if child.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            await child.communicate()
    return Look(child.returncode == 0, output[:_LONGEST_OUTPUT].decode(errors="replace").strip())
