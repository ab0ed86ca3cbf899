"""`moorage component`: register steps that pipelines are made of."""

from __future__ import annotations

import click

from moorage.cli import registry
from moorage.cli.commands import accepted_option, command, file_option, group, name_option, set_option
from moorage.cli.session import Session
from moorage.specs.manifest import Manifest
from moorage.wire.documents.document import Kind
from moorage.wire.documents.uses import Role

components = group("component", "Register steps that pipelines are made of.")


@command(components, "create", table="assets", examples=["moorage component create --file train.yml"])
@file_option("component")
@name_option("component", required=False)
@click.option("--version", "-v", metavar="VERSION", help="Version; the next one when left out and the content is new.")
@set_option()
@accepted_option("--skip-validation", meaning="the document is checked in any case.")
@registry.no_registry
def create(session: Session, file: str, changes: tuple[str, ...], **options: str | None) -> Manifest:
    """Register a command, parallel or pipeline component. Code and environment travel with it."""
    return registry.create(session, Kind.COMPONENT, file, changes, **options)


@command(components, "show", table="assets", examples=["moorage component show -n train -v 1", "moorage component show -n train -l latest"])
@name_option("component")
@registry.version_options
@registry.no_registry
def show(session: Session, name: str, version: str | None, label: str | None) -> Manifest:
    """Show a version of a component."""
    return registry.show(session, Role.COMPONENT, name, version, label)


@command(components, "list", table="assets", examples=["moorage component list", "moorage component list -n train"])
@registry.list_options
@registry.no_registry
def list_components(
    session: Session, name: str | None, max_results: int | None, archived_only: bool, include_archived: bool
) -> list[Manifest]:
    """List components, or the versions of one."""
    return registry.listing(session, Role.COMPONENT, name, max_results, archived_only=archived_only, include_archived=include_archived)


registry.add_edits(components, Role.COMPONENT, "component")
