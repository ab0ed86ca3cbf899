"""The `moorage` command. Imports nothing but Click until a command is chosen, and turns every error into one message and an exit code."""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
from collections.abc import Sequence

# Ctrl-C before there is anybody who could turn it into a message: the process just ends, without a traceback. Not where SIGINT is somebody else's.
_BARE = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is signal.default_int_handler
if _BARE:
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import click  # noqa: E402

from moorage.cli.commands import SETTINGS, LazyGroup  # noqa: E402
from moorage.cli.exits import Exit, exit_code  # noqa: E402
from moorage.errors import MoorageError  # noqa: E402

if _BARE:
    signal.signal(signal.SIGINT, signal.default_int_handler)

COMMANDS = {
    "up": ("moorage.cli.up:up", "Start the embedded cluster and the workspace service on this machine."),
    "down": ("moorage.cli.up:down", "Stop them; --purge removes every trace."),
    "status": ("moorage.cli.up:status", "Show what runs here and where."),
    "extension": ("moorage.cli.extension:extension", "Install, show and remove the extension of a cluster."),
    "cluster": ("moorage.cli.cluster:clusters", "Register clusters with the workspace service."),
    "compute": ("moorage.cli.compute:computes", "Attach clusters to the workspace as compute targets."),
    "job": ("moorage.cli.job:jobs", "Train: submit, follow, cancel and fetch jobs."),
    "model": ("moorage.cli.model:models", "Register and fetch models."),
    "environment": ("moorage.cli.environment:environments", "Register what code runs in."),
    "data": ("moorage.cli.data:datas", "Register data."),
    "component": ("moorage.cli.component:components", "Register steps that pipelines are made of."),
    "online-endpoint": ("moorage.cli.online_endpoint:endpoints", "Serve: endpoints, their keys and traffic."),
    "online-deployment": ("moorage.cli.online_deployment:deployments", "Serve: models behind an endpoint."),
    "batch-endpoint": ("moorage.cli.batch_endpoint:endpoints", "Keep batch endpoints; scoring with them comes later."),
    "batch-deployment": ("moorage.cli.batch_deployment:deployments", "Keep models behind a batch endpoint; scoring comes later."),
    "schedule": ("moorage.cli.schedule:schedules", "Keep schedules; starting jobs by the clock comes later."),
    "datastore": ("moorage.cli.datastore:datastores", "Register storage that data lies in."),
    "workspace": ("moorage.cli.workspace:workspaces", "Make, show and remove workspaces."),
    "login": ("moorage.cli.login:login", "Sign in to a workspace service."),
    "logout": ("moorage.cli.login:logout", "Forget the token."),
    "whoami": ("moorage.cli.login:whoami", "Show who is signed in, where, and until when."),
    "sdk": ("moorage.cli.sdk:sdk", "Use the azure-ai-ml SDK with the workspace service."),
    "az": ("moorage.cli.az.install:az", "Make an `az` executable for scripts written for the original."),
    "config": ("moorage.cli.config:config", "Show and change the settings of this command line."),
    "completion": ("moorage.cli.completion:completion", "Print the shell's completion script."),
    "run": ("moorage.cli.run:run", "Run one of Moorage's processes in the foreground."),
}


class _Version(click.Option):
    def __init__(self) -> None:
        super().__init__(
            ["--version"], is_flag=True, expose_value=False, is_eager=True, callback=_version, help="Show the version and exit."
        )


def _version(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value and not context.resilient_parsing:
        from moorage import __version__

        click.echo(f"moorage {__version__}")
        context.exit()


application = LazyGroup(
    "moorage",
    lazy=COMMANDS,
    help="""Any Kubernetes cluster as a compute target for machine learning.

    `moorage up` starts everything on this machine; `moorage job create -f FILE --stream` trains; `moorage NOUN --help` shows more.""",
    examples=[
        "moorage up",
        "moorage job create --file train.yml --stream",
        "moorage model create -n digits --path azureml://jobs/my-job/outputs/model",
        "moorage online-endpoint create --file endpoint.yml",
        "moorage online-deployment create --file blue.yml --all-traffic",
    ],
    no_args_is_help=True,
    context_settings=SETTINGS,
    params=[_Version()],
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line of `moorage`; see `run`."""
    if instruction := os.environ.get("_MOORAGE_COMPLETE"):
        return _complete(instruction)
    return run(application, "moorage", list(sys.argv[1:] if arguments is None else arguments))


def _complete(instruction: str) -> int:
    """Answer a shell that completes a line; whatever is wrong, nothing is written into the line that is being typed."""
    said = sys.stderr
    try:
        with open(os.devnull, "w") as sys.stderr:  # noqa: PTH123
            from moorage.cli.completion import answer

            click.echo(answer(instruction))
    except (Exception, KeyboardInterrupt):  # noqa: BLE001 - half a line may be anything; there is nobody to tell
        return Exit.FAILED
    finally:
        sys.stderr = said
    return Exit.OK


def run(program: click.Command, name: str, words: Sequence[str], *, plain_errors: bool = False) -> int:
    """Run one command line of a program.

    Args:
        program: its commands.
        name: what users call it.
        words: the command line without the program's name.
        plain_errors: errors are sentences also where results are JSON.

    Returns:
        The exit code (`moorage.cli.exits.Exit`). Results are on stdout; everything else is on stderr.
    """
    as_json = not plain_errors and _wants_json(words)
    try:
        result = program.main(list(words), prog_name=name, standalone_mode=False)
    except (KeyboardInterrupt, click.exceptions.Abort):
        return _interrupted()
    except click.ClickException as error:
        return _usage(error, as_json)
    except MoorageError as error:
        return _failed(error, words, as_json)
    except BrokenPipeError:
        # Whoever read our output has enough (`moorage job list | head -1`).
        sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115
        return Exit.OK
    except Exception as error:  # noqa: BLE001 - the last line of defence: a message in place of a traceback
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return _no_room(error, words, as_json)
        # A service has nobody who could run it again: its log is all there will be.
        shown = "--debug" in words or words[:1] == ["run"]
        if shown:
            import traceback

            traceback.print_exc()
        remedy = "Report what is printed above." if shown else "Run the command with --debug and report what it prints."
        _say(MoorageError(f"an unexpected {type(error).__name__}: {error}. {remedy}"), as_json)
        return Exit.FAILED
    # What `context.exit(code)` ended with; a command's own result has been printed by then.
    return result if isinstance(result, int) else Exit.OK


def _no_room(error: OSError, words: Sequence[str], as_json: bool) -> int:
    what = error.filename or "what the command prints, or keeps,"
    if error.filename is None:
        # Else Python tries once more at its end, and says so.
        sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115
    return _failed(
        MoorageError(f"{what} cannot be written: {error.strerror}. Free some room, or write to another disk.", code="CannotWrite"),
        words,
        as_json,
    )


def _interrupted() -> int:
    from moorage.cli import session

    hint = session.interruption()
    click.echo(f"\n{hint}" if hint else "\nInterrupted.", err=True)
    return Exit.INTERRUPTED


def _usage(error: click.ClickException, as_json: bool) -> int:
    context = getattr(error, "ctx", None)
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        click.echo(error.format_message())
        return Exit.USAGE
    hint = f" See `{context.command_path} --help`." if context is not None else ""
    # Click lists choices one a line.
    message = " ".join(error.format_message().split())
    _say(MoorageError(f"{message if message.endswith(('.', '?')) else message + '.'}{hint}", code="UsageError"), as_json)
    return Exit.USAGE


def _failed(error: MoorageError, words: Sequence[str], as_json: bool) -> int:
    if "--debug" in words:
        import traceback

        traceback.print_exc()
    _say(error, as_json)
    return exit_code(error)


def _say(error: MoorageError, as_json: bool) -> None:
    """One clear message on stderr; JSON where the user asked for JSON."""
    if as_json:
        import json

        from moorage.cli.output import error_document

        click.echo(json.dumps(error_document(error), ensure_ascii=False), err=True)
        return
    details = [detail.message for detail in error.details if detail.message and detail.message not in error.message]
    click.echo("\n".join([f"error: {error.message}", *(f"  - {line}" for line in details)]), err=True)


def _wants_json(words: Sequence[str]) -> bool:
    formats = ("json", "jsonc")
    for index, word in enumerate(words):
        if word in ("-o", "--output"):
            return index + 1 < len(words) and words[index + 1] in formats
        if (
            word.startswith(("--output=", "-o"))
            and not word.startswith("--o=")
            and word.removeprefix("--output=").removeprefix("-o") in formats
        ):
            return True
    return os.environ.get("MOORAGE_OUTPUT") in formats


if __name__ == "__main__":
    sys.exit(main())
