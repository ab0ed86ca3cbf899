"""What the kinds of registered assets share: create from a document or options, show one version, list, update, archive, restore."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from moorage.cli import entities
from moorage.cli.candidates import existing, names, one_of, versions
from moorage.cli.commands import command, name_option, refused_command, tag_changes, tags_option
from moorage.cli.edits import edit_options
from moorage.cli.session import Session
from moorage.errors import Invalid
from moorage.specs.manifest import Manifest
from moorage.wire.documents.document import Kind
from moorage.wire.documents.references import Local, parse_reference
from moorage.wire.documents.uses import Role


def datastore_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """`--datastore` of what is made from files."""
    shown = "Where files from here are put. Default: workspaceblobstore."
    return click.option("--datastore", metavar="NAME", shell_complete=names("datastores"), help=shown)(function)


def version_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """`--version` and `--label`, one of which is given."""
    label = click.option(
        "--label", "-l", metavar="LABEL", shell_complete=one_of("latest"), help="A label in place of the version; the only one is latest."
    )
    return click.option("--version", "-v", metavar="VERSION", shell_complete=versions, help="Version.")(label(function))


def list_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """`--name`, `--max-results`, and which archived ones."""
    for option in (
        click.option("--include-archived", is_flag=True, help="Archived ones too."),
        click.option("--archived-only", is_flag=True, help="Only archived ones."),
        click.option("--max-results", "-r", type=click.IntRange(1), help="At most so many."),
        click.option("--name", "-n", metavar="NAME", shell_complete=existing, help="List the versions of this one; without it, all names."),
    ):
        function = option(function)
    return function


def create(session: Session, kind: Kind, file: str | None, changes: tuple[str, ...], **options: Any) -> Manifest:
    """Register what a document, or options alone, describe."""
    from moorage.client.assets import register

    given = {name: value for name, value in options.items() if value is not None}
    if file is None and not given and not changes:
        raise Invalid(f"give --file with the YAML document of the {kind.value}, or its fields as options.", target="--file")
    document = session.document(kind, file, changes, **given)
    session.on_interrupt(f"`moorage {kind.value} list -n {document.values.get('name', 'NAME')}` shows whether it is registered.")
    return entities.asset(register(session.client, document, upload=session.upload()))


def as_typed(path: str) -> str:
    """A `--path` of the command line: a file or folder here as its absolute path, any other reference as it is."""
    try:
        reference = parse_reference(path)
    except ValueError:
        return path  # refused where the document is checked, with the reason
    return str(Path(reference.path).expanduser().absolute()) if isinstance(reference, Local) else path


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


def no_registry(function: Callable[..., Any]) -> Callable[..., Any]:
    """`--registry-name` where the one registry has nothing of the kind: named for scripts, refused with the reason."""

    def refuse(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
        if value and not context.resilient_parsing:
            raise Invalid(
                f"--registry-name {value}: registries hold environments only; leave it out, and use the workspace's own.",
                code="NotSupported",
                target="--registry-name",
            )

    shown = "Not supported: registries hold environments only."
    return click.option("--registry-name", metavar="REGISTRY", expose_value=False, callback=refuse, help=shown)(function)


def of_registry(function: Callable[..., Any]) -> Callable[..., Any]:
    """`--registry-name` of environments."""
    shown = "Ready-made ones in place of the workspace's: azureml."
    return click.option("--registry-name", metavar="REGISTRY", shell_complete=one_of("azureml"), help=shown)(function)


def add_edits(group: click.Group, role: Role, what: str, *, registry: Callable[..., Any] = no_registry) -> None:
    """The verbs `update`, `archive` and `restore` of an asset's noun, and the refusal of `share`."""
    noun = str(group.name)

    @command(
        group,
        "update",
        table="environments" if role is Role.ENVIRONMENT else "assets",
        examples=[
            f"moorage {noun} update -n digits -v 1 --set description='The second try'",
            f"moorage {noun} update -n digits --label latest --set tags.stage=tested",
        ],
    )
    @name_option(what)
    @version_options
    @tags_option()
    @edit_options
    @registry
    def update(session: Session, name: str, version: str | None, label: str | None, **given: Any) -> Manifest:
        from moorage.client.assets import edit
        from moorage.wire.documents.words import changed

        session.in_registry(given.get("registry_name"))
        chosen = resolve_version(session, role, name, version, label)
        current = entities.asset(session.client.get(session.client.path(role.value, name, "versions", chosen)))
        words = changed(noun, {**current.get("component_spec", {}), **current}, (*tag_changes(given["tags"]), *given["changes"]))
        return entities.asset(edit(session.client, role, name, chosen, words)) if words else current

    article = "an" if what[0] in "aeiou" else "a"
    update.help = f"Change the description or tags of a version of {article} {what}. Its content never changes."
    _add_archive(group, role, what, registry, hidden=True)
    _add_archive(group, role, what, registry, hidden=False)
    refused_command(group, "share", f"there are no registries to share a {noun} with; create it in the other workspace (-w NAME).")


def _add_archive(group: click.Group, role: Role, what: str, registry: Callable[..., Any], *, hidden: bool) -> None:
    verb = "archive" if hidden else "restore"

    @command(group, verb, examples=[f"moorage {group.name} {verb} -n digits -v 1", f"moorage {group.name} {verb} -n digits"])
    @name_option(what)
    @version_options
    @registry
    def change(session: Session, name: str, version: str | None, label: str | None, registry_name: str | None = None) -> None:
        from moorage.client.assets import archive

        session.in_registry(registry_name)
        chosen = resolve_version(session, role, name, version, label) if version or label else None
        archive(session.client, role, name, chosen, hidden=hidden)

    shown = "Hide a version, or without --version all of a name, from lists. It can still be used." if hidden else "Show it in lists again."
    change.help = shown
