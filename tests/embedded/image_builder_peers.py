"""A builder as an operator would write it, in a few lines of shell, and build contexts for it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx2
from tests.embedded.server_workloads_peers import WS, Agent, Service, job_body

from moorage.ids import kube_name
from moorage.specs.image_build import BUILD_LOG

SECONDS = 90.0
DETAILS = f"/history/v1.0{WS.id}/runs"
# What a builder does is said by the Dockerfile's first line, which is shell here.
_SCRIPT = """#!/bin/sh
# Arguments: the context, the Dockerfile, a name.
set -u
run="{folder}/run-$$"
touch "{folder}/started-$(basename "$(pwd)")"
echo "builds $3"
context="$1" name="$3"
. "$2"
"""


class Builder:
    """The script, and a folder in which it leaves traces and looks for gates."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.path = folder / "builder"
        self.path.write_text(_SCRIPT.format(folder=folder))
        self.path.chmod(0o755)

    @property
    def started(self) -> int:
        """How many builds have begun."""
        return len(list(self.folder.glob("started-*")))

    async def said(self, name: str) -> str:
        """What it wrote into a file of its folder; empty while there is none."""
        path = self.folder / name
        return path.read_text().strip() if path.exists() else ""

    def open(self, gate: str) -> None:
        (self.folder / gate).touch()

    def dockerfile(self, *lines: str) -> str:
        return "\n".join(lines) + "\n"

    def waits(self, gate: str) -> str:
        return f'until [ -e "{self.folder / gate}" ]; do sleep 0.05; done'


NAMES = 'echo "registry.test/$name" > "$MOORAGE_IMAGE_FILE"'


async def register(service: Service, name: str, files: dict[str, str | bytes], **build: str) -> None:
    """An environment with a build context, as a client would have uploaded it."""
    container = str((await service.call("GET", "datastores/workspaceblobstore"))["properties"]["containerName"])
    for path, content in files.items():
        data = content if isinstance(content, bytes) else content.encode()
        await service.services.blobs.put(container, f"LocalUpload/{name}/context/{path}", data)
    context = f"{service.url}/blobstore/{container}/LocalUpload/{name}/context/"
    await service.call("PUT", f"environments/{name}/versions/1", {"properties": {"build": {"contextUri": context, **build}}}, status=201)


def job(environment: str, **changes: Any) -> Any:
    return job_body(environmentId=WS.child("environments", environment, "versions", "1"), **changes)


async def until(holds: Callable[[], Awaitable[Any]], what: str) -> Any:
    """Wait for something that holds; what it gave."""
    deadline = time.monotonic() + SECONDS
    while not (found := await holds()):
        assert time.monotonic() < deadline, f"not within {SECONDS:g} s: {what}"
        await asyncio.sleep(0.1)
    return found


def is_alive(pid: int) -> bool:
    """Whether the process still runs; one that nobody has reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except (FileNotFoundError, ProcessLookupError):
        return False


async def ended(service: Service, name: str) -> Any:
    """The job's `properties` once it has ended."""

    async def look() -> Any:
        properties = (await service.call("GET", f"jobs/{name}"))["properties"]
        return properties if properties["status"] in ("Completed", "Failed", "Canceled") else None

    return await until(look, f"job {name} ends")


async def finished(service: Service, operation: str) -> Any:
    """A long-running operation's last status."""

    async def look() -> Any:
        status = await service.call("GET", operation)
        return status if status["status"] != "InProgress" else None

    return await until(look, f"{operation} ends")


async def sent(agent: Agent, *names: str) -> Any:
    """The object of an endpoint or deployment, once the cluster has it."""

    async def look() -> Any:
        return agent.objects.get(kube_name(WS, *names))

    return await until(look, f"the cluster gets {names}")


async def log_of(service: Service, name: str) -> str:
    """The build's log as whoever streams the job reads it; empty while there is none."""
    details = await service.call("GET", f"{DETAILS}/{name}/details")
    link = details["logFiles"].get(BUILD_LOG)
    if link is None:
        return ""
    async with httpx2.AsyncClient(trust_env=False, timeout=60) as anyone:
        return (await anyone.get(link)).text


async def logged(service: Service, name: str, words: str) -> str:
    async def look() -> str:
        text = await log_of(service, name)
        return text if words in text else ""

    return str(await until(look, f"the log of {name} has {words!r}"))


async def image_of(agent: Agent, name: str) -> str:
    async def look() -> Any:
        return [each for each in agent.objects.values() if each["spec"].get("job") == name]

    [object] = await until(look, f"the cluster gets {name}")
    return str(object["spec"]["environment"]["image"])
