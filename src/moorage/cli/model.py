"""`moorage model`: register and fetch models."""

from __future__ import annotations

from pathlib import Path

import click

from moorage.cli import registry
from moorage.cli.candidates import files
from moorage.cli.commands import (
    command,
    download_path_option,
    file_option,
    group,
    name_option,
    refused_command,
    set_option,
    tag_changes,
    tags_option,
)
from moorage.cli.session import Session
from moorage.specs.manifest import Manifest
from moorage.wire.documents.document import Kind
from moorage.wire.documents.uses import Role

models = group("model", "Register and fetch models.")


@command(
    models,
    "create",
    table="assets",
    examples=[
        "moorage model create --file model.yml",
        "moorage model create -n digits --path ./model --type custom_model",
        "moorage model create -n digits --path azureml://jobs/my-job/outputs/model --type mlflow_model",
    ],
)
@file_option("model", required=False)
@name_option("model", required=False)
@click.option("--version", "-v", metavar="VERSION", help="Version; the next one when left out.")
@click.option(
    "--path", "-p", metavar="PATH", shell_complete=files, help="A file or folder here, or a URI such as azureml://jobs/JOB/outputs/NAME."
)
@click.option("--type", "-t", "type_", type=click.Choice(["custom_model", "mlflow_model", "triton_model"]), help="Default: custom_model.")
@click.option("--description", metavar="TEXT", help="What it is.")
@registry.datastore_option
@click.option("--stage", "-s", metavar="STAGE", help="Stage of its life, in words of your own.")
@tags_option()
@set_option()
@registry.no_registry
def create(
    session: Session, file: str | None, changes: tuple[str, ...], type_: str | None, tags: tuple[str, ...], **options: str | None
) -> Manifest:
    """Register a model from a document, from files here, or from a job's output."""
    if file is None and (path := options.get("path")):
        options["path"] = registry.as_typed(path)
    return registry.create(session, Kind.MODEL, file, (*changes, *tag_changes(tags)), type=type_, **options)


@command(models, "show", table="assets", examples=["moorage model show -n digits -v 1", "moorage model show -n digits --label latest"])
@name_option("model")
@registry.version_options
@registry.no_registry
def show(session: Session, name: str, version: str | None, label: str | None) -> Manifest:
    """Show a version of a model."""
    return registry.show(session, Role.MODEL, name, version, label)


@command(models, "list", table="assets", examples=["moorage model list", "moorage model list -n digits"])
@registry.list_options
@registry.no_registry
def list_models(session: Session, name: str | None, max_results: int | None, archived_only: bool, include_archived: bool) -> list[Manifest]:
    """List models, or the versions of one."""
    return registry.listing(session, Role.MODEL, name, max_results, archived_only=archived_only, include_archived=include_archived)


@command(models, "download", examples=["moorage model download -n digits -v 1 --download-path ./models"])
@name_option("model")
@registry.version_options
@download_path_option
@registry.no_registry
def download(session: Session, name: str, version: str | None, label: str | None, download_path: str) -> None:
    """Fetch the files of a model into FOLDER/NAME."""
    from moorage.cli.progress import fetched
    from moorage.client.jobs import download_model

    chosen = registry.resolve_version(session, Role.MODEL, name, version, label)
    folder = Path(download_path)
    progress = session.upload()
    files = download_model(session.client, name, chosen, folder, upload=progress)
    session.say(fetched(files, folder / name, progress.replaced))


registry.add_edits(models, Role.MODEL, "model")
refused_command(
    models, "package", "no images are built here; deploy the model with `moorage online-deployment create`, code and environment beside it."
)
