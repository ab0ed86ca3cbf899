"""One run of a command: its profile, its client, its progress on stderr, and its result on stdout."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import click

from moorage.errors import Invalid, MoorageError, NotFound
from moorage.specs.manifest import Manifest

if TYPE_CHECKING:
    from moorage.client.assets import Upload
    from moorage.client.connection import Client, Step
    from moorage.client.profile import Profile
    from moorage.wire.documents.document import Document, Kind
    from moorage.wire.documents.edits import Changes

# What Ctrl-C should say; a command sets it while something goes on without it.
_interruption = ""
_SECRETS = re.compile(r"((?:sig=|Bearer |authorization[^A-Za-z]{1,6}))[^&\s\"',)]+", re.IGNORECASE)


def interruption() -> str:
    """What to tell a user who presses Ctrl-C now."""
    return _interruption


class _Discreet(logging.Formatter):
    """Log lines without signatures of links and without tokens."""

    def format(self, record: logging.LogRecord) -> str:
        return _SECRETS.sub(r"\1...", super().format(record))


@contextmanager
def shown_log(level: int) -> Iterator[None]:
    """Requests, and with DEBUG everything, on stderr for as long as the context lasts."""
    root, shown = logging.getLogger(), logging.StreamHandler()
    shown.setFormatter(_Discreet("%(name)s: %(message)s"))
    before = root.level
    root.addHandler(shown)
    root.setLevel(level)
    try:
        yield
    finally:
        root.setLevel(before)
        root.removeHandler(shown)


def _terminal_width() -> int | None:
    """Cells of a line of the terminal that results go to, or what COLUMNS says; None where it is none, or does not know."""
    import shutil

    return (shutil.get_terminal_size((0, 0)).columns or None) if sys.stdout.isatty() else None


class Session:
    """What a command's callback works with. A context manager: the client is closed at the end.

    Args:
        given: the global options by their names.
        table: name of the table the command's result is shown as; "" when it has none.
    """

    def __init__(self, given: Manifest, *, table: str = "") -> None:
        self.given = given
        self.table = table
        self.quiet = bool(given.get("only_show_errors"))
        self.code = 0
        self._client: Client | None = None
        self._profile: Profile | None = None
        self._open = ExitStack()
        self._warned: set[str] = set()

    def __enter__(self) -> Session:
        if self.given.get("debug") or self.given.get("verbose"):
            self._open.enter_context(shown_log(logging.DEBUG if self.given.get("debug") else logging.INFO))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._open.close()
        if kind is None or not issubclass(kind, KeyboardInterrupt):
            self.on_interrupt("")

    @property
    def profile(self) -> Profile:
        """The settings in force for this command."""
        if self._profile is None:
            from moorage.client.profile import load, override

            self._profile = override(
                load(),
                workspace=self.given.get("workspace_name"),
                resource_group=self.given.get("resource_group"),
                subscription=self.given.get("subscription"),
            )
        return self._profile

    @property
    def client(self) -> Client:
        """The workspace service; Unavailable, with the remedy, when none is configured."""
        if self._client is None:
            from moorage.client.connection import Client

            self._client = self._open.enter_context(Client(self.profile, tell=self.say, warn=self.warn))
        return self._client

    def reconsider(self, **options: str) -> None:
        """Read the profile again, with global options as they would be had they been given so."""
        self.given = {**self.given, **options}
        self._profile = None

    def in_registry(self, name: str | None) -> Session:
        """This session, with environments meant to be those of a registry when `name` is one."""
        if name:
            self.client.registry = name
        return self

    def exit_with(self, code: int) -> None:
        """End the command with this exit code once its result is printed."""
        self.code = code

    def say(self, line: str) -> None:
        """A line of progress or a hint, for people."""
        if not self.quiet:
            click.echo(line, err=True)

    def warn(self, message: str) -> None:
        """Something that was asked for and is not done; once, however often the service says it."""
        if message not in self._warned:
            self._warned.add(message)
            self.say(f"warning: {message}")

    def no_page(self, web: bool, follow: str) -> None:
        """Say, where `--web` was given, that there is no page to open yet, and the command that shows the same."""
        if web:
            self.say(f"--web: there is no web page to open yet; follow it with `{follow}`")

    def on_interrupt(self, hint: str) -> None:
        """What Ctrl-C says from now on."""
        global _interruption
        _interruption = hint

    def show(self, result: Any) -> None:
        """Print the command's result as `--output` and `--query` ask."""
        from moorage.cli.output import render

        # A person at a terminal wants a list as a table; a script that reads a pipe wants what `az ml` gives it.
        listed = isinstance(result, list) and self.table and sys.stdout.isatty()
        chosen = self.given.get("output") or ("table" if listed else "json")
        text = render(result, chosen, table=self.table, query=self.given.get("query"), width=_terminal_width())
        if text:
            click.echo(text)
        elif listed and not result and not self.given.get("query"):
            self.say("The list is empty.")

    def delete(self, path: str, what: str, *, wait: bool = True, params: Manifest | None = None) -> None:
        """Delete a resource and say so; NotFound when there was none, since a misspelt name must not look like a success."""
        self.on_interrupt(f"The service goes on deleting {what}, if it was asked already.")
        if not self.client.delete(path, params=params, wait=wait, watch=self.watch(what)):
            raise NotFound(f"there is no {what}.", target=what.rpartition(" ")[2])
        self.on_interrupt("")
        self.say(f"{what}: {'deleted' if wait else 'is being deleted'}")

    def document(self, kind: Kind, file: str | None, changes: Changes = (), **options: Any) -> Document:
        """Read and check the document that `--file` names, with `--set` and options in force."""
        from moorage.wire.documents.document import load
        from moorage.wire.idle import unsent

        document = self._read(partial(load, kind), file, changes=changes, options=options)
        for message in unsent(kind.value, document.values):
            self.warn(message)
        return document

    def invocation(self, file: str | None, changes: Changes = (), **options: Any) -> Document:
        """As `document`, of what `invoke` of a batch endpoint is given."""
        from moorage.wire.documents.document import load_invocation

        return self._read(load_invocation, file, changes=changes, options=options)

    def _read(self, load: Callable[..., Document], file: str | None, **given: Any) -> Document:
        if file is None:
            return load(None, name="", folder=Path.cwd(), **given)
        if file == "-":
            return load(sys.stdin.read(), name="<stdin>", folder=Path.cwd(), **given)
        path = Path(file)
        try:
            text = path.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise Invalid(f"{file} is not UTF-8 text: {error.reason} at byte {error.start}.", target="--file") from error
        except OSError as error:
            raise Invalid(f"{file} cannot be read: {error.strerror}.", code="FileNotFound", target="--file") from error
        return load(text, name=file, folder=path.parent, **given)

    def upload(self) -> Upload:
        """Progress of uploads: at most a few lines each, the last with the whole size."""
        from moorage.cli.progress import transfers
        from moorage.client.assets import Upload

        return Upload(transfers(self.say))

    def watch(self, what: str) -> Callable[[Step], None]:
        """Progress of a long-running operation: a line for each new phase or message, and one a while."""
        from moorage.cli.progress import phases

        return phases(what, self.say)

    def confirm(self, question: str, yes: bool) -> None:
        """Ask before something is lost; without a terminal only --yes will do."""
        if yes:
            return
        if not sys.stdin.isatty():
            raise Invalid(f"{question} Nobody is there to answer; give --yes.", code="ConfirmationNeeded", target="--yes")
        if not click.confirm(question, err=True):
            raise MoorageError("Nothing was changed.", code="Declined")
