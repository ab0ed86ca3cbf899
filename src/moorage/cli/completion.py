"""`moorage completion`: the shell's completion script, made by Click."""

from __future__ import annotations

import click

from moorage.cli.commands import command
from moorage.cli.session import Session


@command(
    None, "completion", examples=['eval "$(moorage completion bash)"', "moorage completion fish > ~/.config/fish/completions/moorage.fish"]
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(session: Session, shell: str) -> None:
    """Print the completion script of a shell; put it into the shell's start file."""
    from click.shell_completion import get_completion_class

    from moorage.cli.main import application

    found = get_completion_class(shell)
    assert found is not None
    click.echo(found(application, {}, "moorage", "_MOORAGE_COMPLETE").source())
