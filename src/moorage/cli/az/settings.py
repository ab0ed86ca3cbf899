"""`az configure` and `az config`: az's defaults are settings of Moorage's profile."""

from __future__ import annotations

from collections.abc import Sequence

import click

from moorage.cli.commands import command, group
from moorage.cli.session import Session
from moorage.errors import Invalid
from moorage.specs.manifest import Manifest

# Names of az's defaults and the profile's settings that they are.
_DEFAULTS = {"group": "resource_group", "workspace": "workspace"}
config = group("config", "Keep and show defaults one by one.")


@command(
    None,
    "configure",
    examples=["az configure --defaults group=research workspace=vision", "az configure --list-defaults -o table"],
)
@click.option("--defaults", "-d", "defaults", multiple=True, metavar="NAME=VALUE", help="group and workspace; an empty value removes one.")
@click.option("--list-defaults", "-l", is_flag=True, help="Show them.")
@click.option("--scope", type=click.Choice(["global", "local"]), help="Accepted; there is one scope.")
def configure(session: Session, defaults: Sequence[str], list_defaults: bool, scope: str | None) -> list[Manifest] | None:
    """Keep the resource group and the workspace that commands are about."""
    if defaults:
        keep(session, defaults)
    if list_defaults:
        return shown(session)
    if not defaults:
        raise Invalid("there is nobody to ask here: give --defaults group=NAME workspace=NAME, or --list-defaults.", target="--defaults")
    return None


@command(config, "set", examples=["az config set defaults.workspace=vision"])
@click.argument("settings", nargs=-1, required=True, metavar="defaults.NAME=VALUE...")
def set_(session: Session, settings: Sequence[str]) -> None:
    """Keep defaults; other sections of az's configuration have no meaning here and are named."""
    own = [each.removeprefix("defaults.") for each in settings if each.startswith("defaults.")]
    for each in settings:
        if not each.startswith("defaults."):
            session.say(f"'{each.partition('=')[0]}' has no meaning here; it is not kept.")
    if own:
        keep(session, own)


@command(config, "get", examples=["az config get defaults.workspace"])
@click.argument("name", required=False, metavar="[defaults.NAME]")
def get(session: Session, name: str | None) -> list[Manifest] | Manifest:
    """Show defaults."""
    found = shown(session)
    if not name or name == "defaults":
        return found
    for each in found:
        if each["name"] == name.removeprefix("defaults."):
            return each
    raise Invalid(f"'{name}' is not set; there are {', '.join(each['name'] for each in found) or 'none'}.", target=name)


def keep(session: Session, pairs: Sequence[str]) -> None:
    """Write `name=value` pairs of az's defaults into the profile."""
    from moorage.client.profile import save

    changes: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise Invalid(f"'{pair}': write NAME=VALUE.", target="--defaults")
        if name in _DEFAULTS:
            changes[_DEFAULTS[name]] = value
        else:
            # Scripts set a location as a matter of course; every workspace of a service is in one place.
            session.say(f"the default '{name}' has no meaning here; it is not kept.")
    if changes:
        save(changes)


def shown(session: Session) -> list[Manifest]:
    """az's defaults as the profile has them."""
    profile = session.profile
    return [
        {"name": name, "value": getattr(profile, setting), "source": profile.sources.get(setting, "")}
        for name, setting in _DEFAULTS.items()
        if getattr(profile, setting)
    ]
