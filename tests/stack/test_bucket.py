"""The main job where the service keeps its artifacts in a bucket. Slow: whole processes, a real training job."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from moorage.artifacts import Artifacts
from tests.fixtures.bucket import Bucket
from tests.stack.conftest import EXAMPLE, Stack, new_stack

pytest_plugins = ["tests.fixtures.buckets"]
pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture
def stack(tmp_path: Path, loopback_bucket: str) -> Iterator[Stack]:
    made = new_stack(tmp_path / "own")
    made.settings["MOORAGE_ARTIFACTS_URL"] = loopback_bucket
    try:
        ran = made.up()
        assert ran.code == 0, f"{ran.out}\n{ran.err}\n{made.logs()}"
        yield made
    finally:
        made.close()


def test_the_main_job_runs_with_its_files_in_a_bucket(stack: Stack, loopback_bucket: str, bucket: Bucket, tmp_path: Path) -> None:
    streamed = stack.ok("job", "create", "-f", str(EXAMPLE / "train.yml"), "--name", "first", "--stream", timeout=450)
    assert "accuracy on the held-out ones" in streamed.out + streamed.err
    assert stack.job_status("first") == "Completed"
    stack.ok("job", "download", "-n", "first", "--output-name", "model", "--download-path", str(tmp_path / "got"))
    assert [path for path in (tmp_path / "got").rglob("*") if path.is_file() and path.stat().st_size]

    async def kept() -> int:
        return sum([size async for _, size in Artifacts.open(loopback_bucket).list()])

    assert asyncio.run(kept()) > 1000
    assert not (stack.home / "server" / "artifacts").exists()
    # The bucket's credentials are the service's alone.
    for text in [path.read_text(errors="replace") for path in (stack.home / "logs").glob("*.log")]:
        assert bucket.secret not in text
    job = stack.kubectl("get", "pods", "-A", "-o", "yaml").out
    assert bucket.secret not in job and "AWS_" not in job
