"""`az deployment group`: put the resources of an ARM template (`moorage.cli.az.template`) into the workspace service."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from moorage.cli.az.template import Plan, Scope, plan
from moorage.cli.commands import command, group, no_wait_option
from moorage.cli.session import Session
from moorage.errors import Invalid, MoorageError, NotFound
from moorage.specs.manifest import Manifest

deployment = group("deployment", "Put the resources of an ARM template.")
in_group = group("group", "Into a resource group.")
deployment.add_command(in_group)


def _template_options(function: Any) -> Any:
    for option in (
        click.option("--template-file", "-f", metavar="FILE", help="The template, JSON. Bicep is compiled by `bicep build` first."),
        click.option("--template-uri", "-u", metavar="URL", help="Not supported: nothing is fetched from elsewhere."),
        click.option(
            "--parameters",
            "-p",
            multiple=True,
            metavar="NAME=VALUE|@FILE",
            help="Values, NAME=@FILE for a file's content; JSON text; or a parameter file. Later ones win.",
        ),
        click.option(
            "--mode",
            type=click.Choice(["Incremental", "Complete"], case_sensitive=False),
            default="Incremental",
            help="Incremental, the default, leaves what the template does not name; Complete is refused.",
        ),
        click.option("--name", "-n", metavar="NAME", help="Name of the deployment; the file's by default."),
    ):
        function = option(function)
    return function


@command(
    in_group,
    "create",
    examples=[
        "az deployment group create -g research --template-file endpoint.json --parameters workspaceName=vision endpointName=digits",
        "az deployment group create --template-file job.json --parameters @job.parameters.json --query properties.outputs",
    ],
)
@_template_options
@no_wait_option()
def create(session: Session, no_wait: bool, **given: Any) -> Manifest:
    """Put every resource of a template, each after those it depends on, and wait for them.

    A failure ends it with the resource's own error; what was put before stays, and the same command goes on from there.
    """
    name, planned, scope = _read(session, **given)
    record: Manifest = {
        "id": f"{scope.id}/providers/Microsoft.Resources/deployments/{name}",
        "name": name,
        "resourceGroup": scope.resource_group,
        "type": "Microsoft.Resources/deployments",
        "properties": {
            "mode": "Incremental",
            "parameters": planned.shown,
            "provisioningState": "Running",
            "outputResources": [],
            "outputs": None,
        },
    }
    made: dict[str, Manifest] = {}
    needed = {id for each in planned.resources for id in each.needs}
    try:
        for each in planned.resources:
            session.say(f"{each.type} {each.name}")
            wait = not no_wait or each.id in needed
            made[each.id.lower()] = session.client.apply(each.id, each.body, wait=wait, watch=session.watch(each.name))
            record["properties"]["outputResources"].append({"id": each.id, "resourceGroup": scope.resource_group})
        record["properties"]["outputs"] = planned.outputs(lambda id: _properties(session, made, id))
        record["properties"]["provisioningState"] = "Succeeded"
    except MoorageError as error:
        record["properties"]["provisioningState"] = "Failed"
        record["properties"]["error"] = {"code": error.code, "message": error.message}
        raise
    finally:
        _keep(session, name, record)
    return record


@command(in_group, "validate", examples=["az deployment group validate --template-file endpoint.json --parameters workspaceName=vision"])
@_template_options
def validate(session: Session, **given: Any) -> Manifest:
    """Read a template with its parameters and show which resources it would put. Nothing is sent."""
    name, planned, scope = _read(session, **given)
    return {
        "name": name,
        "resourceGroup": scope.resource_group,
        "properties": {
            "mode": "Incremental",
            "parameters": planned.shown,
            "provisioningState": "Succeeded",
            "validatedResources": [{"id": each.id, "resourceGroup": scope.resource_group} for each in planned.resources],
        },
    }


@command(in_group, "show", examples=["az deployment group show -n endpoint --query properties.provisioningState -o tsv"])
@click.option("--name", "-n", required=True, metavar="NAME", help="Name of the deployment.")
def show(session: Session, name: str) -> Manifest:
    """Show a deployment that was made from this machine."""
    try:
        found: Manifest = json.loads(_record(session, name).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise NotFound(f"no deployment '{name}' was made from this machine in {session.profile.resource_group}.", target=name) from error
    return found


def _read(
    session: Session,
    template_file: str | None,
    template_uri: str | None,
    parameters: Sequence[str],
    mode: str,
    name: str | None,
) -> tuple[str, Plan, Scope]:
    if template_uri or not template_file:
        raise Invalid("give --template-file FILE; templates are not fetched from elsewhere.", target="--template-file")
    if mode.lower() == "complete":
        raise Invalid(
            "--mode Complete deletes what the template does not name, and is not supported. Use Incremental.",
            code="NotSupported",
            target="--mode",
        )
    if template_file.endswith(".bicep"):
        raise Invalid("--template-file: Bicep is not compiled here; `bicep build` makes the JSON.", target="--template-file")
    path = Path(template_file).expanduser()
    profile = session.profile
    scope = Scope(profile.scope().subscription, profile.scope().resource_group)
    chosen = name or path.stem
    return chosen, plan(_json(path, "--template-file"), values(parameters), scope, chosen), scope


def values(given: Sequence[str]) -> Manifest:
    """Parameter values as `az` takes them: files of parameters, JSON text, `name=value`, `name=@file`.

    Raises:
        Invalid: a file that cannot be read or is not JSON, or a word that is none of these.
    """
    found: Manifest = {}
    for word in given:
        name, equals, value = word.partition("=")
        if word.startswith("{"):
            found.update(_plain(_parsed(word, "--parameters")))
        elif equals and not word.startswith("@") and "/" not in name:
            if value.startswith("@"):
                file = Path(value[1:]).expanduser()
                text = _text(file, f"--parameters {name}")
                found[name] = _parsed(text, str(file)) if file.suffix == ".json" else text
            else:
                found[name] = value
        else:
            found.update(_plain(_json(Path(word.removeprefix("@")).expanduser(), "--parameters")))
    return found


def _plain(document: Manifest) -> Manifest:
    """A parameter file, or its `parameters` alone: `{"name": {"value": ...}}`."""
    entries = document.get("parameters", document) if isinstance(document, dict) else None
    if not isinstance(entries, dict):
        raise Invalid("--parameters: a file of parameters is a JSON object.", target="--parameters")
    found = {}
    for name, entry in entries.items():
        if name in ("$schema", "contentVersion"):
            continue
        if not isinstance(entry, dict) or "value" not in entry:
            raise Invalid(f'--parameters: \'{name}\' has no value; write {{"{name}": {{"value": ...}}}}.', target=name)
        found[name] = entry["value"]
    return found


def _text(path: Path, option: str) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise Invalid(f"{option}: {path} cannot be read: {error}.", target=option) from error


def _json(path: Path, option: str) -> Manifest:
    return _parsed(_text(path, option), str(path))


def _parsed(text: str, where: str) -> Manifest:
    try:
        found: Manifest = json.loads(text)
    except ValueError as error:
        raise Invalid(f"{where} is not JSON: {error}.", target=where) from error
    return found


def _properties(session: Session, made: dict[str, Manifest], id: str) -> Manifest:
    found = made.get(id.lower()) or session.client.get(id)
    properties: Manifest = found.get("properties") or {}
    return properties


def _record(session: Session, name: str) -> Path:
    from moorage.client.profile import state_folder

    profile = session.profile
    key = hashlib.sha256(f"{profile.url}\n{profile.subscription}\n{profile.resource_group}\n{name}".lower().encode()).hexdigest()[:32]
    return state_folder() / "az" / f"{key}.json"


def _keep(session: Session, name: str, record: Manifest) -> None:
    """Remember what came of it for `show`: the service has no record of deployments, only of their resources."""
    from moorage.files import write_private

    path = _record(session, name)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_private(path, json.dumps(record, indent=2))
