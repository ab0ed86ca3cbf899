"""Entry point of the containers beside the user's: one JSON object in the termination message says why one failed."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from argparse import ArgumentParser, Namespace
from datetime import timedelta
from pathlib import Path

from moorage.errors import Invalid, MoorageError
from moorage.specs.manifest import Manifest
from moorage.specs.mounted import mounted

# Kubernetes' default terminationMessagePath, and its limit for what is read from it.
_TERMINATION_LOG = "/dev/termination-log"
_MESSAGE_LIMIT = 3500
# The exit code by which the Job knows that its pod was killed and can be replaced (`training.launchers.plain.KILLED`).
_KILLED = 137


def main(arguments: list[str] | None = None) -> int:
    """Run one command; the exit status is 0 only when all of it was done."""
    options = _parser().parse_args(arguments)
    try:
        _run(options, _plan(options.plan))
    except MoorageError as error:
        return _fail(error)
    except OSError as error:
        return _fail(MoorageError(f"{error.filename or options.command}: {error.strerror or error}.", code="SystemError"))
    return 0


def _run(options: Namespace, plan: Manifest) -> None:
    # Imported late: each container needs one of them, and starting is on every job's path.
    match options.command:
        case "fetch":
            # Process 1 of a container does not hear SIGTERM unless it says so, and would keep a cancelled job's place for all of the pod's grace. At
            # once, since downloads go on in threads; what is half there has another name, and lies on the pod's own volume.
            signal.signal(signal.SIGTERM, lambda *_: os._exit(_KILLED))
            from moorage.podside.access import Access
            from moorage.podside.fetch import fetch
            from moorage.podside.install import install_scoring, install_start

            # The code runs as whoever its image says, and may change what it was given.
            os.umask(0)
            if options.install_scoring:
                install_scoring(options.install_scoring)
            if options.start:
                install_start(Path(mounted(str(options.start), os.environ)))
            fetch(plan, Access(options.access), patience=timedelta(seconds=options.patience))
        case "environment":
            from moorage.podside.programs import end_at_sigterm

            # As `fetch`, but tidily: others wait for the lock, and what is half built lies on a volume that stays.
            end_at_sigterm(_KILLED)
            from moorage.podside.environment import prepare

            # Read by whoever the images say, whatever this one's default.
            os.umask(0o022)
            if notice := prepare(plan, options.root):
                _leave({"code": "EnvironmentSubstituted", "message": notice[:_MESSAGE_LIMIT]})
        case "peers":
            from moorage.podside.peers import Gate, wait
            from moorage.specs.distribution import Layout

            signal.signal(signal.SIGTERM, lambda *_: sys.exit(_KILLED))
            # As after `fetch`: whoever the image says runs the command beside these files.
            os.umask(0)
            place = {name: Path(mounted(str(getattr(options, name)), os.environ)) for name in ("annotation", "to", "logs")}
            wait(Layout(**plan["layout"]), Gate(index=options.index, port=options.port, **place))
        case _:
            from moorage.podside.access import Access
            from moorage.podside.upload import upload

            grace = timedelta(seconds=options.grace)
            if notice := upload(plan, Access(options.access), grace=grace, within=options.within, ready=options.ready):
                print(f"Warning: {notice}", flush=True)
                _leave({"code": "LinksNotStored", "message": notice[:_MESSAGE_LIMIT]})


def _parser() -> ArgumentParser:
    parser = ArgumentParser(prog="python -m moorage.podside", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    fetch = commands.add_parser("fetch", help="download code, inputs and models")
    fetch.add_argument("--install-scoring", type=Path, metavar="DIR", help="put the scoring server there")
    fetch.add_argument("--start", type=Path, metavar="DIR", help="put there what runs a job's command")
    fetch.add_argument("--patience", type=float, default=600, metavar="SECONDS", help="how long to wait for the workspace")
    environment = commands.add_parser("environment", help="prepare the Python environment")
    environment.add_argument("--root", type=Path, required=True)
    peers = commands.add_parser("peers", help="wait until the job's other instances are there")
    peers.add_argument("--annotation", type=Path, required=True, metavar="FILE", help="the pod's annotation, as the node keeps it")
    peers.add_argument("--index", type=int, default=os.environ.get("JOB_COMPLETION_INDEX"), metavar="N", help="the pod's completion index")
    peers.add_argument("--port", type=int, required=True, help="where process 0 listens")
    peers.add_argument("--to", type=Path, required=True, metavar="DIR", help="for what the processes need")
    peers.add_argument("--logs", type=Path, required=True, metavar="DIR", help="for the output of processes beyond the first")
    upload = commands.add_parser("upload", help="store outputs until SIGTERM, then the rest")
    upload.add_argument("--grace", type=float, default=100, metavar="SECONDS", help="time for the rest")
    upload.add_argument("--within", type=Path, metavar="DIR", help="the volume below which no link is followed to an output")
    upload.add_argument("--ready", type=Path, metavar="FILE", help="made once SIGTERM is understood")
    for command in (fetch, environment, peers, upload):
        command.add_argument("--plan", type=Path, required=True)
    for command in (fetch, upload):
        command.add_argument("--access", type=Path, required=True)
    return parser


def _plan(path: Path) -> Manifest:
    try:
        plan: Manifest = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise Invalid(f"{path} is not JSON: {error}.", code="InvalidPlan") from error
    return {
        **plan,
        "folders": [mounted(folder, os.environ) for folder in plan.get("folders") or ()],
        "downloads": [{**each, "to": mounted(each["to"], os.environ)} for each in plan.get("downloads") or ()],
        "uploads": [{**each, "from": mounted(each["from"], os.environ)} for each in plan.get("uploads") or ()],
    }


def _fail(error: MoorageError) -> int:
    text = _leave({"code": error.code, "message": error.message[:_MESSAGE_LIMIT]})
    print(text, file=sys.stderr, flush=True)
    return 1


def _leave(message: Manifest) -> str:
    """Put the object where the operator reads it; answers its text."""
    text = json.dumps(message)
    # Only where the node has put it; of a failed container the last line of the log is read elsewhere.
    log = Path(mounted(_TERMINATION_LOG, os.environ))
    if log.exists():
        with contextlib.suppress(PermissionError):
            log.write_text(text, encoding="utf-8")
    return text


if __name__ == "__main__":
    sys.exit(main())
