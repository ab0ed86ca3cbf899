"""`--set`, `--add`, `--remove` and `--force-string` of updates: several words after one mention, in any order, which counts.

Click has options with a fixed number of words, and forgets the order of different ones; so these are taken off the command line before it reads it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import click

from moorage.wire.documents.edits import Change, Edit, Verb

_META = "moorage.edits"


def is_option(word: str) -> bool:
    """Whether a word of the command line begins an option; `-1` is a number."""
    return word.startswith("-") and word != "-" and not word[1:2].isdigit()


def gathered(words: Sequence[str]) -> tuple[list[str], list[Edit]]:
    """The command line without its changes, and these in order; one that has nothing after it stays, for Click to say so."""
    rest: list[str] = []
    found: list[Edit] = []
    left = list(words)
    while left:
        word = left.pop(0)
        option, equals, value = word.partition("=")
        if option not in tuple(Verb) or not (equals or left):
            rest.append(word)
            continue
        taken = [value] if equals else [left.pop(0)]
        while option != Verb.SET and left and not is_option(left[0]):
            taken.append(left.pop(0))
        found.append(Edit(Verb(option), tuple(taken)))
    return rest, found


def edit_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """The four options; the command gets `changes`, in order."""
    for option in (
        click.option(
            "--force-string",
            is_flag=True,
            is_eager=True,
            expose_value=False,
            callback=_as_text,
            help="With --set and --add: take values as text.",
        ),
        click.option(
            "--remove",
            multiple=True,
            expose_value=False,
            metavar="PATH [INDEX]",
            help="Remove a field, or an item of a list, e.g. --remove tags.team.",
        ),
        click.option(
            "--add",
            multiple=True,
            expose_value=False,
            metavar="PATH VALUE...",
            help="Add items to a list: JSON, text, or key=value pairs for a mapping.",
        ),
        click.option(
            "--set",
            "changes",
            multiple=True,
            metavar="PATH=VALUE",
            callback=_changes,
            help="Change a field, e.g. --set tags.team=vision. Values are JSON or plain text; may be repeated.",
        ),
    ):
        function = option(function)
    return function


def take(ctx: click.Context, params: Sequence[click.Parameter], words: list[str]) -> list[str]:
    """Take the changes off the command line of a command that has these options."""
    if not any("--add" in parameter.opts for parameter in params):
        return words
    rest, ctx.meta[_META] = gathered(words)
    return rest


def _as_text(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
    ctx.meta[f"{_META}.text"] = value


def _changes(ctx: click.Context, parameter: click.Parameter, value: Sequence[str]) -> tuple[Change, ...]:
    as_text = bool(ctx.meta.get(f"{_META}.text"))
    return tuple(Edit(each.verb, each.words, as_text) for each in ctx.meta.get(_META, ()))
