"""Objects on a real disk and in a bucket, and what a full disk says."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.fixtures.bucket import place, places

from moorage.artifacts import PIECE, Artifacts
from moorage.errors import Invalid, NotFound, Unavailable

pytest_plugins = ["tests.fixtures.buckets"]


@pytest.fixture(params=places())
async def artifacts(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Artifacts]:
    opened = Artifacts.open(place(request, tmp_path / "a b"))
    yield opened
    await opened.close()


@pytest.fixture
def on_disk(tmp_path: Path) -> Artifacts:
    return Artifacts.open((tmp_path / "a b").as_uri())


async def test_a_place_is_tried_and_left_as_it_was(artifacts: Artifacts) -> None:
    await artifacts.check()
    assert [name async for name, _ in artifacts.list()] == []


async def test_objects_are_laid_end_to_end_and_read_in_any_range(artifacts: Artifacts) -> None:
    pieces = [os.urandom(1000), os.urandom(1), os.urandom(500)]
    objects = []
    for piece in pieces:
        objects.append((artifacts.new_object("c"), len(piece)))
        await artifacts.put(objects[-1][0], piece)
    whole = b"".join(pieces)
    for start, end in ((0, 1501), (999, 1002), (1000, 1001), (1500, 1501), (7, 7)):
        assert b"".join([chunk async for chunk in artifacts.stream(objects, start, end)]) == whole[start:end]
    assert sorted([size async for _, size in artifacts.list("c")]) == [1, 500, 1000]


async def test_what_is_gone_is_said_so_and_deleting_it_again_is_no_error(artifacts: Artifacts) -> None:
    object, other = artifacts.new_object("c"), artifacts.new_object("c")
    await artifacts.put(object, b"x")
    await artifacts.delete([other, object])
    await artifacts.delete([object, other])
    assert [name async for name, _ in artifacts.list()] == []
    with pytest.raises(NotFound) as caught:
        await artifacts.get(object, 0, 1)
    assert caught.value.code == "BlobNotFound"


async def test_what_a_killed_process_left_goes_with_the_object(on_disk: Artifacts, tmp_path: Path) -> None:
    object = on_disk.new_object("c")
    await on_disk.put(object, b"x")
    (tmp_path / "a b" / f"{object}#1").write_bytes(b"half")
    await on_disk.delete([object])
    assert [path for path in (tmp_path / "a b").rglob("*") if path.is_file()] == []


@pytest.mark.slow  # thousands of requests to a bucket
async def test_more_objects_than_a_page_are_listed_and_deleted(artifacts: Artifacts) -> None:
    objects = [artifacts.new_object("c") for _ in range(2100)]
    for at in range(0, len(objects), 100):
        await asyncio.gather(*(artifacts.put(each, b"x") for each in objects[at : at + 100]))
    assert sorted([name async for name, _ in artifacts.list("c")]) == sorted(objects)
    await artifacts.delete(objects[:-1])
    assert [name async for name, _ in artifacts.list()] == objects[-1:]


async def test_a_caller_that_gives_up_disturbs_nobody(artifacts: Artifacts) -> None:
    object = artifacts.new_object("c")
    putting = asyncio.create_task(artifacts.put(object, bytes(PIECE)))
    await asyncio.sleep(0)
    putting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await putting
    await artifacts.close()
    assert [size async for _, size in artifacts.list()] == [PIECE]


_FULL = """
import asyncio, resource, signal, sys
from moorage.artifacts import Artifacts
from moorage.errors import Unavailable
async def main():
    artifacts = Artifacts.open(sys.argv[1])
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    try:
        await artifacts.put("c/aa/x", bytes(5000))
    except Unavailable as error:
        print(error.code)
    print([name async for name, _ in artifacts.list()])
asyncio.run(main())
"""


def test_a_full_disk_is_told_apart_and_leaves_no_object(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", _FULL, tmp_path.as_uri()], capture_output=True, text=True, timeout=60)
    assert done.stdout.split("\n")[:2] == ["InsufficientStorage", "[]"], done.stderr


@pytest.mark.parametrize("url", ["ftp://x/y", "", "file:///proc/nowhere/x", "memory:///", "https://x/y"])
def test_a_place_that_cannot_be_used_is_refused(url: str) -> None:
    with pytest.raises((Invalid, Unavailable)):
        Artifacts.open(url)
