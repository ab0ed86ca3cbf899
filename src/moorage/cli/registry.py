"""What the three kinds of registered assets share: create from a document or options, show one version, list."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import click

from moorage.cli import entities
from moorage.cli.session import Session
from moorage.errors import Invalid
from moorage.specs.manifest import Manifest
from moorage.wire.documents.document import Kind
from moorage.wire.documents.uses import Role


def version_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """`--version` and `--label`, one of which is given."""
    label = click.option("--label", "-l", metavar="LABEL", help="A label in place of the version; the only one is latest.")
    return click.option("--version", "-v", metavar="VERSION", help="Version.")(label(function))


def list_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """`--name`, `--max-results`, and which archived ones."""
    for option in (
        click.option("--include-archived", is_flag=True, help="Archived ones too."),
        click.option("--archived-only", is_flag=True, help="Only archived ones."),
        click.option("--max-results", "-r", type=click.IntRange(1), help="At most so many."),
        click.option("--name", "-n", metavar="NAME", help="List the versions of this one; without it, all names."),
    ):
        function = option(function)
    return function


def create(session: Session, kind: Kind, file: str | None, changes: tuple[str, ...], **options: Any) -> Manifest:
    """Register what a document, or options alone, describe."""
    from moorage.client.assets import register

    given = {name: value for name, value in options.items() if value is not None}
    if file is None and not given and not changes:
        raise Invalid(f"give --file with the YAML document of the {kind.value}, or its fields as options.", target="--file")
    return entities.asset(register(session.client, session.document(kind, file, changes, **given), upload=session.upload()))


def resolve_version(session: Session, role: Role, name: str, version: str | None, label: str | None) -> str:
    """The version that the options name."""
    from moorage.client.assets import latest

    if (version is None) == (label is None):
        raise Invalid("give either --version or --label latest.", target="--version")
    if version is not None:
        return version
    if label != "latest":
        raise Invalid(f"'{label}' is no label here; the only one is latest.", target="--label")
    return str(latest(session.client, role, name)["name"])


def show(session: Session, role: Role, name: str, version: str | None, label: str | None) -> Manifest:
    """One version."""
    chosen = resolve_version(session, role, name, version, label)
    return entities.asset(session.client.get(session.client.path(role.value, name, "versions", chosen)))


def listing(
    session: Session, role: Role, name: str | None, most: int | None, *, archived_only: bool, include_archived: bool
) -> list[Manifest]:
    """Names, or one name's versions."""
    view = "ArchivedOnly" if archived_only else "All" if include_archived else "ActiveOnly"
    client = session.client
    path = client.path(role.value, name, "versions") if name else client.path(role.value)
    if not name:
        session.table = "asset containers"
    return [entities.asset(item) for item in itertools.islice(client.list(path, {"listViewType": view}), most)]
