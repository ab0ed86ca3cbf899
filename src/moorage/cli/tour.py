"""The main job as a newcomer would type it: train, register, deploy, score. Each command is shown and run as the command line itself runs it."""

from __future__ import annotations

import json
import shlex
import tempfile
from datetime import UTC
from pathlib import Path
from typing import Any

import click

from moorage.cli.steps import Steps
from moorage.errors import Invalid, MoorageError, Unavailable

_FILES = ("train.yml", "endpoint.yml", "deployment.yml")
_ENDPOINT = "digits"
_DEPLOYMENT = "blue"
_MODEL = "digits"
# What the training script leaves beside the model for checking the served one.
_HELD_OUT = "held_out.json"
_BATCH = 90


def check_tour(folder: str) -> None:
    """Invalid when the folder is not an example this tour can take, before anything is started."""
    for name in _FILES:
        if not (Path(folder) / name).is_file():
            raise Invalid(f"{folder} has no {name}; the tour needs {', '.join(_FILES)}. Try --tour examples/digits.", target="--tour")


def run_tour(folder: str, steps: Steps) -> None:
    """Train, register, deploy, score; the accuracy of the served model on held-out images goes to stdout."""
    from moorage.clock import now

    example = Path(folder)
    job = f"digits-{now().astimezone(UTC):%Y%m%d-%H%M%S}"
    with steps.step("Train a classifier"):
        _type(["job", "create", "--file", str(example / "train.yml"), "--name", job, "--stream", "--output", "none"])
    with steps.step("Register the model from the job's output"):
        _type(
            [
                "model",
                "create",
                "--name",
                _MODEL,
                "--type",
                "custom_model",
                "--path",
                f"azureml://jobs/{job}/outputs/model",
                "--output",
                "none",
            ]
        )
    with steps.step("Deploy it behind an endpoint"):
        # A tour that is taken again finds both there.
        endpoint, deployment = _present()
        _type(["online-endpoint", "update" if endpoint else "create", "--file", str(example / "endpoint.yml"), "--output", "none"])
        more = [] if deployment else ["--all-traffic"]
        _type(
            [
                "online-deployment",
                "update" if deployment else "create",
                "--file",
                str(example / "deployment.yml"),
                *more,
                "--output",
                "none",
            ]
        )
    with steps.step("Score held-out images through the router"), tempfile.TemporaryDirectory() as scratch:
        _type(["job", "download", "--name", job, "--output-name", "model", "--download-path", scratch, "--output", "none"])
        right, total = _score(_find(Path(scratch)))
    click.echo(f"Accuracy of the served model on {total} held-out images: {right / total:.4f}")


def _type(words: list[str]) -> None:
    """Show a command and run it in this process."""
    from moorage.cli.main import application

    shown = [word for word in words if word not in ("--output", "none")]
    click.echo(f"      $ moorage {shlex.join(shown)}", err=True)
    application.main(words, prog_name="moorage", standalone_mode=False)


def _present() -> tuple[bool, bool]:
    """Whether the example's endpoint and deployment exist already."""
    from moorage.client.connection import Client
    from moorage.client.profile import load

    with Client(load()) as client:
        path = client.path("onlineEndpoints", _ENDPOINT)
        return client.find(path) is not None, client.find(f"{path}/deployments/{_DEPLOYMENT}") is not None


def _find(folder: Path) -> Path:
    found = sorted(folder.rglob(_HELD_OUT))
    if not found:
        raise MoorageError(f"The job's output 'model' has no {_HELD_OUT}; the example's train.py writes it.")
    return found[0]


def _score(held_out: Path) -> tuple[int, int]:
    """How many of the held-out images the served model names rightly, and how many there are."""
    import httpx2

    from moorage.client.connection import Client
    from moorage.client.profile import load

    wanted = json.loads(held_out.read_text(encoding="utf-8"))
    with Client(load()) as client:
        path = client.path("onlineEndpoints", _ENDPOINT)
        uri = client.get(path)["properties"]["scoringUri"]
        key = client.post(f"{path}/listKeys")["primaryKey"]
    right = 0
    with httpx2.Client(timeout=30, trust_env=False, headers={"Authorization": f"Bearer {key}"}) as scoring:
        for begin in range(0, len(wanted["digits"]), _BATCH):
            try:
                answer: Any = scoring.post(uri, json={"images": wanted["images"][begin : begin + _BATCH]})
            except httpx2.TransportError as error:
                raise Unavailable(f"Scoring at {uri} got no answer: {error}.", code="CannotReachEndpoint") from error
            if answer.status_code != 200:
                raise MoorageError(f"Scoring answered {answer.status_code}: {answer.text[:300]}", code="ScoringFailed")
            named = answer.json()["digits"]
            right += sum(one == other for one, other in zip(named, wanted["digits"][begin : begin + _BATCH], strict=True))
    return right, len(wanted["digits"])
