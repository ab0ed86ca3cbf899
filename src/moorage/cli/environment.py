"""`moorage environment`: register what code runs in."""

from __future__ import annotations

from pathlib import Path

import click

from moorage.cli import registry
from moorage.cli.candidates import files, folders
from moorage.cli.commands import command, file_option, group, name_option, set_option, tag_changes, tags_option
from moorage.cli.session import Session
from moorage.specs.manifest import Manifest
from moorage.wire.documents.document import Kind
from moorage.wire.documents.uses import Role

environments = group("environment", "Register what code runs in.")


@command(
    environments,
    "create",
    table="environments",
    examples=[
        "moorage environment create --file environment.yml",
        "moorage environment create -n sklearn --image python:3.11-slim --conda-file conda.yml",
        "moorage environment create --file ours.yml --registry-name azureml",
    ],
)
@file_option("environment", required=False)
@name_option("environment", required=False)
@click.option("--version", "-v", metavar="VERSION", help="Version; the next one when left out and the content is new.")
@click.option("--image", "-i", metavar="IMAGE", help="Container image.")
@click.option("--conda-file", "-c", metavar="FILE", shell_complete=files, help="Conda specification of the packages.")
@click.option(
    "--build-context", "-b", metavar="FOLDER", shell_complete=folders, help="Folder with a Dockerfile, for services with an image builder."
)
@click.option("--dockerfile-path", "-d", metavar="FILE", help="Its Dockerfile, from there. Default: Dockerfile.")
@click.option("--os-type", metavar="TYPE", help="linux, the default, or windows.")
@click.option("--description", metavar="TEXT", help="What it is.")
@registry.datastore_option
@tags_option()
@registry.of_registry
@set_option()
def create(
    session: Session,
    file: str | None,
    changes: tuple[str, ...],
    registry_name: str | None,
    tags: tuple[str, ...],
    **options: str | None,
) -> Manifest:
    """Register an environment. Content that is the latest version already makes no new one.

    With --registry-name it becomes a ready-made one, for every workspace of the service; needs the role Owner on all of it.
    """
    context, dockerfile = options.pop("build_context"), options.pop("dockerfile_path")
    build = (("path", context and str(Path(context).expanduser().absolute())), ("dockerfile_path", dockerfile))
    changes = (*changes, *tag_changes(tags), *(f"build.{field}={value}" for field, value in build if value))
    return registry.create(session.in_registry(registry_name), Kind.ENVIRONMENT, file, changes, **options)


@command(
    environments,
    "show",
    table="environments",
    examples=[
        "moorage environment show -n sklearn --label latest",
        "moorage environment show -n sklearn-1.5 -l latest --registry-name azureml",
    ],
)
@name_option("environment")
@registry.version_options
@registry.of_registry
def show(session: Session, name: str, version: str | None, label: str | None, registry_name: str | None) -> Manifest:
    """Show a version of an environment."""
    return registry.show(session.in_registry(registry_name), Role.ENVIRONMENT, name, version, label)


@command(
    environments,
    "list",
    table="environments",
    examples=["moorage environment list", "moorage environment list -n sklearn", "moorage environment list --registry-name azureml"],
)
@registry.list_options
@registry.of_registry
def list_environments(
    session: Session, name: str | None, max_results: int | None, archived_only: bool, include_archived: bool, registry_name: str | None
) -> list[Manifest]:
    """List environments, or the versions of one; with --registry-name the ready-made ones."""
    session.in_registry(registry_name)
    return registry.listing(session, Role.ENVIRONMENT, name, max_results, archived_only=archived_only, include_archived=include_archived)


registry.add_edits(environments, Role.ENVIRONMENT, "environment", registry=registry.of_registry)
