"""Environments with a build context, built by a script of this test, with the unmodified SDK. Slow: a stack of its own, and jobs that really run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.sdk.conftest import Sdk
from tests.stack.conftest import Stack, new_stack

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(600)]

FLOWS = ("builds",)
# What a container engine would do, as far as its callers see it.
_BUILDER = """#!/bin/sh
set -eu
sed -n 's/^\\([A-Z]\\)/STEP 1: \\1/p' "$2"
test -e "$1/requirements.txt" || test "$(head -n 1 "$2")" = "FROM python:3.12"
if grep -q '^RUN false' "$2"; then
  echo "RUN false did not work" >&2
  exit 1
fi
gate="$(sed -n 's/^# gate: //p' "$2")"
if [ -n "$gate" ]; then
  until [ -e "$gate" ]; do sleep 0.1; done
fi
echo "registry.test/$3" > "$MOORAGE_IMAGE_FILE"
"""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A running stack with an image builder."""
    folder = tmp_path_factory.mktemp("builds")
    builder = folder / "builder"
    builder.write_text(_BUILDER)
    builder.chmod(0o755)
    made = new_stack(folder / "stack")
    try:
        ran = made.up("--image-builder", str(builder))
        assert ran.code == 0, f"{ran.out}\n{ran.err}\n{made.logs()}"
        yield made
    finally:
        made.close()


def test_with_the_sdk(sdk: Sdk, flow: str) -> None:
    sdk.run(flow)


def test_the_command_line_follows_a_build_and_shows_what_was_built(stack: Stack) -> None:
    context = stack.home.parent / "context"
    context.mkdir()
    (context / "Dockerfile").write_text("FROM python:3.12\n")
    assert stack.ok("status", "-o", "json").json[-1]["image_builder"].endswith("/builder")
    stack.ok("environment", "create", "--name", "mine", "--version", "1", "--build-context", str(context))
    (context / "job.yml").write_text("command: echo hello\nenvironment: azureml:mine:1\ncompute: azureml:local\n")
    ran = stack.ok("job", "create", "--file", str(context / "job.yml"), "--name", "one", "--stream")
    assert "STEP 1: FROM python:3.12" in ran.out and "hello" in ran.out
    shown = stack.ok("environment", "show", "--name", "mine", "--version", "1").json
    assert shown["moorage"]["image_build"]["image"].startswith("registry.test/default/mine:1-")
    refused = stack.run("up", "--image-builder", "/no/such/program")
    assert refused.code == 2 and "there is no program '/no/such/program'" in refused.err
