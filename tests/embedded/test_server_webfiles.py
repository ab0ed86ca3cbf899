"""Web addresses that stand for the operator's files: imported when a job names them, and only what the map allows."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.embedded.server_workloads_peers import WS, Service, job_body, running

from moorage import clock
from moorage.errors import Invalid
from moorage.identity.roles import Role
from moorage.server.containers import blob_container
from moorage.server.imports import Imports
from moorage.server.upkeep import tidy
from moorage.server.webfiles import _opened


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    """A folder with files, and a map beside it."""
    folder = tmp_path / "mirror"
    (folder / "deep").mkdir(parents=True)
    (folder / "a.csv").write_text("1\n")
    (folder / "deep" / "b.csv").write_text("22\n")
    (tmp_path / "secret.txt").write_text("secret\n")
    (folder / "link.txt").symlink_to(tmp_path / "secret.txt")
    os.mkfifo(folder / "pipe")
    (tmp_path / "map.json").write_text(
        json.dumps({"https://example.org/data/": "mirror", "wasbs://c@acct.blob.core.windows.net/": str(folder / "deep")})
    )
    return folder


@pytest.fixture
async def service(tmp_path: Path, mirror: Path) -> AsyncIterator[Service]:
    async with running(tmp_path / "home", url_map=tmp_path / "map.json") as service:
        await service.seed()
        yield service


def with_input(uri: str, kind: str = "uri_file") -> Any:
    return job_body(inputs={"data": {"jobInputType": kind, "uri": uri}})


async def stored(service: Service, agent: Any, job: str) -> tuple[str, dict[str, bytes]]:
    """The address that the job's pod reads its input from, and what lies there."""
    address = (await agent.has(job))["spec"]["inputs"]["data"]["uri"]
    container, _, path = address.partition("/")
    names = await service.services.store.read(lambda tx: [blob.name for blob in tx.blobs.list(container, prefix=path)])
    return address, {name[len(path) :].lstrip("/"): await service.services.blobs.read(container, name) for name in names}


async def test_a_mapped_address_reaches_the_job_as_a_file_or_a_folder(service: Service, mirror: Path) -> None:
    agent = await service.attached()
    async with agent.connected():
        made = await service.call("PUT", "jobs/file", with_input("https://example.org/data/a.csv?sv=1"), status=201)
        assert made["properties"]["inputs"]["data"]["uri"] == "https://example.org/data/a.csv?sv=1", "kept as it was written"
        address, files = await stored(service, agent, "file")
        assert address.endswith("/a.csv") and files == {"": b"1\n"}
        await service.call("PUT", "jobs/folder", with_input("wasbs://c@acct.blob.core.windows.net/", "uri_folder"), status=201)
        assert (await stored(service, agent, "folder"))[1] == {"b.csv": b"22\n"}
        data = {"dataType": "uri_folder", "dataUri": "https://example.org/data/deep/"}
        await service.call("PUT", "data/web/versions/1", {"properties": data}, status=201)
        await service.call("PUT", "jobs/asset", with_input(WS.child("data", "web", "versions", "1"), "uri_folder"), status=201)
        assert (await stored(service, agent, "asset"))[1] == {"b.csv": b"22\n"}
        # A changed file is another one; the earlier job's stays as it was.
        (mirror / "a.csv").write_text("333\n")
        await service.call("PUT", "jobs/later", with_input("https://example.org/data/a.csv"), status=201)
        later, files = await stored(service, agent, "later")
        assert later != address and files == {"": b"333\n"}
        assert (await stored(service, agent, "file"))[1] == {"": b"1\n"}


@pytest.mark.parametrize(
    ("uri", "code", "expected"),
    [
        ("https://example.org/elsewhere/x", "UrlNotMapped", "fetches nothing from the web. Let its operator map it"),
        ("abfss://fs@acct.dfs.core.windows.net/x", "UrlNotMapped", "is a web address"),
        ("https://example.org/data/missing.csv", "DataNotFound", "where there is nothing"),
        ("https://example.org/data/%2e%2e/secret.txt", "UrlNotMapped", "leaves the folder"),
        ("https://example.org/data/link.txt", "DataNotFound", "where there is nothing"),
        ("https://example.org/data/pipe", "DataNotFound", "where there is nothing"),
        ("https://example.org/data/a.csv/b", "DataNotFound", "where there is nothing"),
        ("https://example.org/data/" + "a" * 300, "DataNotReadable", "File name too long"),
        ("https://[example.org/data/a.csv", "UserError", "properties.inputs.data.uri: 'https://[example.org/data/a.csv' is no web address"),
    ],
)
async def test_what_the_map_does_not_allow_is_refused(service: Service, uri: str, code: str, expected: str) -> None:
    await service.attached()
    refused = await service.call("PUT", "jobs/j", with_input(uri), status=400)
    assert (refused["error"]["code"], refused["error"]["target"]) == (code, "properties.inputs.data.uri")
    assert expected in refused["error"]["message"]


async def test_a_long_copy_goes_on_while_the_client_is_told_to_come_again(tmp_path: Path, mirror: Path) -> None:
    with (mirror / "long.bin").open("wb") as file:
        file.truncate(64 * 1024 * 1024)
    async with running(tmp_path / "home", url_map=tmp_path / "map.json", url_map_wait=timedelta(0)) as service:
        await service.seed()
        agent = await service.attached()
        body = with_input("https://example.org/data/long.bin")
        first = await service.user.put(f"{WS.id}/jobs/long", json=body)
        assert (first.status_code, first.headers["retry-after"]) == (429, "10")
        assert first.json()["error"]["code"] == "DataBeingCopied" and "The job was not submitted" in first.json()["error"]["message"]
        await service.call("GET", "jobs/long", status=404)
        with service.services.store.changes.subscribe(f"blobs/{blob_container(WS)}") as bell:
            while "long.bin" not in await copies(service):
                assert await bell.wait(timedelta(seconds=60)), "the copy goes on"
        await service.call("PUT", "jobs/long", body, status=201)
        async with agent.connected():
            assert (await agent.has("long"))["spec"]["inputs"]["data"]["uri"].endswith("/long.bin")


async def test_a_copy_that_fails_when_nobody_waits_any_more_tells_the_next_who_asks() -> None:
    imports, failing, begun = Imports(), asyncio.Event(), 0

    async def copy() -> None:
        nonlocal begun
        begun += 1
        await failing.wait()
        raise Invalid("The file cannot be read.")

    assert await imports.finish("a", copy, within=timedelta(0)) is False
    assert await imports.finish("a", copy, within=timedelta(0)) is False and begun == 1, "the second waits for the first"
    failing.set()
    with pytest.raises(Invalid, match="cannot be read"):
        await imports.finish("a", copy, within=timedelta(seconds=60))
    with pytest.raises(Invalid, match="cannot be read"):
        await imports.finish("a", copy, within=timedelta(seconds=60))
    assert begun == 2, "told once, it is tried again"


async def test_whoever_hears_late_of_a_failure_lets_a_copy_that_was_begun_anew_go_on() -> None:
    imports, failing, ending, begun = Imports(), asyncio.Event(), asyncio.Event(), 0

    async def fails() -> None:
        await failing.wait()
        raise Invalid("The file cannot be read.")

    async def lasts() -> None:
        nonlocal begun
        begun += 1
        await ending.wait()

    async def first() -> None:
        with pytest.raises(Invalid):
            await imports.finish("a", fails, within=timedelta(seconds=60))
        assert await imports.finish("a", lasts, within=timedelta(0)) is False

    async def second() -> None:
        with pytest.raises(Invalid):
            await imports.finish("a", fails, within=timedelta(seconds=60))

    waiting = asyncio.gather(first(), second())
    await asyncio.sleep(0)
    failing.set()
    await waiting
    assert await imports.finish("a", lasts, within=timedelta(0)) is False and begun == 1, "it is the one that was begun anew"
    ending.set()
    assert await imports.finish("a", lasts, within=timedelta(seconds=60)) and begun == 1


class SetClock:
    """The present, and as much later as a test says."""

    def __init__(self) -> None:
        self.later = timedelta()

    def __call__(self) -> datetime:
        return clock.now() + self.later


async def copies(service: Service) -> set[str]:
    """The names of the files that lie in the store's folder for copies of web files."""
    blobs = await service.services.store.read(lambda tx: tx.blobs.list(blob_container(WS), prefix="WebFiles/"))
    return {blob.name.rpartition("/")[2] for blob in blobs}


async def test_copies_go_a_week_after_a_job_last_named_them_and_not_while_somebody_reads_them(tmp_path: Path, mirror: Path) -> None:
    now = SetClock()
    async with running(tmp_path / "home", url_map=tmp_path / "map.json", now=now) as service:
        await service.seed()
        (mirror / "c.csv").write_text("4444\n")
        await service.services.blobs.put(blob_container(WS), "WebFiles/mine/own.csv", b"5\n")
        agent = await service.attached()
        async with agent.connected():
            for name in "abc":
                uri = f"https://example.org/data/{'deep/' if name == 'b' else ''}{name}.csv"
                await service.call("PUT", f"jobs/{name}", with_input(uri), status=201)
            for name in "bc":
                await agent.report(agent.status(await agent.has(name), {"phase": "Completed"}, logs_complete=True))
            path = (await agent.has("c"))["spec"]["inputs"]["data"]["uri"].partition("/")[2]
            asset = {"dataType": "uri_file", "dataUri": f"azureml://datastores/workspaceblobstore/paths/{path}"}
            await service.call("PUT", "data/kept/versions/1", {"properties": asset}, status=201)
            for name in "bc":
                await service.call("DELETE", f"jobs/{name}")
            for days, left in (
                (0, {"a.csv", "b.csv", "c.csv", "own.csv"}),
                (6, {"a.csv", "b.csv", "c.csv", "own.csv"}),
                (8, {"a.csv", "c.csv", "own.csv"}),
            ):
                now.later = timedelta(days=days)
                await tidy(service.services)
                assert await copies(service) == left, days
            # Named again, it is copied again, and its week begins anew.
            token = service.services.tokens.issue_user("tester", {"/": Role.OWNER}, timedelta(days=9))
            service.user.headers["Authorization"] = f"Bearer {token}"
            await service.call("PUT", "jobs/again", with_input("https://example.org/data/deep/b.csv"), status=201)
            await agent.report(agent.status(await agent.has("again"), {"phase": "Completed"}, logs_complete=True))
            await service.call("DELETE", "jobs/again")
            now.later = timedelta(days=14)
            await tidy(service.services)
            assert "b.csv" in await copies(service)
            now.later = timedelta(days=16)
            await tidy(service.services)
            assert "b.csv" not in await copies(service)


async def test_copies_of_an_earlier_version_are_found_and_their_week_begins_then(tmp_path: Path, mirror: Path) -> None:
    now = SetClock()
    async with running(tmp_path / "home", url_map=tmp_path / "map.json", now=now) as service:
        await service.services.blobs.put(blob_container(WS), f"WebFiles/{'0' * 32}/old.csv", b"1\n")
        for days, left in ((0, {"old.csv"}), (6, {"old.csv"}), (8, set())):
            now.later = timedelta(days=days)
            await tidy(service.services)
            assert await copies(service) == left, days


async def test_an_address_that_is_no_longer_mapped_is_refused_again(service: Service, tmp_path: Path) -> None:
    await service.attached()
    await service.call("PUT", "jobs/one", with_input("https://example.org/data/a.csv"), status=201)
    (tmp_path / "map.json").write_text("{}")
    refused = await service.call("PUT", "jobs/two", with_input("https://example.org/data/a.csv"), status=400)
    assert refused["error"]["code"] == "UrlNotMapped"


@pytest.mark.parametrize("swapped", ["a.csv", "deep/b.csv", "deep"])
def test_a_link_that_takes_the_place_of_a_file_after_it_was_looked_at_is_not_followed(mirror: Path, tmp_path: Path, swapped: str) -> None:
    """Whoever may write into the mapped folder must not read what else the service can."""
    looked = [mirror / "a.csv", mirror / "deep" / "b.csv"]
    for path in looked:
        _opened(mirror, path).close()
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "b.csv").write_text("secret")
    (mirror / swapped).rename(tmp_path / "away")
    (mirror / swapped).symlink_to(tmp_path / "outside" if swapped == "deep" else tmp_path / "secret.txt")
    [taken] = [path for path in looked if path.is_relative_to(mirror / swapped)]
    with pytest.raises(OSError, match=r"a\.csv|b\.csv|deep"):
        _opened(mirror, taken)
