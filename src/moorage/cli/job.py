"""`moorage job`: train."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from typing import Any

import click

from moorage.cli.candidates import files, names, outputs
from moorage.cli.commands import (
    accepted_option,
    command,
    download_path_option,
    file_option,
    group,
    name_option,
    refused_command,
    set_option,
    tag_changes,
    tags_option,
    web_option,
)
from moorage.cli.edits import edit_options
from moorage.cli.session import Session
from moorage.errors import Invalid, MoorageError
from moorage.specs.manifest import Manifest
from moorage.wire.documents.edits import Changes

jobs = group("job", "Train: submit, follow, cancel and fetch jobs.")


@command(
    jobs,
    "create",
    table="jobs",
    examples=[
        "moorage job create --file train.yml --stream",
        "moorage job create -f train.yml --set inputs.epochs=3 --set compute=azureml:gpu",
        "name=$(moorage job create -f train.yml --query name -o tsv)",
    ],
)
@file_option("job")
@name_option("job; made up when left out", required=False)
@set_option()
@click.option("--stream", "-s", "follow_it", is_flag=True, help="Follow the job's status and log until it ends; exit code 1 when it fails.")
@click.option(
    "--save-as",
    "-a",
    metavar="FILE",
    shell_complete=files,
    help="Write the job, as the service has it, into this file (YAML; JSON when it ends in .json).",
)
@tags_option()
@web_option()
@accepted_option("--skip-validation", meaning="the document and what it names are checked in any case.")
def create(session: Session, file: str, changes: tuple[str, ...], follow_it: bool, web: bool, **given: Any) -> Manifest | None:
    """Submit a job from a YAML document.

    Code, environment and local inputs travel with it; what the workspace has already is not sent again.
    """
    from moorage.cli import entities
    from moorage.client.jobs import submit
    from moorage.wire.documents.document import Kind

    save_as: str | None = given["save_as"]
    document = session.document(Kind.JOB, file, (*changes, *tag_changes(given["tags"])), name=given["name"])
    if save_as and not Path(save_as).absolute().parent.is_dir():
        raise Invalid(f"{save_as} cannot be written: its folder does not exist.", code="FileNotFound", target="--save-as")
    name = document.values.get("name")
    known = name is not None and session.client.find(session.client.path("jobs", str(name))) is not None
    session.on_interrupt("`moorage job list` shows whether the job was submitted.")
    job = submit(session.client, document, upload=session.upload())
    session.on_interrupt("")
    made = str(job.get("name"))
    session.say(f"job {made} is there already, and is not run again: another --name runs it anew" if known else f"job {made} is submitted")
    if save_as:
        _save(session, entities.job(job), Path(save_as))
    session.no_page(web, f"moorage job stream -n {made}")
    if not follow_it and not web:
        session.say(f"follow it: moorage job stream -n {made}")
    if not follow_it:
        return entities.job(job)
    chosen = bool(session.given.get("output") or session.given.get("query"))
    follow(session, made, to_stderr=chosen)
    return entities.job(session.client.get(session.client.path("jobs", made))) if chosen else None


def _save(session: Session, entity: Manifest, path: Path) -> None:
    from moorage.cli.output import render

    try:
        path.write_text(render(entity, "json" if path.suffix.lower() == ".json" else "yaml") + "\n", encoding="utf-8")
    except OSError as error:
        # The job is submitted all the same: its name must reach whoever asked.
        raise Invalid(f"job {entity['name']} is submitted, and {path} cannot be written: {error.strerror}.", target="--save-as") from error
    session.say(f"the job is written to {path}")


def follow(session: Session, name: str, *, to_stderr: bool = False) -> None:
    """Print a job's log until it ends; raises when it did not end well."""
    from moorage.cli.progress import Lines
    from moorage.client.jobs import failure, stream

    session.on_interrupt(f"The job goes on. `moorage job stream -n {name}` comes back to it; `moorage job cancel -n {name}` ends it.")
    target = sys.stderr if to_stderr else sys.stdout

    lines = Lines(target, sys.stderr)

    def say(line: str) -> None:
        lines.finish()
        session.say(f"[{name}] {line}")

    details = stream(session.client, name, write=lines.write, say=say)
    lines.finish()
    session.on_interrupt("")
    status = str(details.get("status"))
    if status == "Completed":
        return
    if status == "Canceled":
        raise MoorageError(f"the job {name} was canceled.", code="JobCanceled", target=name)
    raise MoorageError(f"the job {name} ended as {status}: {failure(details)}", code="JobFailed", target=name)


@command(jobs, "stream", examples=["moorage job stream -n calm_harbor_k3v9s1t2x4"])
@name_option("job")
@web_option()
def stream_job(session: Session, name: str, web: bool) -> None:
    """Follow a job's status (on stderr) and log (on stdout) until it ends. Exit code 1 when it fails."""
    session.no_page(web, f"moorage job stream -n {name}")
    follow(session, name)


@command(jobs, "show", table="jobs", examples=["moorage job show -n my-job", "moorage job show -n my-job --query status -o tsv"])
@name_option("job")
@web_option()
def show(session: Session, name: str, web: bool) -> Manifest:
    """Show a job."""
    from moorage.cli import entities

    session.no_page(web, f"moorage job stream -n {name}")
    return entities.job(session.client.get(session.client.path("jobs", name)))


@command(
    jobs, "list", table="jobs", examples=["moorage job list", "moorage job list --max-results 5 --query \"[?status=='Running'].name\""]
)
@click.option("--max-results", "-r", type=click.IntRange(1), help="At most so many, newest first.")
@click.option("--archived-only", is_flag=True, help="Only archived jobs.")
@click.option("--include-archived", is_flag=True, help="Archived jobs too.")
@click.option("--parent-job-name", "-p", metavar="NAME", shell_complete=names("jobs"), help="The jobs below this sweep or pipeline.")
@click.option("--tag", metavar="NAME[=VALUE]", help="Only jobs that carry this tag.")
@accepted_option("--all-results", meaning="all jobs are listed unless --max-results says otherwise.")
def list_jobs(
    session: Session, max_results: int | None, archived_only: bool, include_archived: bool, parent_job_name: str | None, tag: str | None
) -> list[Manifest]:
    """List jobs, newest first."""
    from moorage.cli import entities
    from moorage.client.jobs import children, listing

    if parent_job_name:
        if archived_only or tag:
            raise Invalid("--parent-job-name lists all jobs below one; leave --archived-only and --tag out.", target="--parent-job-name")
        return [entities.run(run) for run in itertools.islice(children(session.client, parent_job_name), max_results)]
    view = "ArchivedOnly" if archived_only else "All" if include_archived else "ActiveOnly"
    return [entities.job(job) for job in itertools.islice(listing(session.client, view=view, tag=tag), max_results)]


@command(
    jobs,
    "update",
    table="jobs",
    examples=[
        "moorage job update -n my-job --set tags.verdict=good",
        "moorage job update -n my-job --set display_name='Third try' --set description='with more data'",
    ],
)
@name_option("job")
@tags_option()
@edit_options
@web_option()
def update(session: Session, name: str, changes: Changes, tags: tuple[str, ...], web: bool) -> Manifest:
    """Change the display name, description, tags or properties of a job; `--set tags.a=null` removes a tag."""
    from moorage.cli import entities
    from moorage.client.jobs import edit
    from moorage.wire.documents.edits import edit as edit_of
    from moorage.wire.documents.words import changed, merge

    session.no_page(web, f"moorage job stream -n {name}")
    current = entities.job(session.client.get(session.client.path("jobs", name)))
    kept = tuple(change for change in changes if edit_of(change).path != "experiment_name")
    if len(kept) < len(changes):
        # The original passes over it without a word, and its examples have it.
        session.warn(f"experiment_name: a job stays in the experiment it was submitted to, '{current['experiment_name']}'.")
        if not (kept or tags):
            return current
    words = changed("job", current, (*tag_changes(tags), *kept))
    fields = {"displayName": words.get("display_name"), "description": words.get("description")}
    fields |= {field: merge(current[field], words[field]) for field in ("tags", "properties") if field in words}
    if words:
        edit(session.client, name, {field: value for field, value in fields.items() if value is not None})
    return entities.job(session.client.get(session.client.path("jobs", name)))


@command(jobs, "validate", examples=["moorage job validate -f train.yml", "moorage job validate -f train.yml --set compute=azureml:gpu"])
@file_option("job")
@set_option()
def validate(session: Session, file: str, changes: tuple[str, ...]) -> Manifest:
    """Check a job's document without submitting it: its fields, the files it names, and the assets and compute of the workspace.

    Exit code 2 when something is wrong, with one line for each problem. What nothing acts on is named as a warning.
    """
    from moorage.client.assets import check
    from moorage.wire import idle
    from moorage.wire.documents.document import Kind, body, uses

    document = session.document(Kind.JOB, file, changes)
    check(session.client, document)
    # What the references stand for does not matter to the fields that nothing acts on.
    job = body(document, session.client.workspace, {use.field: "azureml:any:1" for use in uses(document)})
    for message in (*idle.kept("jobs", job), *idle.warnings("jobs", job)):
        session.warn(message)
    return {"result": "Succeeded", "errors": []}


@command(jobs, "show-services", examples=["moorage job show-services -n my-job", "moorage job show-services -n my-job --node-index 1"])
@name_option("job")
@click.option("--node-index", "-i", type=click.IntRange(0), default=0, help="Which of the job's nodes. Default: 0.")
def show_services(session: Session, name: str, node_index: int) -> Manifest:
    """Show the services (SSH, JupyterLab, VS Code, TensorBoard) that a job asks for, and what became of each."""
    from moorage.cli.naming import snaked
    from moorage.client.jobs import services

    return {name: snaked(service) for name, service in services(session.client, name, node_index).items()}


@command(jobs, "cancel", examples=["moorage job cancel -n my-job", "moorage job cancel -n my-job --no-wait"])
@name_option("job")
@click.option("--no-wait", is_flag=True, help="Return once the service has accepted it.")
def cancel_job(session: Session, name: str, no_wait: bool) -> None:
    """Cancel a job. What it has stored so far is kept; one that has ended already stays as it is."""
    from moorage.client.jobs import cancel
    from moorage.specs.jobs import TERMINAL

    status = (session.client.get(session.client.path("jobs", name)).get("properties") or {}).get("status")
    if status in TERMINAL:
        session.say(f"job {name} has already ended: {status}")
        return
    cancel(session.client, name, wait=not no_wait)
    session.say(f"job {name}: cancellation is requested")


@command(
    jobs,
    "download",
    examples=[
        "moorage job download -n my-job",
        "moorage job download -n my-job --output-name model -p ./out",
        "moorage job download -n my-job --all",
    ],
)
@name_option("job")
@download_path_option
@click.option("--output-name", metavar="NAME", shell_complete=outputs, help="Only this output; `default` is logs and artifacts.")
@click.option("--all", "everything", is_flag=True, help="Logs, artifacts and every output.")
def download_job(session: Session, name: str, download_path: str, output_name: str | None, everything: bool) -> None:
    """Fetch logs and artifacts, or outputs, of a job that has ended.

    Logs and artifacts go to `artifacts/`, an output to `named-outputs/NAME/`.
    """
    from moorage.cli.progress import fetched
    from moorage.client.jobs import download

    folder = Path(download_path)
    progress = session.upload()
    files = download(session.client, name, folder, output=output_name, everything=everything, upload=progress)
    session.say(fetched(files, folder, progress.replaced))


@command(jobs, "archive", examples=["moorage job archive -n my-job"])
@name_option("job")
def archive_job(session: Session, name: str) -> None:
    """Hide a job from lists."""
    from moorage.client.jobs import archive

    archive(session.client, name)


@command(jobs, "restore", examples=["moorage job restore -n my-job"])
@name_option("job")
def restore_job(session: Session, name: str) -> None:
    """Show an archived job in lists again."""
    from moorage.client.jobs import archive

    archive(session.client, name, hidden=False)


refused_command(
    jobs, "connect-ssh", "no SSH server runs in jobs yet; `kubectl exec` into the job's pod, or follow it with `moorage job stream`."
)
