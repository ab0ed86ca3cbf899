"""`moorage data`: register data."""

from __future__ import annotations

import click

from moorage.cli import registry
from moorage.cli.candidates import files
from moorage.cli.commands import (
    accepted_option,
    command,
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

datas = group("data", "Register data.")


@command(
    datas,
    "create",
    table="assets",
    examples=["moorage data create --file data.yml", "moorage data create -n digits --path ./digits.csv --type uri_file"],
)
@file_option("data asset", required=False)
@name_option("data asset", required=False)
@click.option("--version", "-v", metavar="VERSION", help="Version; the next one when left out.")
@click.option("--path", "-p", metavar="PATH", shell_complete=files, help="A file or folder here, or a URI.")
@click.option("--type", "-t", "type_", type=click.Choice(["uri_file", "uri_folder", "mltable"]), help="Default: uri_folder.")
@click.option("--description", metavar="TEXT", help="What it is.")
@registry.datastore_option
@tags_option()
@set_option()
@accepted_option("--skip-validation", meaning="an MLTable is not opened.")
@registry.no_registry
def create(
    session: Session, file: str | None, changes: tuple[str, ...], type_: str | None, tags: tuple[str, ...], **options: str | None
) -> Manifest:
    """Register data from a document, from files here, or at a URI."""
    if file is None and (path := options.get("path")):
        options["path"] = registry.as_typed(path)
    return registry.create(session, Kind.DATA, file, (*changes, *tag_changes(tags)), type=type_, **options)


@command(datas, "show", table="assets", examples=["moorage data show -n digits -v 1"])
@name_option("data asset")
@registry.version_options
@registry.no_registry
def show(session: Session, name: str, version: str | None, label: str | None) -> Manifest:
    """Show a version of a data asset."""
    return registry.show(session, Role.DATA, name, version, label)


@command(datas, "list", table="assets", examples=["moorage data list", "moorage data list -n digits"])
@registry.list_options
@registry.no_registry
def list_data(session: Session, name: str | None, max_results: int | None, archived_only: bool, include_archived: bool) -> list[Manifest]:
    """List data assets, or the versions of one."""
    return registry.listing(session, Role.DATA, name, max_results, archived_only=archived_only, include_archived=include_archived)


registry.add_edits(datas, Role.DATA, "data asset")
refused_command(datas, "import", "imports are not supported yet; copy the data in a command job, or register it with --path.")
refused_command(datas, "mount", "volumes are mounted in jobs only (`mode: ro_mount`); a job's files come with `moorage job download`.")
refused_command(datas, "list-materialization-status", "imports are not supported yet.")
