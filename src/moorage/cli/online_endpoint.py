"""`moorage online-endpoint`: serve; endpoints, their keys and their traffic."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import click

from moorage.cli import entities
from moorage.cli.amendment import amended
from moorage.cli.candidates import deployments, files, names
from moorage.cli.commands import (
    command,
    file_option,
    group,
    name_option,
    no_wait_option,
    refused_option,
    set_option,
    web_option,
    yes_option,
)
from moorage.cli.edits import edit_options
from moorage.cli.session import Session
from moorage.errors import Conflict, Invalid
from moorage.specs.manifest import Manifest
from moorage.wire.documents.document import Document, Kind, body
from moorage.wire.documents.edits import Changes

endpoints = group("online-endpoint", "Serve: endpoints, their keys and traffic.")


def local_option() -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """`--local`, which serves from a container engine of the user's machine in the original."""
    return refused_option("--local", reason="there is no serving without a cluster; `moorage up` starts one on this machine.")


@command(
    endpoints,
    "create",
    table="endpoints",
    examples=[
        "moorage online-endpoint create --file endpoint.yml",
        "moorage online-endpoint create -f endpoint.yml -n digits --set auth_mode=aml_token",
    ],
)
@file_option("endpoint", required=False)
@name_option("endpoint", required=False)
@click.option("--compute", metavar="NAME", shell_complete=names("computes"), help="Compute target it serves on.")
@click.option("--auth-mode", type=click.Choice(["key", "aml_token", "aad_token"]), help="How callers identify themselves. Default: key.")
@set_option()
@no_wait_option()
@web_option()
@local_option()
def create(session: Session, file: str | None, changes: tuple[str, ...], no_wait: bool, web: bool, **options: str | None) -> Manifest:
    """Create an endpoint from a YAML document or options."""
    document = session.document(Kind.ENDPOINT, file, changes, **options)
    name = _name(document)
    if session.client.find(session.client.path("onlineEndpoints", name)) is not None:
        raise Conflict(f"the endpoint {name} exists; change it with `moorage online-endpoint update`.", target=name)
    session.no_page(web, f"moorage online-endpoint show -n {name}")
    with document.answering():
        return _apply(session, name, body(document, session.client.workspace, {}), wait=not no_wait)


@command(
    endpoints,
    "update",
    table="endpoints",
    examples=[
        'moorage online-endpoint update -n digits --traffic "blue=90 green=10"',
        "moorage online-endpoint update -n digits --set tags.team=vision",
    ],
)
@file_option("endpoint", required=False)
@name_option("endpoint", required=False)
@click.option("--traffic", "-r", metavar="SHARES", help='Share of the requests of each deployment, e.g. "blue=90 green=10".')
@click.option("--mirror-traffic", "-m", metavar="SHARES", help='Share of the requests that a deployment gets as copies, e.g. "green=10".')
@edit_options
@no_wait_option()
@web_option()
@local_option()
def update(
    session: Session,
    file: str | None,
    name: str | None,
    changes: Changes,
    no_wait: bool,
    web: bool,
    **given: str | None,
) -> Manifest:
    """Change an endpoint: its traffic, or any field of its document."""
    document = session.document(Kind.ENDPOINT, file, changes, name=name) if file else None
    chosen = _name(document) if document else name
    if not chosen:
        raise Invalid("give --name or --file.", target="--name")
    current = session.client.get(session.client.path("onlineEndpoints", chosen))
    if document is None:
        document = amended(Kind.ENDPOINT, entities.endpoint(current), changes)
    made = body(document, session.client.workspace, {})
    before = current.get("properties") or {}
    # A document that does not speak of who may call, or of traffic, leaves it as it is.
    if "auth_mode" not in document.values:
        made["properties"].pop("authMode", None)
    for field, wire in (("traffic", "traffic"), ("mirror_traffic", "mirrorTraffic")):
        if (text := given[field]) is not None:
            option = f"--{field.replace('_', '-')}"
            made["properties"][wire] = shares(text, option)
            document = replace(
                document, where={**document.where, field: option, **{f"{field}.{part}": option for part in shares(text, option)}}
            )
        elif file and field not in document.values:
            made["properties"][wire] = before.get(wire) or {}
    session.no_page(web, f"moorage online-endpoint show -n {chosen}")
    with document.answering():
        return _apply(session, chosen, made, wait=not no_wait)


def shares(text: str, option: str) -> dict[str, int]:
    """`blue=90 green=10` (spaces or commas) as numbers; Invalid when they are none, or pass 100."""
    found: dict[str, int] = {}
    for part in text.replace(",", " ").split():
        name, equals, share = part.partition("=")
        if not equals or not share.isdigit() or int(share) > 100:
            raise Invalid(f"'{part}' is no share of traffic; write {option} \"blue=90 green=10\".", target=option)
        found[name.lower()] = int(share)
    if (total := sum(found.values())) > 100:
        raise Invalid(f"the shares add up to {total}; they must not exceed 100.", target=option)
    return {name: share for name, share in found.items() if share}


def _name(document: Document) -> str:
    if not document.values.get("name"):
        raise document.refusal("name", "is required, and is missing; give it in the document or with --name.")
    return str(document.values["name"])


def _apply(session: Session, name: str, made: Manifest, *, wait: bool) -> Manifest:
    path = session.client.path("onlineEndpoints", name)
    session.on_interrupt(f"The service goes on with endpoint {name}; `moorage online-endpoint show -n {name}` tells how it went.")
    return entities.endpoint(session.client.apply(path, made, wait=wait, watch=session.watch(f"endpoint {name}")))


@command(endpoints, "show", table="endpoints", examples=["moorage online-endpoint show -n digits --query scoring_uri -o tsv"])
@name_option("endpoint")
@local_option()
def show(session: Session, name: str) -> Manifest:
    """Show an endpoint."""
    return entities.endpoint(session.client.get(session.client.path("onlineEndpoints", name)))


@command(endpoints, "list", table="endpoints", examples=["moorage online-endpoint list -o table"])
@local_option()
def list_endpoints(session: Session) -> list[Manifest]:
    """List endpoints."""
    return [entities.endpoint(item) for item in session.client.list(session.client.path("onlineEndpoints"))]


@command(
    endpoints,
    "invoke",
    examples=[
        "moorage online-endpoint invoke -n digits --request-file sample.json",
        "moorage online-endpoint invoke -n digits -r sample.json --deployment-name green",
        "echo '{\"data\": [[1, 2]]}' | moorage online-endpoint invoke -n digits -r -",
    ],
)
@name_option("endpoint")
@click.option("--request-file", "-r", metavar="FILE", required=True, shell_complete=files, help="The request's body; '-' reads stdin.")
@click.option(
    "--deployment-name",
    "--deployment",
    "-d",
    "deployment_name",
    metavar="NAME",
    shell_complete=deployments,
    help="Send it to this deployment, whatever the traffic shares.",
)
@click.option("--content-type", default="application/json", metavar="TYPE", help="Type of the body. Default: application/json.")
@click.option("--timeout", type=click.FloatRange(0.1), default=60.0, metavar="SECONDS", help="How long to wait. Default: 60.")
@local_option()
def invoke(session: Session, name: str, request_file: str, deployment_name: str | None, content_type: str, timeout: float) -> None:
    """Send a request to an endpoint and print its answer. Exit code 1 for any answer but 200."""
    from moorage.client.endpoints import invoke as score

    try:
        content = sys.stdin.buffer.read() if request_file == "-" else Path(request_file).read_bytes()
    except OSError as error:
        raise Invalid(f"{request_file} cannot be read: {error.strerror}.", code="FileNotFound", target="--request-file") from error
    if content_type == "application/json":
        try:
            json.loads(content)
        except ValueError as error:
            raise Invalid(
                f"{request_file} is not JSON: {error}. Another --content-type sends it as it is.", target="--request-file"
            ) from error
    headers = {"Content-Type": content_type}
    answer = score(session.client, name, content, deployment=deployment_name, headers=headers, timeout=timedelta(seconds=timeout))
    if session.given.get("output") or session.given.get("query"):
        try:
            session.show(answer.json())
        except ValueError:
            session.show(answer.text)
        return
    sys.stdout.buffer.write(answer.content)
    sys.stdout.buffer.write(b"" if answer.content.endswith(b"\n") else b"\n")
    sys.stdout.buffer.flush()


@command(endpoints, "get-credentials", examples=["moorage online-endpoint get-credentials -n digits --query primaryKey -o tsv"])
@name_option("endpoint")
def get_credentials(session: Session, name: str) -> Manifest:
    """Print the keys that callers of an endpoint send; of one with `auth_mode: aml_token` a token and when it ends."""
    from moorage.client.endpoints import credentials

    return credentials(session.client, name)


@command(endpoints, "regenerate-keys", examples=["moorage online-endpoint regenerate-keys -n digits --key-type secondary"])
@name_option("endpoint")
@click.option("--key-type", type=click.Choice(["primary", "secondary"]), default="primary", help="Which. Default: primary.")
@yes_option()
@no_wait_option()
def regenerate_keys(session: Session, name: str, key_type: str, yes: bool, no_wait: bool) -> Manifest:
    """Make a new key, or revoke every token of an endpoint that takes tokens; callers with an old one are refused from then on."""
    from moorage.client.endpoints import regenerate, takes_tokens

    # Without a terminal it is a script, and those of `az ml` are not asked here.
    if not yes and sys.stdin.isatty():
        tokens = takes_tokens(session.client.get(session.client.path("onlineEndpoints", name)))
        what = f"Revoke all tokens of {name}?" if tokens else f"Replace the {key_type} key of {name}?"
        session.confirm(f"{what} Callers with an old one are refused afterwards.", False)
    return regenerate(session.client, name, key_type, wait=not no_wait)


@command(endpoints, "delete", examples=["moorage online-endpoint delete -n digits --yes"])
@name_option("endpoint")
@yes_option()
@no_wait_option()
@local_option()
def delete(session: Session, name: str, yes: bool, no_wait: bool) -> None:
    """Delete an endpoint and its deployments."""
    session.confirm(f"Delete the endpoint {name} and its deployments?", yes)
    session.delete(session.client.path("onlineEndpoints", name), f"endpoint {name}", wait=not no_wait)
