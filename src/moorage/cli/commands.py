"""Commands and groups as this command line has them: global options after the command, examples in the help, modules imported when needed.

A command that speaks to the workspace service:

    @command(jobs, "show", examples=["moorage job show -n my-job"])
    @click.option("--name", "-n", required=True)
    def show(session: Session, name: str) -> Manifest: ...

What it returns is printed in the format that `--output` names; `None` prints nothing.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import click

from moorage.cli.candidates import existing, files, folders, workspaces
from moorage.cli.edits import take
from moorage.errors import Invalid

if TYPE_CHECKING:
    from moorage.cli.session import Session

FORMATS = ("json", "jsonc", "yaml", "table", "tsv", "none")
_GLOBAL = ("output", "query", "verbose", "debug", "only_show_errors", "workspace_name", "resource_group", "subscription")


def global_options() -> list[click.Parameter]:
    return [
        click.Option(
            ["-o", "--output"],
            type=click.Choice(FORMATS),
            envvar="MOORAGE_OUTPUT",
            help="Format of the result. Default: json; lists on a terminal: table.",
        ),
        click.Option(["--query"], metavar="JMESPATH", help="Print only what this JMESPath expression selects (see jmespath.org)."),
        click.Option(["-w", "--workspace-name"], metavar="NAME", shell_complete=workspaces, help="Workspace; the profile's by default."),
        click.Option(["-g", "--resource-group"], metavar="NAME", help="Resource group; the profile's by default."),
        click.Option(["--subscription"], metavar="ID", help="Subscription; the profile's by default."),
        click.Option(["--only-show-errors"], is_flag=True, help="No progress and no hints on stderr."),
        click.Option(["--verbose"], is_flag=True, help="More about what happens, on stderr."),
        click.Option(["--debug"], is_flag=True, help="Tracebacks and every request, on stderr."),
    ]


class Command(click.Command):
    """A command with the global options and examples. Its callback gets a Session first."""

    def __init__(self, *args: Any, examples: Sequence[str] = (), table: str = "", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.own = list(self.params)
        self.examples = tuple(examples)
        self.table = table
        self.params = [*self.params, *global_options()]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if ctx.find_root().info_name == "az":
            # Scripts for the original say `--endpoint` and `--workspace`: it takes the beginning of an option for the option.
            known = [option for parameter in self.get_params(ctx) for option in parameter.opts if option.startswith("--")]
            args = [unabbreviated(word, known) for word in args]
        return super().parse_args(ctx, take(ctx, self.own, args))

    def invoke(self, ctx: click.Context) -> Any:
        from moorage.cli.session import Session

        given = {name: ctx.params.pop(name) for name in _GLOBAL}
        with Session(given, table=self.table) as session:
            ctx.obj = session
            assert self.callback is not None
            result = ctx.invoke(self.callback, session, **ctx.params)
            if result is not None:
                session.show(result)
        return session.code

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        own = [record for parameter in self.own if (record := parameter.get_help_record(ctx))]
        if own:
            with formatter.section("Options"):
                formatter.write_dl(own)
        shared = [record for parameter in self.params[len(self.own) :] if (record := parameter.get_help_record(ctx))]
        with formatter.section("Global options"):
            formatter.write_dl([*shared, ("-h, --help", "Show this message and exit.")])

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        _write_examples(formatter, self.examples)


class Process(click.Command):
    """A command of its own kind, without the global options: it has no result. With examples."""

    def __init__(self, *args: Any, examples: Sequence[str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.examples = tuple(examples)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        _write_examples(formatter, self.examples)


def _write_examples(formatter: click.HelpFormatter, examples: Sequence[str]) -> None:
    if examples:
        with formatter.section("Examples"):
            for example in examples:
                formatter.write(f"  {example}\n")


def unabbreviated(word: str, known: Sequence[str]) -> str:
    """A word of the command line with the option written out whose beginning it is, when there is just one."""
    option, equals, value = word.partition("=")
    if not option.startswith("--") or len(option) < 3 or option in known:
        return word
    meant = [each for each in known if each.startswith(option)]
    return f"{meant[0]}{equals}{value}" if len(meant) == 1 else word


# The verbs whose examples say most about a noun.
_TELLING = ("create", "attach", "register", "install", "env", "set", "list", "show")


class Group(click.Group):
    """A noun with its verbs, or the top with its nouns; a verb whose name is nearly right is named.

    Args:
        examples: shown in the help; those of its verbs when there are none.
    """

    def __init__(self, *args: Any, examples: Sequence[str] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.examples = tuple(examples)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        known = [self.commands[verb] for verb in _TELLING if verb in self.commands] or list(self.commands.values())
        known = [each for group in known for each in (group.commands.values() if isinstance(group, click.Group) else (group,))]
        of_verbs = [example for each in known for example in getattr(each, "examples", ())[:1]]
        _write_examples(formatter, self.examples or of_verbs[:3])

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        if args and self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            import difflib

            known = self.list_commands(ctx)
            close = difflib.get_close_matches(args[0], known, n=1)
            hint = f" Did you mean '{close[0]}'?" if close else f" There are: {', '.join(known)}."
            raise click.UsageError(f"'{ctx.command_path}' has no command '{args[0]}'.{hint}", ctx)
        return super().resolve_command(ctx, args)


class LazyGroup(Group):
    """A group whose commands live in modules that are imported when one of them is used.

    Args:
        lazy: command name to (`module:attribute`, short help).
    """

    def __init__(self, *args: Any, lazy: Mapping[str, tuple[str, str]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.lazy = lazy

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*self.lazy, *(name for name in super().list_commands(ctx) if name not in self.lazy)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.lazy:
            return super().get_command(ctx, cmd_name)
        module, _, attribute = self.lazy[cmd_name][0].partition(":")
        try:
            loaded = importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name != module:
                raise
            raise Invalid(f"'{cmd_name}' is not part of this installation.", code="NotInstalled", target=cmd_name) from error
        return cast(click.Command, getattr(loaded, attribute))

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = [(name, short) for name, (_, short) in self.lazy.items()]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


def group(name: str, help: str) -> Group:
    """A noun."""
    return Group(name, help=help, no_args_is_help=True, context_settings=SETTINGS)


SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 120}


def command(
    parent: click.Group | None, name: str, *, examples: Sequence[str] = (), table: str = ""
) -> Callable[[Callable[..., Any]], Command]:
    """Declare a command; its docstring is its help.

    Args:
        parent: the group it belongs to; None for one that stands alone.
        table: the name of the table its result is shown as (`moorage.cli.tables`).
    """

    def make(callback: Callable[..., Any]) -> Command:
        params = list(reversed(getattr(callback, "__click_params__", [])))
        text = (callback.__doc__ or "").strip()
        made = Command(
            name,
            callback=callback,
            params=params,
            help=text,
            examples=examples,
            table=table,
            context_settings=SETTINGS,
            add_help_option=True,
        )
        if parent is not None:
            parent.add_command(made)
        return made

    return make


def name_option(what: str, *, required: bool = True) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    return click.option("--name", "-n", required=required, metavar="NAME", shell_complete=existing, help=f"Name of the {what}.")


def file_option(what: str, *, required: bool = True) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    return click.option(
        "--file", "-f", required=required, metavar="FILE", shell_complete=files, help=f"The YAML document of the {what}; '-' reads stdin."
    )


def download_path_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """`--download-path`, the current folder by default."""
    shown = "Where to; made when absent. Default: the current folder."
    return click.option("--download-path", "-p", default=".", metavar="FOLDER", shell_complete=folders, help=shown)(function)


def set_option() -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    return click.option(
        "--set",
        "changes",
        multiple=True,
        metavar="PATH=VALUE",
        help="Change a field of the document, e.g. --set inputs.epochs=3. Values are JSON or plain text; may be repeated.",
    )


def no_wait_option() -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    return click.option("--no-wait", is_flag=True, help="Return once the service has accepted it.")


def yes_option() -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    return click.option("--yes", "-y", is_flag=True, help="Do not ask for confirmation.")


def web_option() -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """`--web`: accepted, so that scripts run; the command says that there is no page to open yet (`Session.no_page`)."""
    return click.option("--web", is_flag=True, help="There is no web page to open yet: says so, and how to follow on the command line.")


def tags_option() -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    return click.option("--tags", multiple=True, metavar="NAME=VALUE", help="A tag; may be repeated.")


def tag_changes(tags: Sequence[str]) -> tuple[str, ...]:
    """`--tags a=b` as `--set` writes it; Invalid without a `=`."""
    wrong = [tag for tag in tags if not tag.partition("=")[0].strip() or "=" not in tag]
    if wrong:
        raise Invalid(f"--tags {wrong[0]}: write it as NAME=VALUE, e.g. --tags team=vision.", target="--tags")
    quote = '"'
    return tuple(f'tags."{name.strip(quote)}"={value}' for name, _, value in (tag.partition("=") for tag in tags))


def refused_option(*names: str, reason: str, is_flag: bool = True) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """An option of `az ml` that is not supported: giving it is refused with the reason, which is its help as well."""

    def refuse(context: click.Context, parameter: click.Parameter, value: Any) -> None:
        if value and not context.resilient_parsing:
            raise Invalid(f"{names[0]} is not supported: {reason}", code="NotSupported", target=names[0])

    shown = {"is_flag": True} if is_flag else {"metavar": "VALUE"}
    return click.option(*names, expose_value=False, callback=refuse, help=f"Not supported: {reason}", **shown)


def accepted_option(*names: str, meaning: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A flag of `az ml` that scripts give and that changes nothing here."""
    return click.option(*names, expose_value=False, is_flag=True, help=f"Accepted, and changes nothing: {meaning}")


def refused_command(parent: click.Group, name: str, reason: str) -> Command:
    """A verb of `az ml` that is not supported: whatever follows it, it is refused with the reason. Not listed in the help of its noun."""

    def refuse(session: Session, anything: tuple[str, ...]) -> None:
        raise Invalid(f"`{parent.name} {name}` is not supported: {reason}", code="NotSupported", target=name)

    made = Command(
        name,
        callback=refuse,
        params=[click.Argument(["anything"], nargs=-1, type=click.UNPROCESSED)],
        help=f"Not supported: {reason}",
        examples=[f"moorage {parent.name} {name} --help"],
        hidden=True,
        context_settings={**SETTINGS, "ignore_unknown_options": True},
    )
    parent.add_command(made)
    return made
