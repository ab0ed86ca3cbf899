"""What scripts written for `az ml` may ask for and this command line does not do: refused before a service is looked for, with what to do."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from moorage.cli.commands import Command
from moorage.cli.main import application, main


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("job connect-ssh --name j --private-key-file-path k", "no SSH server runs in jobs yet"),
        ("model package -n m -v 1 --file p.yml", "no images are built here"),
        ("model share -n m -v 1 --registry-name r --share-with-name x", "create it in the other workspace"),
        ("model create -n m -p . --registry-name azureml", "registries hold environments only"),
        ("data import --path x", "copy the data in a command job"),
        ("data mount --path x", "volumes are mounted in jobs only"),
        ("datastore mount --path x", "volumes are mounted in jobs only"),
        ("online-endpoint create -f e.yml --local", "there is no serving without a cluster"),
        ("online-endpoint invoke -n e --request-file r.json --local", "there is no serving without a cluster"),
        ("online-deployment create -f d.yml --local --local-enable-gpu", "there is no serving without a cluster"),
        ("online-deployment create -f d.yml --vscode-debug", "has the traceback"),
        ("online-deployment create -f d.yml --package-model", "no images are built here"),
        ("online-deployment create -f d.yml --with-package", "no images are built here"),
        ("compute create -n c --type ComputeInstance --size S", "machines belong to a Kubernetes cluster"),
        ("compute update -n c --max-instances 4", "its own autoscaler adds and removes them"),
        ("compute start -n c", "they belong to the cluster"),
        ("compute delete -n c --yes", "`moorage compute detach` takes it off the workspace"),
        ("workspace create -n w --storage-account s", "the service keeps files itself"),
        ("workspace diagnose -n w", "the service says itself what is wrong"),
        ("workspace list-keys -n w", "a workspace has no keys"),
    ],
)
def test_what_is_not_supported_is_refused_with_the_reason(
    line: str, reason: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MOORAGE_HOME", str(tmp_path))
    code = main(line.split())
    out, err = capfd.readouterr()
    assert (code, out) == (2, "")
    assert reason in err


def test_a_refused_verb_is_completed_and_listed_nowhere() -> None:
    root = click.Context(application, info_name="moorage")
    models = application.get_command(root, "model")
    assert isinstance(models, click.Group)
    package = models.get_command(root, "package")
    assert isinstance(package, Command) and package.hidden
    names = {item.value for item in models.shell_complete(click.Context(models, parent=root), "")}
    assert {"create", "archive", "restore", "update"} <= names and "package" not in names


def test_nouns_and_options_are_completed() -> None:
    root = click.Context(application, info_name="moorage")
    nouns = {item.value for item in application.shell_complete(root, "")}
    assert {"datastore", "schedule", "batch-endpoint", "batch-deployment", "workspace"} <= nouns
    endpoints = application.get_command(root, "online-endpoint")
    assert isinstance(endpoints, click.Group)
    create = endpoints.get_command(root, "create")
    assert create is not None
    found = {item.value for item in create.shell_complete(click.Context(create, parent=root, resilient_parsing=True), "--")}
    assert {"--web", "--no-wait", "--file"} <= found
