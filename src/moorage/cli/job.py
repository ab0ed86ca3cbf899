"""`moorage job`: train."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import click

from moorage.cli.commands import command, file_option, group, name_option, set_option
from moorage.cli.session import Session
from moorage.errors import Invalid, MoorageError
from moorage.specs.manifest import Manifest

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
@click.option("--web", is_flag=True, help="Not supported: there is no browser to open here.")
def create(session: Session, file: str, name: str | None, changes: tuple[str, ...], follow_it: bool, web: bool) -> Manifest | None:
    """Submit a job from a YAML document.

    Code, environment and local inputs travel with it; what the workspace has already is not sent again.
    """
    from moorage.cli import entities
    from moorage.client.jobs import submit
    from moorage.wire.documents.document import Kind

    if web:
        raise Invalid("--web is not supported here; follow the job with --stream.", code="NotSupported", target="--web")
    document = session.document(Kind.JOB, file, changes, name=name)
    job = submit(session.client, document, upload=session.upload())
    made = str(job.get("name"))
    session.say(f"job {made} is submitted")
    if not follow_it:
        session.say(f"follow it: moorage job stream -n {made}")
        return entities.job(job)
    chosen = bool(session.given.get("output") or session.given.get("query"))
    follow(session, made, to_stderr=chosen)
    return entities.job(session.client.get(session.client.path("jobs", made))) if chosen else None


def follow(session: Session, name: str, *, to_stderr: bool = False) -> None:
    """Print a job's log until it ends; raises when it did not end well."""
    from moorage.client.jobs import failure, stream

    session.on_interrupt(f"The job goes on. `moorage job stream -n {name}` comes back to it; `moorage job cancel -n {name}` ends it.")
    target = sys.stderr if to_stderr else sys.stdout

    def write(text: str) -> None:
        target.write(text)
        target.flush()

    details = stream(session.client, name, write=write, say=lambda line: session.say(f"[{name}] {line}"))
    session.on_interrupt("")
    status = str(details.get("status"))
    if status == "Completed":
        return
    if status == "Canceled":
        raise MoorageError(f"the job {name} was canceled.", code="JobCanceled", target=name)
    raise MoorageError(f"the job {name} ended as {status}: {failure(details)}", code="JobFailed", target=name)


@command(jobs, "stream", examples=["moorage job stream -n calm_harbor_k3v9s1t2x4"])
@name_option("job")
def stream_job(session: Session, name: str) -> None:
    """Follow a job's status (on stderr) and log (on stdout) until it ends. Exit code 1 when it fails."""
    follow(session, name)


@command(jobs, "show", table="jobs", examples=["moorage job show -n my-job", "moorage job show -n my-job --query status -o tsv"])
@name_option("job")
def show(session: Session, name: str) -> Manifest:
    """Show a job."""
    from moorage.cli import entities

    return entities.job(session.client.get(session.client.path("jobs", name)))


@command(
    jobs, "list", table="jobs", examples=["moorage job list", "moorage job list --max-results 5 --query \"[?status=='Running'].name\""]
)
@click.option("--max-results", "-r", type=click.IntRange(1), help="At most so many, newest first.")
@click.option("--archived-only", is_flag=True, help="Only archived jobs.")
@click.option("--include-archived", is_flag=True, help="Archived jobs too.")
def list_jobs(session: Session, max_results: int | None, archived_only: bool, include_archived: bool) -> list[Manifest]:
    """List jobs, newest first."""
    from moorage.cli import entities
    from moorage.client.jobs import listing

    view = "ArchivedOnly" if archived_only else "All" if include_archived else "ActiveOnly"
    return [entities.job(job) for job in itertools.islice(listing(session.client, view=view), max_results)]


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
@click.option("--download-path", "-p", default=".", metavar="FOLDER", help="Where to; made when absent. Default: the current folder.")
@click.option("--output-name", metavar="NAME", help="Only this output; `default` is logs and artifacts.")
@click.option("--all", "everything", is_flag=True, help="Logs, artifacts and every output.")
def download_job(session: Session, name: str, download_path: str, output_name: str | None, everything: bool) -> None:
    """Fetch logs and artifacts, or outputs, of a job that has ended.

    Logs and artifacts go to `artifacts/`, an output to `named-outputs/NAME/`.
    """
    from moorage.client.jobs import download

    folder = Path(download_path)
    files = download(session.client, name, folder, output=output_name, everything=everything, upload=session.upload())
    session.say(f"{len(files)} files are in {folder.resolve()}")


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
