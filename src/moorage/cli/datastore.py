"""`moorage datastore`: storage that data may lie in."""

from __future__ import annotations

import itertools

import click

from moorage.cli import entities
from moorage.cli.amendment import amended
from moorage.cli.commands import accepted_option, command, file_option, group, name_option, refused_command, set_option
from moorage.cli.edits import edit_options
from moorage.cli.session import Session
from moorage.errors import Invalid
from moorage.specs.manifest import Manifest
from moorage.wire.documents.document import Document, Kind, body
from moorage.wire.documents.edits import Changes

datastores = group("datastore", "Register storage that data lies in.")


@command(
    datastores,
    "create",
    table="datastores",
    examples=["moorage datastore create --file blob.yml", "moorage datastore create -f blob.yml --set credentials.sas_token=$TOKEN"],
)
@file_option("datastore")
@name_option("datastore; the document's by default", required=False)
@set_option()
def create(session: Session, file: str, name: str | None, changes: tuple[str, ...]) -> Manifest:
    """Register storage from a YAML document. Its secrets are sealed, and shown only on request."""
    return _put(session, session.document(Kind.DATASTORE, file, changes, name=name))


@command(
    datastores,
    "update",
    table="datastores",
    examples=["moorage datastore update -n archive --set description='Old runs'", "moorage datastore update --file blob.yml"],
)
@file_option("datastore", required=False)
@name_option("datastore", required=False)
@edit_options
def update(session: Session, file: str | None, name: str | None, changes: Changes) -> Manifest:
    """Change a datastore. Secrets stay as they are unless new ones are given."""
    document = session.document(Kind.DATASTORE, file, changes, name=name) if file else None
    chosen = document.values.get("name") if document else name
    if not chosen:
        raise Invalid("give --name or --file.", target="--name")
    current = session.client.get(session.client.path("datastores", chosen))
    if document is None:
        entity = entities.datastore(current)
        # Without its secrets what is shown of the credentials is no credential.
        document = amended(Kind.DATASTORE, {name: value for name, value in entity.items() if name != "credentials"}, changes)
    kept = (current.get("properties") or {}).get("credentials")
    return _put(session, document, credentials=None if "credentials" in document.values else kept)


def _put(session: Session, document: Document, *, credentials: Manifest | None = None) -> Manifest:
    name = document.values.get("name")
    if not name:
        raise document.refusal("name", "is required, and is missing; give it in the document or with --name.")
    made = body(document, session.client.workspace, {})
    if credentials is not None:
        made["properties"]["credentials"] = credentials
    with document.answering():
        return entities.datastore(session.client.apply(session.client.path("datastores", name), made))


@command(
    datastores,
    "show",
    table="datastores",
    examples=["moorage datastore show -n workspaceblobstore", "moorage datastore show -n archive --include-secrets"],
)
@name_option("datastore")
@click.option("--include-secrets", is_flag=True, help="Its secrets, too; needs the right to write.")
def show(session: Session, name: str, include_secrets: bool) -> Manifest:
    """Show a datastore, without its secrets."""
    path = session.client.path("datastores", name)
    found = session.client.get(path)
    secrets = session.client.post(f"{path}/listSecrets") if include_secrets else None
    return entities.datastore(found, secrets)


@command(datastores, "list", table="datastores", examples=["moorage datastore list -o table"])
@click.option("--max-results", "-r", type=click.IntRange(1), help="At most so many.")
def list_datastores(session: Session, max_results: int | None) -> list[Manifest]:
    """List datastores."""
    return [entities.datastore(item) for item in itertools.islice(session.client.list(session.client.path("datastores")), max_results)]


@command(datastores, "delete", examples=["moorage datastore delete -n archive"])
@name_option("datastore")
@accepted_option("--yes", "-y", meaning="nobody is asked, since the storage itself and what is in it stay.")
def delete(session: Session, name: str) -> None:
    """Forget a datastore. What lies in the storage stays."""
    session.delete(session.client.path("datastores", name), f"datastore {name}")


refused_command(datastores, "mount", "volumes are mounted in jobs only (`mode: ro_mount`).")
