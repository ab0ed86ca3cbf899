"""Where the workspace service is and as whom to speak to it: `config.toml` of the state folder, then `MOORAGE_*` variables, then options."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

from moorage.errors import Invalid
from moorage.files import write_private
from moorage.ids import Workspace

VARIABLES = {
    "url": "MOORAGE_URL",
    "token": "MOORAGE_TOKEN",
    "ca": "MOORAGE_CA",
    "subscription": "MOORAGE_SUBSCRIPTION",
    "resource_group": "MOORAGE_RESOURCE_GROUP",
    "workspace": "MOORAGE_WORKSPACE",
    "kubeconfig": "MOORAGE_KUBECONFIG",
}


@dataclass(frozen=True, slots=True)
class Profile:
    """The settings of one user on one machine; an empty one is not set.

    Attributes:
        url: address of the workspace service, `https://127.0.0.1:8450`.
        token: bearer token; never shown.
        ca: file with the authority that signed the service's certificate; empty for the system's.
        subscription, resource_group, workspace: the workspace that commands are about.
        kubeconfig: file for the commands that speak to a cluster.
        sources: for each setting that has a value, where it came from.
    """

    url: str = ""
    token: str = field(default="", repr=False)
    ca: str = ""
    subscription: str = ""
    resource_group: str = ""
    workspace: str = ""
    kubeconfig: str = ""
    sources: Mapping[str, str] = field(default_factory=dict, compare=False)

    def scope(self) -> Workspace:
        """The workspace; Invalid, naming what is missing and how to set it, when it is not known."""
        for name, option in (("subscription", "--subscription"), ("resource_group", "--resource-group"), ("workspace", "--workspace-name")):
            if not getattr(self, name):
                raise Invalid(
                    f"no {name.replace('_', ' ')} is set. Give {option}, set {VARIABLES[name]}, or run `moorage config set {name}=NAME`.",
                    code="NotConfigured",
                    target=name,
                )
        return Workspace(self.subscription, self.resource_group, self.workspace)


NAMES = tuple(entry.name for entry in fields(Profile) if entry.name != "sources")


def state_folder(environ: Mapping[str, str] | None = None) -> Path:
    """`$MOORAGE_HOME`, else `~/.moorage`."""
    given = (os.environ if environ is None else environ).get("MOORAGE_HOME")
    return Path(given).expanduser() if given else Path.home() / ".moorage"


def load(environ: Mapping[str, str] | None = None) -> Profile:
    """The profile of the state folder with the environment's overrides; an absent file is an empty profile."""
    environ = os.environ if environ is None else environ
    file = state_folder(environ) / "config.toml"
    stored = _read(file)
    sources = {name: str(file) for name in stored}
    for name, variable in VARIABLES.items():
        if environ.get(variable):
            stored[name] = environ[variable]
            sources[name] = variable
    return Profile(**stored, sources=sources)


def override(profile: Profile, **options: str | None) -> Profile:
    """The profile with the options that were given."""
    given = {name: value for name, value in options.items() if value}
    return replace(profile, **given, sources={**profile.sources, **dict.fromkeys(given, "option")})


def save(changes: Mapping[str, str], environ: Mapping[str, str] | None = None) -> Path:
    """Write settings into `config.toml`, whole or not at all, readable by its owner only; an empty value removes one."""
    for name in changes:
        if name not in NAMES:
            raise Invalid(f"'{name}' is no setting; there are {', '.join(NAMES)}.", target=name)
    home = state_folder(environ)
    file = home / "config.toml"
    settings = {**_read(file), **changes}
    text = "".join(f"{name} = {_quote(settings[name])}\n" for name in NAMES if settings.get(name))
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_private(file, text)
    except OSError as error:
        raise Invalid(
            f"{file} cannot be written: {error.strerror}. Set MOORAGE_HOME to a folder you may write, on a disk with room.",
            code="CannotWrite",
            target=str(file),
        ) from error
    return file


def _read(file: Path) -> dict[str, str]:
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise Invalid(f"{file} cannot be read: {error.strerror}.", code="BadProfile", target=str(file)) from error
    except UnicodeDecodeError as error:
        raise Invalid(
            f"{file} is not UTF-8 text. Correct it, or remove it and sign in again.", code="BadProfile", target=str(file)
        ) from error
    try:
        found = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise Invalid(f"{file} is not valid TOML: {error}. Correct it, or remove it and run `moorage up`.", code="BadProfile") from error
    wrong = [name for name, value in found.items() if name in NAMES and not isinstance(value, str)]
    if wrong:
        raise Invalid(f"{file}: '{wrong[0]}' must be text in quotes.", code="BadProfile", target=wrong[0])
    return {name: value for name, value in found.items() if name in NAMES}


def _quote(text: str) -> str:
    escaped = "".join(
        f"\\u{ord(sign):04x}" if ord(sign) < 32 or ord(sign) == 127 else sign for sign in text.replace("\\", "\\\\").replace('"', '\\"')
    )
    return f'"{escaped}"'
