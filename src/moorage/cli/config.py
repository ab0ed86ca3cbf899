"""`moorage config`: the profile, `config.toml` of the state folder."""

from __future__ import annotations

import sys
from pathlib import Path
from urllib.parse import urlsplit

import click

from moorage.cli.commands import command, group
from moorage.cli.session import Session
from moorage.errors import Invalid
from moorage.specs.manifest import Manifest

config = group("config", "Show and change the settings of this command line.")


@command(config, "show", table="settings", examples=["moorage config show", "moorage config show --query \"[?name=='url'].value\" -o tsv"])
def show(session: Session) -> list[Manifest]:
    """Show the settings in force and where each comes from. The token is not shown."""
    from moorage.client.profile import NAMES

    profile = session.profile
    values = {name: getattr(profile, name) for name in NAMES}
    if values["token"]:
        values["token"] = "(set)"
    return [{"name": name, "value": value, "source": profile.sources.get(name, "")} for name, value in values.items()]


@command(
    config,
    "set",
    examples=["moorage config set workspace=research", "moorage config set url=https://ml.example.org token=- ca=/etc/ssl/ml.pem < token"],
)
@click.argument("settings", nargs=-1, required=True, metavar="NAME=VALUE...")
def set_(session: Session, settings: tuple[str, ...]) -> None:
    """Change settings; an empty value removes one, and `token=-` reads it from stdin.

    Settings: url, token, ca, subscription, resource_group, workspace, kubeconfig.
    """
    from moorage.client.profile import save

    changes = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals:
            raise Invalid(f"'{setting}': write NAME=VALUE.", target="NAME=VALUE")
        changes[name.strip().replace("-", "_")] = value
    if changes.get("token") == "-":
        changes["token"] = sys.stdin.read().strip()
    if (url := changes.get("url")) and (urlsplit(url).scheme not in ("https", "http") or not urlsplit(url).netloc):
        raise Invalid(f"url: '{url}' is no address such as https://HOST:PORT.", target="url")
    for name in ("ca", "kubeconfig"):
        if changes.get(name):
            path = Path(changes[name]).expanduser().absolute()
            if not path.is_file():
                raise Invalid(f"{name}: there is no file {path}.", target=name)
            changes[name] = str(path)
    session.say(f"written to {save(changes)}")
