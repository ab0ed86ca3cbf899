"""Image builds over several lives and processes of the service. Slow: several are started, and the lease of one that was killed has to pass, half a minute."""

from __future__ import annotations

import asyncio
import fcntl
import ssl
from pathlib import Path
from typing import Any

import httpx2
import pytest
from tests.embedded.image_builder_peers import NAMES, Builder, ended, finished, image_of, is_alive, job, logged, register, sent, until
from tests.embedded.server_workloads_peers import WS, deployment_body, endpoint_body, running
from tests.fixtures.process import serving

pytest_plugins = ["tests.fixtures.postgres"]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture
def builder(tmp_path: Path) -> Builder:
    return Builder(tmp_path / "builder")


async def test_a_builder_that_is_gone_or_takes_too_long_or_has_no_place_is_told(tmp_path: Path, builder: Builder) -> None:
    settings: dict[str, Any] = {"image_builder": str(builder.path), "image_build_timeout": "PT1S"}
    async with running(tmp_path / "home", **settings) as service:
        await service.seed()
        await service.attached()
        await register(service, "slow", {"Dockerfile": builder.waits("never")})
        await service.call("PUT", "jobs/slow", job("slow"), status=201)
        failed = await ended(service, "slow")
        assert failed["moorage"]["reason"] == "ImageBuildTimedOut" and "MOORAGE_IMAGE_BUILD_TIMEOUT" in failed["moorage"]["message"]
        builder.path.unlink()
        await service.call("PUT", "jobs/gone", job("slow"), status=201)
        failed = await ended(service, "gone")
        assert failed["moorage"]["reason"] == "ImageBuilderNotFound"
    (tmp_path / "file").touch()
    async with running(tmp_path / "home", image_builder="sh", image_build_folder=tmp_path / "file" / "builds") as service:
        await service.call("PUT", "jobs/nowhere", job("slow"), status=201)
        failed = await ended(service, "nowhere")
        assert failed["moorage"]["reason"] == "ImageBuildFolderUnusable" and "MOORAGE_IMAGE_BUILD_FOLDER" in failed["moorage"]["message"]


async def test_a_service_that_stops_ends_the_builder_and_the_next_one_builds_anew(tmp_path: Path, builder: Builder) -> None:
    home, mark = tmp_path / "home", builder.folder / "ended"
    script = builder.dockerfile(f"trap 'touch {mark}; exit 1' TERM", "echo begun", builder.waits("gate"), NAMES)
    async with running(home, image_builder=str(builder.path)) as service:
        await service.seed()
        await service.attached()
        await register(service, "e2", {"Dockerfile": script})
        await service.call("PUT", "jobs/one", job("e2"), status=201)
        await logged(service, "one", "begun")
    assert mark.exists()
    async with running(home) as service:
        waiting = (await service.call("GET", "jobs/one"))["properties"]["moorage"]["waiting"]
        assert "has no image builder any more" in waiting
    builder.open("gate")
    async with running(home, image_builder=str(builder.path)) as service:
        agent = await service.agent()
        async with agent.connected():
            assert (await image_of(agent, "one")).startswith("registry.test/")


async def test_what_waits_without_a_builder_names_the_setting_and_can_be_given_up_or_goes_on(tmp_path: Path, builder: Builder) -> None:
    home, blue = tmp_path / "home", "onlineEndpoints/digits/deployments/blue"
    green = blue.replace("blue", "green")
    body = deployment_body(environmentId=WS.child("environments", "e2", "versions", "1"))
    async with running(home, image_builder=str(builder.path)) as service:
        await service.seed()
        agent = await service.attached()
        await register(service, "e2", {"Dockerfile": builder.dockerfile("echo begun", builder.waits("gate"), NAMES)})
        async with agent.connected():
            endpoint = await service.operation("PUT", "onlineEndpoints/digits", endpoint_body())
            await agent.report(agent.status(await sent(agent, "digits"), {}))
            assert (await finished(service, endpoint))["status"] == "Succeeded"
        await service.call("PUT", "jobs/one", job("e2"), status=201)
        await service.call("PUT", "jobs/two", job("e2"), status=201)
        await service.operation("PUT", blue, body)
        await service.operation("PUT", green, body)
        await logged(service, "one", "begun")
    async with running(home) as service:
        for path, what in (("jobs/one", "job"), (blue, "deployment")):
            shown = (await service.call("GET", path))["properties"]["moorage"]
            why = shown["waiting"] if what == "job" else shown["message"]
            assert f"The image of environment e2:1 is not built: this service has no image builder any more. The {what} waits" in why
            assert "moorage up --image-builder COMMAND, or MOORAGE_IMAGE_BUILDER" in why
        assert (await service.call("GET", blue))["properties"]["provisioningState"] == "Creating"
        await service.call("POST", "jobs/one/cancel")
        assert (await ended(service, "one"))["status"] == "Canceled"
        await service.operation("DELETE", green)
        await service.call("GET", green, status=404)
    builder.open("gate")
    async with running(home, image_builder=str(builder.path)) as service:
        agent = await service.agent()
        async with agent.connected():
            assert (await image_of(agent, "two")).startswith("registry.test/w1/e2:1-")
            object = await sent(agent, "digits", "blue")
            assert object["spec"]["environment"]["image"].startswith("registry.test/w1/e2:1-")
        assert not [each for each in agent.objects.values() if each["spec"].get("job") == "one"]


async def test_two_processes_of_the_service_build_an_image_once(tmp_path: Path, builder: Builder, database_url: str) -> None:
    settings: dict[str, Any] = {"image_builder": str(builder.path)}
    async with running(tmp_path / "home", database_url, **settings) as one, running(tmp_path / "home", database_url, **settings) as two:
        await one.seed()
        agent = await one.attached()
        await register(one, "e2", {"Dockerfile": builder.dockerfile("echo begun", builder.waits("gate"), NAMES)})
        await asyncio.gather(
            *(each.call("PUT", f"jobs/j{number}", job("e2"), status=201) for number, each in enumerate((one, two, one, two)))
        )
        await logged(two, "j3", "begun")
        builder.open("gate")
        async with agent.connected():
            assert len({await image_of(agent, f"j{number}") for number in range(4)}) == 1
    assert builder.started == 1


def submitted_and_killed(home: Path, builder: Builder) -> int:
    """Submit a job to a service of its own process, and kill that once the builder runs; the builder's process."""
    scope = {"MOORAGE_SUBSCRIPTION": "s1", "MOORAGE_RESOURCE_GROUP": "g1", "MOORAGE_WORKSPACE": "w1"}
    with serving(home, scope | {"MOORAGE_IMAGE_BUILDER": str(builder.path)}) as service:
        context = ssl.create_default_context(cafile=service.authority)
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        headers = {"Authorization": f"Bearer {service.token}"}
        with httpx2.Client(verify=context, trust_env=False, timeout=60, headers=headers) as http:
            url = f"{service.url.removesuffix('/blobstore')}{WS.id}/jobs/one"
            answer = http.put(url, json=job("e2"))
            assert answer.status_code == 201, answer.text
        pid = asyncio.run(until(lambda: builder.said("pid"), "the builder runs"))
        service.process.kill()
        service.process.wait()
    return int(pid)


def test_a_kill_in_the_middle_of_a_build_ends_the_builder_and_the_image_is_built_anew(tmp_path: Path, builder: Builder) -> None:
    home = tmp_path / "home"
    # Written whole, so that whoever reads it reads all of it.
    notes = f'echo $$ > "{builder.folder}/pid.new"; mv "{builder.folder}/pid.new" "{builder.folder}/pid"'

    async def prepare() -> None:
        async with running(home) as service:
            await service.seed()
            await service.attached()
            await register(service, "e2", {"Dockerfile": builder.dockerfile(notes, builder.waits("gate"), NAMES)})

    async def tidied() -> None:
        async with running(home):

            async def gone() -> bool:
                return not left.exists()

            await until(gone, "a service without a builder removes what the killed one left")

    async def resume() -> None:
        async with running(home, image_builder=str(builder.path)) as service:
            agent = await service.agent()
            async with agent.connected():

                async def arrived() -> bool:
                    return len(agent.objects) == 1

                await until(arrived, "the job goes to its cluster")
            [object] = agent.objects.values()
            assert object["spec"]["environment"]["image"].startswith("registry.test/w1/e2:1-")
            assert not list(service.services.settings.builds.glob("build-*")), "what the killed service left is gone"

    asyncio.run(prepare())
    pid = submitted_and_killed(home, builder)

    async def dead() -> bool:
        return not is_alive(pid)

    asyncio.run(until(dead, "the builder ends with the service"))
    [left] = (home / "server" / "builds").glob("build-*")

    async def released() -> bool:
        with (left / "lock").open("rb") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
        return True

    asyncio.run(until(released, "nothing of the killed service is at work"))
    asyncio.run(tidied())
    builder.open("gate")
    asyncio.run(resume())
    assert builder.started == 2
