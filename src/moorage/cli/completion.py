"""`moorage completion`: the shell's completion script, and the answer that the script asks for.

Both are Click's; the lines of a shell differ in what they make of `--option=value`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
from click.shell_completion import BashComplete, FishComplete, ShellComplete, ZshComplete

from moorage.cli.commands import command
from moorage.cli.session import Session

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

VARIABLE = "_MOORAGE_COMPLETE"


class _Bash(BashComplete):
    """Bash breaks words at `=`, before it asks, and replaces only what follows it."""

    def get_completion_args(self) -> tuple[list[str], str]:
        words, incomplete = super().get_completion_args()
        joined: list[str] = []
        for word in words:
            if word == "=" and joined and joined[-1].startswith("--"):
                joined[-1] += "="
            elif joined and joined[-1].startswith("--") and joined[-1].endswith("="):
                joined[-1] += word
            else:
                joined.append(word)
        if joined and joined[-1].startswith("--") and joined[-1].endswith("="):
            joined[-1] = joined[-1].removesuffix("=")
        return joined, incomplete


class _Whole(ShellComplete):
    """Other shells replace the whole of `--option=value`."""

    def get_completions(self, args: list[str], incomplete: str) -> list[CompletionItem[str]]:
        found = super().get_completions(args, incomplete)
        option, equals, _ = incomplete.partition("=")
        if equals and option.startswith("--"):
            for item in found:
                item.value = f"{option}={item.value}"
        return found


class _Zsh(_Whole, ZshComplete):
    pass


class _Fish(_Whole, FishComplete):
    pass


_SHELLS: dict[str, type[ShellComplete]] = {"bash": _Bash, "zsh": _Zsh, "fish": _Fish}


def _complete(shell: str) -> ShellComplete:
    from moorage.cli.main import application

    return _SHELLS[shell](application, {}, "moorage", VARIABLE)


def answer(instruction: str) -> str:
    """What the shell's script is told for `SHELL_complete`, the line being in COMP_WORDS and COMP_CWORD; KeyError for another instruction."""
    return _complete(instruction.removesuffix("_complete")).complete()


@command(
    None, "completion", examples=['eval "$(moorage completion bash)"', "moorage completion fish > ~/.config/fish/completions/moorage.fish"]
)
@click.argument("shell", type=click.Choice(sorted(_SHELLS)))
def completion(session: Session, shell: str) -> None:
    """Print the completion script of a shell; put it into the shell's start file.

    It completes nouns, verbs and options, files, and the names of what the workspace has.
    """
    click.echo(_complete(shell).source())
