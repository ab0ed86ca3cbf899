"""Objects on a real disk, and what a full disk says."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from moorage.artifacts import PIECE, Artifacts
from moorage.errors import Invalid, NotFound, Unavailable


@pytest.fixture
def artifacts(tmp_path: Path) -> Artifacts:
    return Artifacts.open((tmp_path / "a b").as_uri())


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


async def test_what_is_gone_is_said_so_and_deleting_it_again_is_no_error(artifacts: Artifacts, tmp_path: Path) -> None:
    object = artifacts.new_object("c")
    await artifacts.put(object, b"x")
    # What a killed process leaves of an object it was writing.
    (tmp_path / "a b" / f"{object}#1").write_bytes(b"half")
    await artifacts.delete([object])
    await artifacts.delete([object])
    assert [path for path in (tmp_path / "a b").rglob("*") if path.is_file()] == []
    with pytest.raises(NotFound):
        await artifacts.get(object, 0, 1)


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


@pytest.mark.parametrize("url", ["ftp://x/y", "", "file:///proc/nowhere/x"])
def test_a_place_that_cannot_be_used_is_refused(url: str) -> None:
    with pytest.raises((Invalid, Unavailable)):
        Artifacts.open(url)
