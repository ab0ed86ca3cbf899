"""Lists of jobs on both databases: filters find what looking at every job finds, whatever is written in it."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest
from pydantic import SecretStr

from moorage.identity.roles import Role
from moorage.ids import Workspace
from moorage.server.app import create_app
from moorage.server.services import open_services
from moorage.server.settings import Settings
from moorage.specs.jobs import JobStatus
from moorage.store import ResourceKey, Transaction
from moorage.wire.runs import JobState

pytest_plugins = ["tests.fixtures.postgres"]

WS = Workspace("s1", "g1", "w1")
# What JSON, patterns of SQL and queries write in another way than it reads.
TEXTS = [
    "a",
    "A",
    'q"q',
    "50%",
    "5",
    "x_y",
    "xzy",
    "x/y",
    "b\\s",
    "é\u2028ü",
    "Ω",
    "nul\0",
    "",
    "a=b",
    "None",
    "True",
    "[1]",
    "w" * 1200,
    "w" * 1201,
]
ODD = [5, 1.5, True, None, [1], {"a": "b"}]
STATUSES = [JobStatus.NOT_STARTED, JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.RUNNING]


@dataclass
class Job:
    name: str
    kind: str
    experiment: str
    tags: dict[str, object]
    status: JobStatus
    compute: str


def jobs() -> Iterator[Job]:
    values = itertools.cycle([*TEXTS, *ODD])
    for number, (experiment, status) in enumerate(zip(TEXTS * 4, itertools.cycle(STATUSES), strict=False)):
        tags = {TEXTS[number * 7 % len(TEXTS)]: next(values), "owner": next(values)}
        yield Job(f"j{number}", "Sweep" if number % 11 == 3 else "Command", experiment, tags, status, "c%1" if number % 3 else "c-1")


@pytest.fixture
async def user(database_url: str, tmp_path: Path) -> AsyncIterator[httpx2.AsyncClient]:
    settings = Settings(
        home=tmp_path / "home", database_url=SecretStr(database_url), subscription="s1", resource_group="g1", workspace="w1"
    )
    async with open_services(settings) as services:
        await services.store.write(fill)
        token = services.tokens.issue_user("ann", {"/": Role.READER}, timedelta(hours=1))
        transport = httpx2.ASGITransport(app=create_app(services))
        async with httpx2.AsyncClient(
            transport=transport, base_url="http://service", headers={"Authorization": f"Bearer {token}"}
        ) as client:
            yield client


def fill(tx: Transaction) -> None:
    for job in jobs():
        properties = {"jobType": job.kind, "experimentName": job.experiment, "tags": job.tags}
        run = JobState(status=job.status, message="Failed\0").model_dump(mode="json", by_alias=True)
        # One of a service that did not write it yet.
        state = {"compute": job.compute, **({} if job.name == "j0" else {"run": run})}
        tx.resources.create(ResourceKey(WS, "jobs", job.name), {"properties": properties}, state=state)


async def test_filters_find_what_looking_at_every_job_finds(user: httpx2.AsyncClient) -> None:
    every = list(jobs())[::-1]
    for query, matches in asked():
        expected = [each.name for each in every if matches(each)]
        assert await listed(user, query) == expected, query
        assert await listed(user, {**query, "$top": "7"}) == expected, query
    assert await listed(user, {}) == [each.name for each in every]


def asked() -> Iterator[tuple[dict[str, str], Callable[[Job], bool]]]:
    """Queries, and which jobs they mean."""
    for text in [*TEXTS, "b", "%", "_", "1.5", "{'a': 'b'}", '"owner"']:
        if text:
            yield {"experimentName": text}, lambda job, text=text: job.experiment == text  # type: ignore[misc]
        name, equals, value = text.partition("=")
        if name:
            yield (
                {"tag": text},
                lambda job, name=name, equals=equals, value=value: (  # type: ignore[misc]
                    name in job.tags and (not equals or str(job.tags[name]) == value)
                ),
            )
        yield {"tag": f"owner={text}"}, lambda job, text=text: str(job.tags["owner"]) == text  # type: ignore[misc]
    for status in [*STATUSES, "failed", "CANCELED", "Fail", "%"]:
        yield {"status": status}, lambda job, status=status: job.status.lower() == status.lower()  # type: ignore[misc]
    for compute in ["c%1", "c-1", "c_1", "C-1"]:
        yield {"computeName": compute}, lambda job, compute=compute: job.compute == compute  # type: ignore[misc]
    for kind in ["command", "SWEEP", "Pipeline", "other"]:
        yield {"jobType": kind}, lambda job, kind=kind: job.kind.lower() == kind.lower()  # type: ignore[misc]
    yield {"scheduled": "true"}, lambda _job: False
    yield {"scheduleId": "nightly"}, lambda _job: False
    yield {"scheduled": "false"}, lambda _job: True
    yield {"status": "Failed", "tag": "owner", "computeName": "c%1"}, lambda job: job.status is JobStatus.FAILED and job.compute == "c%1"


async def listed(user: httpx2.AsyncClient, query: dict[str, str]) -> list[str]:
    """The names on all pages; every page but the last is full."""
    names: list[str] = []
    answer: Any = (await user.get(f"{WS.id}/jobs", params=query)).raise_for_status().json()
    while True:
        names += [each["name"] for each in answer["value"]]
        if answer["nextLink"] is None:
            return names
        assert len(answer["value"]) == int(query.get("$top", "200"))
        answer = (await user.get(answer["nextLink"])).raise_for_status().json()
