"""Environments with a build context where the operator has a builder, here a script of `test_image_builds`."""

from __future__ import annotations

import io
import json
import threading
import time
from contextlib import redirect_stdout

from azure.ai.ml.entities import BuildContext, Environment, KubernetesOnlineEndpoint
from azure.ai.ml.exceptions import JobException
from azure.core.exceptions import HttpResponseError
from flows.expect import raises, until
from flows.jobs import ended, job, streamed
from flows.serving import comes, deployment

IMAGE = "registry.test/default/built:1-"


def built(place, name: str, *lines: str) -> Environment:
    """An environment whose Dockerfile has these lines."""
    place.file("context/Dockerfile", "\n".join(("FROM python:3.11", "COPY requirements.txt .", *lines)) + "\n")
    place.file("context/requirements.txt", "six\n")
    return place.ml.environments.create_or_update(
        Environment(name=name, version="1", build=BuildContext(path=str(place.folder / "context")))
    )


def a_job_in_an_environment_with_a_build_context_is_followed_from_the_build_on(place) -> None:
    gate = place.folder / "gate"
    made = built(place, "built", f"# gate: {gate}")
    submitted = place.ml.jobs.create_or_update(job("echo hello from the job", environment=made))
    assert submitted.status == "Preparing"
    printed = io.StringIO()

    def open_gate() -> None:
        # The build ends only after the SDK has shown its log; past the deadline it ends as well, and the assertion below says what is missing.
        deadline = time.monotonic() + 90
        while "STEP 1: FROM python:3.11" not in printed.getvalue() and time.monotonic() < deadline:
            time.sleep(0.1)
        gate.touch()

    opener = threading.Thread(target=open_gate)
    opener.start()
    with redirect_stdout(printed):
        place.ml.jobs.stream(submitted.name)
    opener.join()
    text = printed.getvalue()
    build, _, rest = text.partition("Streaming user_logs/std_log.txt")
    assert "Streaming azureml-logs/20_image_build_log.txt" in build and "STEP 1: FROM python:3.11" in build
    assert "hello from the job" in rest
    # The embedded cluster pulls no images, and says so; its event may come after the job's end.
    said = "was built for this job, which does not run in it"
    until(lambda: said in streamed(place, submitted.name), "the job's warnings name the image")
    assert place.ml.jobs.get(submitted.name).status == "Completed"
    place.ml.jobs.download(submitted.name, download_path=str(place.folder / "logs"))
    [log] = (place.folder / "logs").rglob("20_image_build_log.txt")
    assert f"Built {IMAGE}" in log.read_text()
    # A later one finds the image, also when the environment stands in the job itself.
    again = place.ml.jobs.create_or_update(job(environment="built:1"))
    assert ended(place, again.name) == "Completed"
    place.ml.jobs.download(again.name, download_path=str(place.folder / "again"))
    assert not list((place.folder / "again").rglob("20_image_build_log.txt"))
    assert place.ml.environments.get("built", "1").build.path == made.build.path


def a_job_with_the_build_context_in_itself_runs(place) -> None:
    place.file("context/Dockerfile", "FROM python:3.12\n")
    inline = Environment(build=BuildContext(path=str(place.folder / "context")))
    submitted = place.ml.jobs.create_or_update(job(environment=inline))
    assert ended(place, submitted.name) == "Completed"


def a_build_that_fails_ends_the_job_with_its_log(place) -> None:
    made = built(place, "broken", "RUN false")
    submitted = place.ml.jobs.create_or_update(job(environment=made))
    error = raises(JobException, "could not be built", streamed, place, submitted.name)
    assert "RUN false did not work" in str(error)
    assert place.ml.jobs.get(submitted.name).status == "Failed"


def a_job_is_cancelled_while_its_image_is_built(place) -> None:
    made = built(place, "never", f"# gate: {place.folder / 'never'}")
    submitted = place.ml.jobs.create_or_update(job(environment=made))
    until(lambda: place.ml.jobs.get(submitted.name).status == "Preparing", "the image is built")
    place.ml.jobs.begin_cancel(submitted.name).result()
    assert ended(place, submitted.name) == "Canceled"


def a_deployment_serves_once_its_image_is_built(place) -> None:
    place.ml.online_endpoints.begin_create_or_update(
        KubernetesOnlineEndpoint(name="built-endpoint", compute="local", auth_mode="key")
    ).result()
    made = built(place, "serving")
    blue = deployment(place, "blue", endpoint_name="built-endpoint", environment=made)
    place.ml.online_deployments.begin_create_or_update(blue).result()
    request = place.file("request.json", "[1]")
    invoke = place.ml.online_endpoints.invoke
    comes(lambda: json.loads(invoke("built-endpoint", deployment_name="blue", request_file=request)), {"from": "blue"})
    broken = deployment(place, "green", endpoint_name="built-endpoint", environment=built(place, "broken2", "RUN false"))
    error = raises(HttpResponseError, "could not be built", place.ml.online_deployments.begin_create_or_update(broken).result)
    assert "ImageBuildFailed" in str(error)
    place.ml.online_endpoints.begin_delete("built-endpoint").result()
