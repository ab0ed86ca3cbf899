"""`moorage login`, `logout`, `whoami`: a profile for a workspace service, checked against it before it is kept."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import click

from moorage.cli.candidates import files
from moorage.cli.commands import command
from moorage.cli.session import Session
from moorage.errors import Invalid, Unauthenticated
from moorage.ids import Workspace
from moorage.specs.manifest import Manifest

if TYPE_CHECKING:
    from moorage.client.signin import Identity


@command(
    None,
    "login",
    examples=[
        "moorage login --url https://ml.example.org --token-stdin",
        "moorage login --url https://10.0.0.5:8450 --ca ca.pem --token-file token -w research",
    ],
)
@click.option("--url", metavar="URL", help="Address of the workspace service; the profile's by default.")
@click.option(
    "--ca",
    metavar="FILE",
    shell_complete=files,
    help="Authority (PEM) that signed its certificate; the profile's, else the system's, by default.",
)
@click.option("--token-stdin", is_flag=True, help="Read the token from stdin.")
@click.option(
    "--token-file", metavar="FILE", shell_complete=files, help="Read the token from a file. Without either option a terminal asks for it."
)
def login(session: Session, url: str | None, ca: str | None, token_stdin: bool, token_file: str | None) -> Manifest:
    """Sign in to a workspace service and keep its address, authority, token and workspace in the profile.

    Everything is checked before anything is kept. With one workspace within the token's reach that one is taken; else name it
    with -w, -g and --subscription. The token is never shown.
    """
    from moorage.client.profile import Profile, load, save
    from moorage.client.signin import check_service, choose_workspace, identify

    stored = load()
    url = _address(url or stored.url)
    # Another service has another authority.
    ca = _file(ca, "--ca") if ca else stored.ca if url == stored.url else ""
    check_service(url, ca)
    token = _token(token_stdin, token_file)
    identity = identify(url, token, ca)
    given = Profile(
        subscription=session.given.get("subscription") or "",
        resource_group=session.given.get("resource_group") or "",
        workspace=session.given.get("workspace_name") or "",
    )
    workspace = choose_workspace(identity.workspaces, given)
    file = save(
        {
            "url": url,
            "token": token,
            "ca": ca,
            "subscription": workspace.subscription,
            "resource_group": workspace.resource_group,
            "workspace": workspace.name,
        }
    )
    session.say(f"signed in to {url} as '{identity.name}'; written to {file}")
    return _described(url, identity, workspace)


@command(None, "logout", examples=["moorage logout"])
def logout(session: Session) -> None:
    """Remove the token from the profile; address and workspace stay. The token itself stays valid until its end."""
    from moorage.client.profile import load, save

    stored = load({name: value for name, value in _environment().items() if name != "MOORAGE_TOKEN"})
    if not stored.token:
        session.say("nobody is signed in")
        return
    session.say(f"signed out of {stored.url}; written to {save({'token': ''})}")


@command(None, "whoami", examples=["moorage whoami", "moorage whoami --query name -o tsv"])
def whoami(session: Session) -> Manifest:
    """Show who the profile's token stands for, as the service sees it, and until when."""
    from moorage.client.signin import identify

    profile = session.profile
    if not profile.url or not profile.token:
        missing = "url" if not profile.url else "token"
        raise Unauthenticated(
            f"nobody is signed in: the profile has no {missing}. Use `moorage login`, or `moorage up`.", code="NotSignedIn"
        )
    identity = identify(profile.url, profile.token, profile.ca)
    # What the profile says of the workspace, even when it is incomplete.
    named = Workspace(profile.subscription, profile.resource_group, profile.workspace)
    return _described(profile.url, identity, named) | {"token_from": profile.sources.get("token", "")}


def _described(url: str, identity: Identity, workspace: Workspace) -> Manifest:
    from moorage.clock import rfc3339

    return {
        "name": identity.name,
        "url": url,
        "roles": [{"scope": scope, "role": role} for scope, role in sorted(identity.roles.items())],
        "subscription": workspace.subscription,
        "resource_group": workspace.resource_group,
        "workspace": workspace.name,
        "expires": rfc3339(identity.expires) if identity.expires else None,
    }


def _environment() -> dict[str, str]:
    import os

    return dict(os.environ)


def _address(url: str) -> str:
    if not url:
        raise Invalid("--url is missing: give the address of the workspace service, https://HOST:PORT.", target="--url")
    wrong = Invalid(f"--url: '{url}' is no address such as https://HOST:PORT.", target="--url")
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:  # a port or a bracket that is none
        raise wrong from error
    if parts.scheme not in ("https", "http") or not parts.netloc:
        raise wrong
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"


def _file(name: str, option: str) -> str:
    path = Path(name).expanduser().absolute()
    if not path.is_file():
        raise Invalid(f"{option}: there is no file {path}.", target=option)
    return str(path)


def _token(from_stdin: bool, file: str | None) -> str:
    if from_stdin and file:
        raise Invalid("give --token-stdin or --token-file, not both.", target="--token-file")
    if file:
        try:
            token = Path(_file(file, "--token-file")).read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            raise Invalid(f"--token-file: {file} cannot be read: {error.strerror}.", target="--token-file") from error
    elif from_stdin:
        token = sys.stdin.read()
    elif sys.stdin.isatty():
        token = str(click.prompt("Token", hide_input=True, err=True))
    else:
        raise Invalid("no token is given and nobody is there to ask: give --token-stdin or --token-file FILE.", target="--token-stdin")
    token = token.strip()
    if not token or any(sign.isspace() or not sign.isascii() or not sign.isprintable() for sign in token):
        raise Invalid("what was given is no token: one line of printable characters is expected.", code="BadToken", target="token")
    return token
