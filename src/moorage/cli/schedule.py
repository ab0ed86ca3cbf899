"""`moorage schedule`: kept, always disabled; the service does not start jobs by the clock yet, and says so."""

from __future__ import annotations

import itertools
import json

import click

from moorage.cli import entities
from moorage.cli.amendment import amended
from moorage.cli.commands import command, file_option, group, name_option, no_wait_option, set_option, yes_option
from moorage.cli.edits import edit_options
from moorage.cli.naming import snaked
from moorage.cli.session import Session
from moorage.errors import Invalid
from moorage.specs.manifest import Manifest
from moorage.wire.documents.document import Document, Kind, body
from moorage.wire.documents.edits import Changes, edit

schedules = group("schedule", "Keep schedules; starting jobs by the clock comes later.")


@command(
    schedules,
    "create",
    table="schedules",
    examples=["moorage schedule create --file nightly.yml", "moorage schedule create -f nightly.yml --set trigger.interval=2"],
)
@file_option("schedule")
@name_option("schedule; the document's by default", required=False)
@set_option()
@no_wait_option()
def create(session: Session, file: str, name: str | None, changes: tuple[str, ...], no_wait: bool) -> Manifest:
    """Store a schedule from a YAML document, with the pipeline that it names."""
    from moorage.client.assets import Assets

    document = session.document(Kind.SCHEDULE, file, changes, name=name)
    made = Assets(session.client, document, upload=session.upload()).body()
    with document.answering():
        return _put(session, document.values["name"], made, wait=not no_wait)


@command(
    schedules,
    "update",
    table="schedules",
    examples=[
        "moorage schedule update -n nightly --set trigger.expression='0 4 * * *'",
        "moorage schedule update --file nightly.yml",
    ],
)
@file_option("schedule", required=False)
@name_option("schedule", required=False)
@edit_options
@no_wait_option()
def update(session: Session, file: str | None, name: str | None, changes: Changes, no_wait: bool) -> Manifest:
    """Change a schedule: its trigger and what describes it; what it starts only with --file."""
    from moorage.client.assets import Assets

    if file:
        document = session.document(Kind.SCHEDULE, file, changes, name=name)
        made = Assets(session.client, document, upload=session.upload()).body()
        with document.answering():
            return _put(session, document.values["name"], made, wait=not no_wait)
    if not name:
        raise Invalid("give --name or --file.", target="--name")
    for change in map(edit, changes):
        if change.path.startswith("create_job"):
            raise Invalid(f"{change.where}: what a schedule starts is changed with --file.", target=change.verb)
    current = session.client.get(session.client.path("schedules", name))
    # The stored definition is no document; it goes back as it is.
    document = amended(Kind.SCHEDULE, {**entities.schedule(current), "create_job": "azureml:kept"}, changes)
    action = (current.get("properties") or {}).get("action") or {}
    made = body(document, session.client.workspace, {"create_job": json.dumps(action.get("jobDefinition") or {})})
    made["properties"]["action"] = action
    with document.answering():
        return _put(session, name, made, wait=not no_wait)


def _put(session: Session, name: str, made: Manifest, *, wait: bool) -> Manifest:
    path = session.client.path("schedules", name)
    found = entities.schedule(session.client.apply(path, made, wait=wait, watch=session.watch(f"schedule {name}")))
    if not found["is_enabled"]:
        session.say(f"schedule {name} is stored, and disabled: jobs are not started by the clock yet")
    return found


@command(schedules, "show", table="schedules", examples=["moorage schedule show -n nightly"])
@name_option("schedule")
def show(session: Session, name: str) -> Manifest:
    """Show a schedule."""
    return entities.schedule(session.client.get(session.client.path("schedules", name)))


@command(schedules, "list", table="schedules", examples=["moorage schedule list --include-disabled -o table"])
@click.option("--include-disabled", is_flag=True, help="Disabled ones too.")
@click.option("--disabled-only", is_flag=True, help="Only disabled ones.")
@click.option("--max-results", "-r", type=click.IntRange(1), help="At most so many.")
def list_schedules(session: Session, include_disabled: bool, disabled_only: bool, max_results: int | None) -> list[Manifest]:
    """List the enabled schedules, or others."""
    view = "DisabledOnly" if disabled_only else "All" if include_disabled else "EnabledOnly"
    found = session.client.list(session.client.path("schedules"), {"listViewType": view})
    shown = [entities.schedule(item) for item in itertools.islice(found, max_results)]
    if not shown and view == "EnabledOnly":
        session.say("no schedule is enabled; --include-disabled lists all")
    return shown


@command(schedules, "enable", table="schedules", examples=["moorage schedule enable -n nightly"])
@name_option("schedule")
@no_wait_option()
def enable(session: Session, name: str, no_wait: bool) -> Manifest:
    """Enable a schedule. The service refuses for now, with what to do meanwhile."""
    return _switch(session, name, enabled=True, wait=not no_wait)


@command(schedules, "disable", table="schedules", examples=["moorage schedule disable -n nightly"])
@name_option("schedule")
@no_wait_option()
def disable(session: Session, name: str, no_wait: bool) -> Manifest:
    """Disable a schedule."""
    return _switch(session, name, enabled=False, wait=not no_wait)


def _switch(session: Session, name: str, *, enabled: bool, wait: bool) -> Manifest:
    current = session.client.get(session.client.path("schedules", name)).get("properties") or {}
    kept = {field: value for field, value in current.items() if field != "provisioningState"}
    with Document(Kind.SCHEDULE, {}, where={"is_enabled": ""}).answering():
        return _put(session, name, {"properties": {**kept, "isEnabled": enabled}}, wait=wait)


@command(schedules, "trigger", examples=["moorage schedule trigger -n nightly"])
@name_option("schedule")
@click.option("--schedule-time", metavar="MOMENT", help="The moment that the job is told it is for, e.g. 2030-01-31T04:00:00.")
def trigger(session: Session, name: str, schedule_time: str | None) -> Manifest:
    """Start a schedule's job now. The service refuses for now, with what to do meanwhile."""
    sent = {"scheduleTime": schedule_time} if schedule_time else {}
    return snaked(session.client.action(f"{session.client.path('schedules', name)}/trigger", sent))  # type: ignore[no-any-return]


@command(schedules, "delete", examples=["moorage schedule delete -n nightly --yes"])
@name_option("schedule")
@yes_option()
@no_wait_option()
def delete(session: Session, name: str, yes: bool, no_wait: bool) -> None:
    """Delete a schedule."""
    session.confirm(f"Delete the schedule {name}?", yes)
    session.delete(session.client.path("schedules", name), f"schedule {name}", wait=not no_wait)
