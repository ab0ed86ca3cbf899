"""Environments with a build context: built once by the operator's builder, while jobs and deployments wait; whatever goes wrong with it is told to them."""

from __future__ import annotations

import asyncio
import os
import resource
import shutil
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.embedded.image_builder_peers import (
    DETAILS,
    NAMES,
    SECONDS,
    Builder,
    ended,
    finished,
    image_of,
    is_alive,
    job,
    log_of,
    logged,
    register,
    sent,
    until,
)
from tests.embedded.server_workloads_peers import WS, Service, deployment_body, endpoint_body, running

from moorage.errors import MoorageError
from moorage.server.blobstore import BlobStore
from moorage.server.images import builds, context
from moorage.server.images.builder import workplace
from moorage.server.images.context import ContextFile, Space, describe, download, wholly
from moorage.server.resources import jobs
from moorage.specs.image_build import BUILD_LOG
from moorage.store import Blob, Transaction


@pytest.fixture
def builder(tmp_path: Path) -> Builder:
    return Builder(tmp_path / "builder")


@pytest.fixture
async def service(tmp_path: Path, builder: Builder) -> AsyncIterator[Service]:
    async with running(tmp_path / "home", image_builder=str(builder.path)) as service:
        await service.seed()
        yield service


async def test_a_job_waits_for_its_image_and_later_ones_find_it(
    service: Service, builder: Builder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOORAGE_DATABASE_URL", "postgresql://u:hunter2@h/d")
    monkeypatch.setenv("SOME_TOKEN", "hunter2")
    agent = await service.attached()
    left = builder.folder / "left"
    background = f'sleep 1000 & echo $! > "{left}"'
    script = builder.dockerfile('cat "$context/conf/pip.txt"', "env | sort", "echo all told", background, builder.waits("gate"), NAMES)
    await register(service, "Torch", {"docker/Dockerfile": script, "conf/pip.txt": "torch==2"}, dockerfilePath="./docker/Dockerfile")
    async with agent.connected():
        made = await service.call("PUT", "jobs/one", job("Torch"), status=201)
        assert made["properties"]["status"] == "Preparing"
        await service.call("PUT", "jobs/two", job("Torch"), status=201)
        text = await logged(service, "one", "all told")
        # Of the service's own variables it gets none that may be a secret.
        assert "torch==2" in text and "hunter2" not in text and "MOORAGE_IMAGE_FILE=" in text and "HOME=" in text
        shown = await service.call("GET", "jobs/two")
        assert shown["properties"]["moorage"]["waiting"] == "Building the image of environment Torch:1."
        assert agent.objects == {}
        version = await service.call("GET", "environments/Torch/versions/1")
        assert version["properties"]["moorage"]["imageBuild"]["status"] == "Building"
        builder.open("gate")
        image = await image_of(agent, "one")
        assert image.startswith("registry.test/w1/torch:1-") and await image_of(agent, "two") == image

        async def gone() -> bool:
            return not is_alive(int(left.read_text()))

        await until(gone, "what the builder left running ends with it")
        # It stays among the job's logs, and those of the job itself come beside it.
        assert f"Built {image}" in await logged(service, "one", "Built")
        await service.call("PUT", "jobs/three", job("Torch"), status=201)
        assert await image_of(agent, "three") == image
        assert (await service.call("GET", f"{DETAILS}/three/details"))["logFiles"] == {}
        object = next(each for each in agent.objects.values() if each["spec"]["job"] == "one")
        not_pulled = {"kind": "event", "key": {"kind": "TrainingJob", "namespace": "ml", "name": object["metadata"]["name"]}, "uid": "u"}
        about = {"about": "Pod/p", "type": "Normal", "reason": "ImageNotPulled", "message": "Images are not pulled.", "count": 1}
        event = {**not_pulled, **about, "time": "2026-11-22T12:00:00Z"}
        await agent.report(event, agent.status(object, {"phase": "Running"}))
        details = await service.call("GET", f"{DETAILS}/one/details")
        assert [each["message"] for each in details["warnings"] if each["source"] == "environment"] == [
            f"The image {image} was built for this job, which does not run in it. Images are not pulled."
        ]
        assert BUILD_LOG in details["logFiles"]
    assert builder.started == 1
    version = await service.call("GET", "environments/Torch/versions/1")
    assert version["properties"]["moorage"]["imageBuild"]["image"] == image
    # A client that sends back what it read changes nothing, and the words are not kept.
    again = await service.call("PUT", "environments/Torch/versions/1", {"properties": {**version["properties"], "description": "d"}})
    assert "moorage" not in again["properties"] and again["properties"]["description"] == "d"
    assert not list((service.services.settings.builds).glob("build-*")), "nothing of the context stays on the disk"


async def test_a_failed_build_ends_the_jobs_that_wait_and_the_next_one_tries_again(service: Service, builder: Builder) -> None:
    agent = await service.attached()
    script = builder.dockerfile('echo "E: no such package \033[31mtroch\033[0m"', f'[ -e "{builder.folder}/mended" ] || exit 3', NAMES)
    await register(service, "e2", {"Dockerfile": script})
    async with agent.connected():
        await service.call("PUT", "jobs/one", job("e2"), status=201)
        failed = await ended(service, "one")
        assert (failed["status"], failed["moorage"]["reason"]) == ("Failed", "ImageBuildFailed")
        message = failed["moorage"]["message"]
        assert message.startswith("The image of environment e2:1 could not be built: the builder ended with exit code 3.")
        assert message.endswith("E: no such package troch")
        assert "Not built: the builder ended with exit code 3." in await log_of(service, "one")
        version = await service.call("GET", "environments/e2/versions/1")
        assert version["properties"]["moorage"]["imageBuild"]["error"]["code"] == "ImageBuildFailed"
        builder.open("mended")
        await service.call("PUT", "jobs/two", job("e2"), status=201)
        assert (await image_of(agent, "two")).startswith("registry.test/w1/e2:1-")
    await service.call("DELETE", "jobs/one")
    await service.call("GET", "jobs/one", status=404)


async def test_a_builder_that_names_no_image_has_failed(service: Service) -> None:
    await service.attached()
    wrong = [
        ("true", "named no image"),
        ('echo "Not An Image" > "$MOORAGE_IMAGE_FILE"', "'Not An Image', which is no image reference"),
        ("kill -9 $$", "was ended by signal 9"),
    ]
    for number, (line, words) in enumerate(wrong):
        await register(service, f"e{number}", {"Dockerfile": line})
        await service.call("PUT", f"jobs/j{number}", job(f"e{number}"), status=201)
        failed = await ended(service, f"j{number}")
        assert failed["moorage"]["reason"] == "ImageBuildFailed" and words in failed["moorage"]["message"]


async def test_two_are_built_at_once_and_the_third_waits(service: Service, builder: Builder) -> None:
    agent = await service.attached()
    async with agent.connected():
        for name in ("a", "b", "c"):
            script = builder.dockerfile(f'touch "{builder.folder}/in-{name}"', builder.waits(f"gate-{name}"), NAMES)
            await register(service, name, {"Dockerfile": script})
            await service.call("PUT", f"jobs/{name}", job(name), status=201)

        def inside() -> set[str]:
            return {path.name for path in builder.folder.glob("in-*")}

        async def two() -> bool:
            return inside() >= {"in-a", "in-b"}

        await until(two, "two builds go on")
        assert inside() == {"in-a", "in-b"}
        waiting = (await service.call("GET", "jobs/c"))["properties"]["moorage"]["waiting"]
        assert waiting == "Waiting until the image of environment c:1 can be built."
        builder.open("gate-a")
        assert (await image_of(agent, "a")).startswith("registry.test/w1/a:1-")
        builder.open("gate-c")
        assert (await image_of(agent, "c")).startswith("registry.test/w1/c:1-")
        builder.open("gate-b")
        assert (await image_of(agent, "b")).startswith("registry.test/w1/b:1-")


async def test_a_cancelled_job_goes_and_the_build_stops_with_the_last_one(service: Service, builder: Builder) -> None:
    agent = await service.attached()
    mark = builder.folder / "ended"
    script = builder.dockerfile(f"trap 'touch {mark}; exit 1' TERM", "echo begun", builder.waits("gate"), NAMES)
    await register(service, "e2", {"Dockerfile": script})
    async with agent.connected():
        await service.call("PUT", "jobs/one", job("e2"), status=201)
        await service.call("PUT", "jobs/two", job("e2"), status=201)
        await logged(service, "one", "begun")
        await service.call("POST", "jobs/one/cancel")
        assert (await ended(service, "one"))["status"] == "Canceled"
        assert "begun" in await log_of(service, "one") and not mark.exists()
        await service.call("POST", "jobs/two/cancel")
        assert (await ended(service, "two"))["status"] == "Canceled"

        async def stopped() -> bool:
            shown = (await service.call("GET", "environments/e2/versions/1"))["properties"]["moorage"]["imageBuild"]
            return bool(shown["status"] == "Canceled")

        await until(stopped, "the build is given up")
        assert mark.exists()
        builder.open("gate")
        await service.call("PUT", "jobs/three", job("e2"), status=201)
        assert (await image_of(agent, "three")).startswith("registry.test/")


async def test_a_job_goes_that_is_cancelled_in_the_moment_in_which_its_build_is_to_begin(
    service: Service, builder: Builder, monkeypatch: pytest.MonkeyPatch
) -> None:
    await service.attached()
    await register(service, "e2", {"Dockerfile": NAMES})
    claim = builds.claim

    def late(tx: Transaction, *rest: Any) -> list[builds.Claim]:
        # Just after the engine has looked for cancelled jobs.
        if one := next((each for each in tx.resources.list(WS, "jobs") if each.name == "one"), None):
            jobs.cancel(tx, one)
        return claim(tx, *rest)

    monkeypatch.setattr(builds, "claim", late)
    await service.call("PUT", "jobs/one", job("e2"), status=201)
    assert (await ended(service, "one"))["status"] == "Canceled"


async def test_without_a_builder_it_is_refused_and_nothing_is_stored(tmp_path: Path) -> None:
    async with running(tmp_path / "home") as service:
        await service.seed()
        await service.attached()
        await register(service, "e2", {"Dockerfile": "FROM x"})
        refused = await service.call("PUT", "jobs/one", job("e2"), status=400)
        assert (refused["error"]["code"], refused["error"]["target"]) == ("ImageBuilderNotConfigured", "properties.environmentId")
        assert "moorage up --image-builder COMMAND, or MOORAGE_IMAGE_BUILDER" in refused["error"]["message"]
        await service.call("GET", "jobs/one", status=404)
        assert "moorage" not in (await service.call("GET", "environments/e2/versions/1"))["properties"]


async def test_a_context_without_its_dockerfile_is_refused_when_the_job_is_submitted(service: Service) -> None:
    await service.attached()
    await register(service, "e2", {"readme": "x"})
    refused = await service.call("PUT", "jobs/one", job("e2"), status=400)
    assert "has no file 'Dockerfile'" in refused["error"]["message"]
    await register(service, "e3", {"Dockerfile": "x"}, dockerfilePath="../../e2/context/readme")
    refused = await service.call("PUT", "jobs/one", job("e3"), status=400)
    assert "leaves the build context" in refused["error"]["message"]
    elsewhere = {"properties": {"build": {"contextUri": "https://example.org/project.git#main:docker"}}}
    await service.call("PUT", "environments/e4/versions/1", elsewhere, status=201)
    refused = await service.call("PUT", "jobs/one", job("e4"), status=400)
    assert "Download it, and register a version with its local path" in refused["error"]["message"]


async def test_a_deployment_waits_in_creating_and_its_first_operation_is_the_one_that_ends(service: Service, builder: Builder) -> None:
    agent = await service.attached()
    await register(service, "e2", {"Dockerfile": builder.dockerfile("echo begun", builder.waits("gate"), NAMES)})
    environment = WS.child("environments", "e2", "versions", "1")
    async with agent.connected():
        endpoint = await service.operation("PUT", "onlineEndpoints/digits", endpoint_body())
        await agent.report(agent.status(await sent(agent, "digits"), {}))
        assert (await finished(service, endpoint))["status"] == "Succeeded"
        operation = await service.operation("PUT", "onlineEndpoints/digits/deployments/blue", deployment_body(environmentId=environment))
        blue = "onlineEndpoints/digits/deployments/blue"
        shown = (await service.call("GET", blue))["properties"]
        assert shown["provisioningState"] == "Creating" and "the image of environment e2:1" in shown["moorage"]["message"]

        async def begun() -> bool:
            # There is none before the build begins.
            answer = await service.call("POST", f"{blue}/getLogs", {"tail": 1}, status=(200, 404))
            return bool(answer.get("content") == "begun\n")

        await until(begun, "the build's log is the deployment's")
        builder.open("gate")
        object = await sent(agent, "digits", "blue")
        assert object["spec"]["environment"]["image"].startswith("registry.test/w1/e2:1-")
        await agent.report(agent.status(object, {"phase": "Succeeded"}))
        assert (await finished(service, operation))["status"] == "Succeeded"


async def test_a_deployment_whose_image_fails_says_so_and_what_served_goes_on(service: Service, builder: Builder) -> None:
    agent = await service.attached()
    await register(service, "bad", {"Dockerfile": "echo broken; exit 9"})
    blue = "onlineEndpoints/digits/deployments/blue"
    async with agent.connected():
        endpoint = await service.operation("PUT", "onlineEndpoints/digits", endpoint_body())
        await agent.report(agent.status(await sent(agent, "digits"), {}))
        await finished(service, endpoint)
        operation = await service.operation("PUT", blue, deployment_body())
        object = await sent(agent, "digits", "blue")
        await agent.report(agent.status(object, {"phase": "Succeeded"}))
        assert (await finished(service, operation))["status"] == "Succeeded"
        environment = WS.child("environments", "bad", "versions", "1")
        operation = await service.operation("PUT", blue, deployment_body(environmentId=environment))
        # What the cluster says meanwhile is about what it has.
        await agent.report(agent.status(object, {"phase": "Succeeded"}))
        failed = await finished(service, operation)
        assert failed["status"] == "Failed" and failed["error"]["code"] == "ImageBuildFailed"
        assert "exit code 9" in failed["error"]["message"] and failed["error"]["message"].endswith("broken")
        assert agent.objects[object["metadata"]["name"]]["spec"]["environment"]["image"] == "img:1"
        await agent.report(agent.status(object, {"phase": "Succeeded", "readyReplicas": 2}))
        assert (await service.call("GET", blue))["properties"]["provisioningState"] == "Failed"
        operation = await service.operation("PUT", blue, deployment_body())
        assert (await finished(service, operation))["status"] == "Succeeded", "what it has is what is wanted again"


async def test_a_compute_knows_the_jobs_that_wait_and_a_forced_detach_ends_them(service: Service, builder: Builder) -> None:
    await service.attached()
    await register(service, "e2", {"Dockerfile": builder.dockerfile("echo begun", builder.waits("gate"), NAMES)})
    await service.call("PUT", "jobs/one", job("e2"), status=201)
    refused = await service.call("DELETE", "computes/local?underlyingResourceAction=Detach", status=409)
    assert "jobs that have not ended: one" in refused["error"]["message"]
    await service.call("DELETE", "computes/local?underlyingResourceAction=Detach&force=true", status=202)
    assert (await ended(service, "one"))["status"] == "Canceled"


async def test_a_context_that_does_not_fit_on_the_disk_is_told_with_the_remedy(service: Service, tmp_path: Path) -> None:
    await register(service, "big", {"Dockerfile": "x", "data": bytes(2 << 20)})
    context = await described(service, "big")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    (tmp_path / "context").mkdir()
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    try:
        with pytest.raises(MoorageError, match=r"does not fit into /.*: File too large, at 'data'.*MOORAGE_IMAGE_BUILD_FOLDER") as caught:
            await download(service.services.store, service.services.blobs, context, tmp_path / "context", Space(tmp_path))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.code == "InsufficientStorage"


async def test_a_context_that_does_not_fit_is_not_begun_and_the_job_says_how_much_is_missing_where(
    service: Service, builder: Builder, monkeypatch: pytest.MonkeyPatch
) -> None:
    await service.attached()
    await register(service, "big", {"Dockerfile": NAMES, "data": bytes(1 << 20)})
    monkeypatch.setattr(context, "KEPT_FREE", 1 << 60)
    await service.call("PUT", "jobs/one", job("big"), status=201)
    failed = (await ended(service, "one"))["moorage"]
    assert failed["reason"] == "InsufficientStorage" and builder.started == 0
    folder = service.services.settings.builds
    assert f"in {folder}, where" in failed["message"] and "bytes are missing" in failed["message"], failed["message"]
    assert "MOORAGE_IMAGE_BUILD_FOLDER" in failed["message"]
    assert not list(folder.glob("build-*"))


def test_what_other_contexts_have_still_to_write_is_not_free(tmp_path: Path) -> None:
    space = Space(tmp_path)
    most = {"data": ContextFile("b", int(shutil.disk_usage(tmp_path).free * 0.6), "m")}
    space.take("one", most, "The first")
    with pytest.raises(MoorageError, match=r"The second needs [\d,]+ bytes in /.*, where [\d,]+ bytes are missing") as caught:
        space.take("two", most, "The second")
    assert caught.value.code == "InsufficientStorage"
    # Written (the disk's own figures would know it), or given up.
    space.used("one", most["data"])
    space.take("two", most, "The second")
    space.leave("two")
    space.take("three", most, "The third")


async def test_a_step_in_a_thread_ends_before_its_cancellation() -> None:
    begun, gate, done = threading.Event(), threading.Event(), threading.Event()

    def step() -> None:
        begun.set()
        assert gate.wait(SECONDS)
        done.set()

    task = asyncio.create_task(wholly(step))
    assert await asyncio.to_thread(begun.wait, SECONDS)
    task.cancel()
    asyncio.get_running_loop().call_later(0.05, gate.set)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert done.is_set()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
async def test_folders_that_a_builder_made_read_only_go_too(tmp_path: Path) -> None:
    async with workplace(tmp_path / "builds") as place:
        (place.context / "cache" / "inner").mkdir(parents=True)
        (place.context / "cache" / "inner" / "file").touch()
        (place.context / "cache" / "inner").chmod(0o500)
        (place.context / "cache").chmod(0)
    assert [path.name for path in (tmp_path / "builds").iterdir()] == ["lock"]


async def spoil(service: Service, environment: str) -> None:
    """As a version of Moorage that writes it otherwise might leave the row of a build."""

    def write(tx: Transaction) -> None:
        [row] = [each for each in builds.active(tx) if each.key.parent == environment]
        tx.resources.update(row, state={**row.state, "status": "Pondered"})
        tx.touch(builds.TOPIC)

    await service.services.store.write(write)


async def test_a_build_that_cannot_be_read_fails_alone_and_is_built_when_it_is_asked_for_again(tmp_path: Path, builder: Builder) -> None:
    async with running(tmp_path / "home", image_builder=str(builder.path), image_builds=1) as service:
        await service.seed()
        agent = await service.attached()
        await register(service, "a", {"Dockerfile": builder.dockerfile("echo begun", builder.waits("gate"), NAMES)})
        await register(service, "b", {"Dockerfile": NAMES})
        await register(service, "c", {"Dockerfile": NAMES})
        blue = "onlineEndpoints/digits/deployments/blue"
        async with agent.connected():
            endpoint = await service.operation("PUT", "onlineEndpoints/digits", endpoint_body())
            await agent.report(agent.status(await sent(agent, "digits"), {}))
            assert (await finished(service, endpoint))["status"] == "Succeeded"
            await service.call("PUT", "jobs/a", job("a"), status=201)
            await logged(service, "a", "begun")
            await service.call("PUT", "jobs/b", job("b"), status=201)
            operation = await service.operation("PUT", blue, deployment_body(environmentId=WS.child("environments", "b", "versions", "1")))
            await service.call("PUT", "jobs/c", job("c"), status=201)
            await spoil(service, "b")
            failed = (await ended(service, "b"))["moorage"]
            assert failed["reason"] == "ImageBuildUnreadable" and "environment b:1" in failed["message"]
            assert (await finished(service, operation))["error"]["code"] == "ImageBuildUnreadable"
            shown = (await service.call("GET", "environments/b/versions/1"))["properties"]["moorage"]["imageBuild"]
            assert (shown["status"], shown["error"]["code"]) == ("Failed", "ImageBuildUnreadable")
            # One that goes on needs no row to be finished.
            await spoil(service, "a")
            builder.open("gate")
            assert (await image_of(agent, "a")).startswith("registry.test/w1/a:1-")
            assert (await image_of(agent, "c")).startswith("registry.test/w1/c:1-")
            await service.call("PUT", "jobs/again", job("b"), status=201)
            assert (await image_of(agent, "again")).startswith("registry.test/w1/b:1-")


async def test_names_that_lead_out_of_the_context_are_refused(service: Service, tmp_path: Path) -> None:
    (tmp_path / "deep" / "context").mkdir(parents=True)
    for number, name in enumerate(("../outside", "a//b", "a/../../b", "./c")):
        await register(service, f"w{number}", {"Dockerfile": "x", name: "y"})
        with pytest.raises(MoorageError, match="cannot be a file's"):
            context = await described(service, f"w{number}")
            await download(service.services.store, service.services.blobs, context, tmp_path / "deep" / "context", Space(tmp_path))
        (tmp_path / "deep" / "context" / "Dockerfile").unlink(missing_ok=True)
    assert not (tmp_path / "deep" / "outside").exists()


async def test_a_context_that_changed_meanwhile_and_one_that_is_no_tree_are_refused(service: Service, tmp_path: Path) -> None:
    await register(service, "e2", {"Dockerfile": "x"})
    before = await described(service, "e2")
    container, _, path = before.address.partition("/")
    await service.services.blobs.put(container, f"{path}/more", b"y")
    (tmp_path / "one").mkdir()
    with pytest.raises(MoorageError, match="changed after the image was asked for"):
        await download(service.services.store, service.services.blobs, before, tmp_path / "one", Space(tmp_path))
    await service.services.blobs.put(container, f"{path}/more/below", b"y")
    with pytest.raises(MoorageError, match="cannot be written as files"):
        await download(service.services.store, service.services.blobs, await described(service, "e2"), tmp_path / "one", Space(tmp_path))


async def test_builds_that_begin_while_others_end_have_their_folders(tmp_path: Path) -> None:
    left = tmp_path / "builds" / "build-left" / "context"
    left.mkdir(parents=True)

    async def one_after_another() -> None:
        for _ in range(25):
            async with workplace(tmp_path / "builds") as place:
                (place.context / "Dockerfile").write_text("x")

    await asyncio.gather(*(one_after_another() for _ in range(4)))
    assert [path.name for path in (tmp_path / "builds").iterdir()] == ["lock"]


class Meddled(BlobStore):
    """The service's blobs, of which somebody writes another while the first is read."""

    def __init__(self, blobs: BlobStore, name: str) -> None:
        self.__dict__.update(blobs.__dict__)
        self._meddled = name

    async def get(self, container: str, name: str) -> Blob:
        found = await super().get(container, name)
        if name != self._meddled:
            await self.put(container, self._meddled, b"other")
        return found


async def test_a_context_that_changes_while_it_is_read_is_refused(service: Service, tmp_path: Path) -> None:
    await register(service, "e3", {"Dockerfile": "x", "later": "y"})
    before = await described(service, "e3")
    meddled = Meddled(service.services.blobs, f"{before.address.partition('/')[2]}/later")
    with pytest.raises(MoorageError, match="changed after the image was asked for"):
        await download(service.services.store, meddled, before, tmp_path, Space(tmp_path))
    assert not (tmp_path / "later").exists()


async def described(service: Service, name: str) -> Any:
    address = (await service.call("GET", f"environments/{name}/versions/1"))["properties"]["build"]["contextUri"].partition("/blobstore/")[
        2
    ]
    return await service.services.store.read(lambda tx: describe(tx, name, "1", address.rstrip("/"), "Dockerfile", target="t"))
