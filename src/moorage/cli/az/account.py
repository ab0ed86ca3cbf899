"""`az account`, `group`, `login`, `extension`, `provider`, `version`: what scripts do around their work, answered from the profile."""

from __future__ import annotations

from datetime import datetime

import click

from moorage.cli.commands import command, group, name_option, yes_option
from moorage.cli.session import Session
from moorage.errors import Invalid, NotFound, Unauthenticated
from moorage.specs.manifest import Manifest

account = group("account", "Show and choose the subscription; print an access token.")
groups = group("group", "Resource groups: names that workspaces lie in. They need not be made.")
parts = group("extension", "Extensions of `az`: those that are needed are built in.")
providers = group("provider", "Resource providers: those that are needed are built in.")
BUILT_IN = ("ml", "k8s-extension", "k8s-configuration", "connectedk8s")
_TENANT = "moorage"


def _subscription(session: Session, id: str) -> Manifest:
    return {
        "cloudName": "Moorage",
        "environmentName": "Moorage",
        "homeTenantId": _TENANT,
        "id": id,
        "isDefault": id == session.profile.subscription,
        "managedByTenants": [],
        "name": id,
        "state": "Enabled",
        "tenantId": _TENANT,
        "user": {"name": _user(session), "type": "user"},
    }


def _user(session: Session) -> str:
    """Whom the token names; `az` asks the service for nothing here, and neither do we."""
    import base64
    import json

    payload = [*session.profile.token.split("."), ""][1]
    try:
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    except ValueError:
        return ""
    return str(claims.get("sub", "")) if isinstance(claims, dict) else ""


def _signed_in(session: Session) -> None:
    if not session.profile.url or not session.profile.token:
        raise Unauthenticated("nobody is signed in: use `moorage login`, or `moorage up`.", code="NotSignedIn")


@command(account, "show", examples=["az account show --query id -o tsv"])
@click.option("--name", "-n", "-s", "name", metavar="ID", help="The subscription; the profile's by default.")
def show(session: Session, name: str | None) -> Manifest:
    """Show the subscription that commands are about."""
    _signed_in(session)
    id = name or session.profile.subscription
    if not id:
        raise NotFound("no subscription is chosen; use `az account set --subscription ID`.", target="--subscription")
    return _subscription(session, id)


@command(account, "list", examples=["az account list -o table"])
@click.option("--all", "every", is_flag=True, help="Accepted; all are shown.")
def list_(session: Session, every: bool) -> list[Manifest]:
    """List the subscriptions that the token reaches."""
    from moorage.client.signin import identify

    _signed_in(session)
    profile = session.profile
    reached = {each.subscription for each in identify(profile.url, profile.token, profile.ca).workspaces}
    return [_subscription(session, id) for id in sorted({*reached, *filter(None, [profile.subscription])})]


@command(account, "set", examples=["az account set --subscription 00000000-0000-0000-0000-000000000000"])
@click.option("--name", "-n", "-s", "name", metavar="ID", help="The subscription.")
def set_(session: Session, name: str | None) -> None:
    """Choose the subscription that commands are about."""
    from moorage.client.profile import save

    chosen = name or session.given.get("subscription")
    if not chosen:
        raise Invalid("--subscription is missing.", target="--subscription")
    save({"subscription": str(chosen)})


@command(account, "get-access-token", examples=["az account get-access-token --query accessToken -o tsv"])
@click.option("--resource", metavar="URL", help="Accepted; one token is for everything.")
@click.option("--scope", metavar="SCOPE", help="Accepted; one token is for everything.")
@click.option("--tenant", "-t", metavar="TENANT", help="Accepted; there is one.")
def get_access_token(session: Session, resource: str | None, scope: str | None, tenant: str | None) -> Manifest:
    """Print the profile's token for use with other programs."""
    from moorage.client.credential import expiry

    _signed_in(session)
    token = session.profile.token
    seconds = expiry(token)
    # In local time, as `az` has it.
    ends = datetime.fromtimestamp(seconds) if seconds is not None else None
    return {
        "accessToken": token,
        "expiresOn": ends.strftime("%Y-%m-%d %H:%M:%S.%f") if ends else None,
        "expires_on": seconds,
        "subscription": session.profile.subscription,
        "tenant": _TENANT,
        "tokenType": "Bearer",
    }


@command(None, "login", examples=["az login"])
@click.option("--identity", "-i", is_flag=True, help="Accepted.")
@click.option("--service-principal", is_flag=True, help="Accepted.")
@click.option("--username", "-u", metavar="NAME", help="Accepted.")
@click.option("--password", "-p", metavar="SECRET", help="Accepted, and not looked at.")
@click.option("--tenant", "-t", metavar="TENANT", help="Accepted.")
@click.option("--use-device-code", is_flag=True, help="Accepted.")
def login(session: Session, **ignored: str | bool | None) -> list[Manifest]:
    """Say who is signed in. Credentials of Azure mean nothing here: `moorage login` signs in."""
    _signed_in(session)
    session.say(f"signed in to {session.profile.url} as '{_user(session)}'; another service: `moorage login --url URL`.")
    return [_subscription(session, session.profile.subscription)]


def _group(session: Session, name: str) -> Manifest:
    return {
        "id": f"/subscriptions/{session.profile.subscription}/resourceGroups/{name}",
        "location": "local",
        "managedBy": None,
        "name": name,
        "properties": {"provisioningState": "Succeeded"},
        "tags": None,
        "type": "Microsoft.Resources/resourceGroups",
    }


def _groups(session: Session) -> list[str]:
    from moorage.client.signin import identify

    _signed_in(session)
    profile = session.profile
    found = identify(profile.url, profile.token, profile.ca).workspaces
    return sorted({each.resource_group for each in found if each.subscription == profile.subscription})


@command(groups, "create", examples=["az group create -n research -l local"])
@click.option("--name", "-n", "name", metavar="NAME", help="Name of the group.")
@click.option("--location", "-l", metavar="PLACE", help="Accepted; there is one place.")
@click.option("--tags", multiple=True, metavar="NAME=VALUE", help="Accepted, and not kept.")
def create_group(session: Session, name: str | None, location: str | None, tags: tuple[str, ...]) -> Manifest:
    """Answer as if it were made: a resource group is there as soon as a workspace names it."""
    chosen = name or session.given.get("resource_group")
    if not chosen:
        raise Invalid("--name is missing.", target="--name")
    return _group(session, str(chosen))


@command(groups, "show", examples=["az group show -n research"])
@click.option("--name", "-n", "name", metavar="NAME", help="Name of the group.")
def show_group(session: Session, name: str | None) -> Manifest:
    """Show a resource group that a workspace lies in."""
    chosen = str(name or session.profile.resource_group)
    known = _groups(session)
    if chosen.lower() not in (each.lower() for each in known):
        raise NotFound(f"no workspace lies in a resource group '{chosen}'; there are {', '.join(known) or 'none'}.", target=chosen)
    return _group(session, chosen)


@command(groups, "exists", examples=["az group exists -n research"])
@click.option("--name", "-n", "name", metavar="NAME", help="Name of the group.")
def group_exists(session: Session, name: str | None) -> bool:
    """Print whether a workspace lies in it."""
    return str(name or session.profile.resource_group).lower() in (each.lower() for each in _groups(session))


@command(groups, "list", examples=["az group list -o table"])
def list_groups(session: Session) -> list[Manifest]:
    """List the resource groups that workspaces lie in."""
    return [_group(session, each) for each in _groups(session)]


@command(groups, "delete", examples=["az group delete --name research --yes"])
@click.option("--name", "-n", "name", metavar="NAME", help="Name of the group.")
@yes_option()
@click.option("--no-wait", is_flag=True, help="Accepted.")
def delete_group(session: Session, **given: str | bool | None) -> None:
    """Refused: delete the workspaces one by one, so that nothing goes that nobody named."""
    raise Invalid(
        "a resource group is not deleted as a whole here; delete its workspaces with `az ml workspace delete`.",
        code="NotSupported",
        target="group",
    )


@command(parts, "add", examples=["az extension add -n ml -y"])
@name_option("extension")
@click.option("--upgrade", is_flag=True, help="Accepted.")
@click.option("--version", metavar="VERSION", help="Accepted.")
@yes_option()
def add_part(session: Session, name: str, **ignored: str | bool | None) -> None:
    """Accept extensions whose commands are built in; refuse others."""
    if name not in BUILT_IN:
        raise Invalid(f"the extension '{name}' is none that Moorage answers; built in are {', '.join(BUILT_IN)}.", target="--name")
    session.say(f"extension '{name}': built in")


@command(parts, "update", examples=["az extension update -n ml"])
@name_option("extension")
def update_part(session: Session, name: str) -> None:
    """As add."""
    assert add_part.callback is not None
    add_part.callback(session, name)


@command(parts, "remove", examples=["az extension remove -n azure-cli-ml"])
@name_option("extension")
def remove_part(session: Session, name: str) -> None:
    """Nothing to remove: what is built in stays, others were never there."""
    session.say(f"extension '{name}': " + ("built in, stays" if name in BUILT_IN else "is not there"))


@command(parts, "list", examples=["az extension list -o table"])
def list_parts(session: Session) -> list[Manifest]:
    """List what is built in."""
    from moorage import __version__

    return [{"name": name, "version": __version__, "extensionType": "built in", "preview": False} for name in BUILT_IN]


@command(parts, "show", examples=["az extension show -n ml"])
@name_option("extension")
def show_part(session: Session, name: str) -> Manifest:
    """Show one that is built in."""
    for each in list_parts.callback(session) if list_parts.callback else []:
        if each["name"] == name:
            return dict(each)
    raise NotFound(f"the extension '{name}' is not there; built in are {', '.join(BUILT_IN)}.", target="--name")


@command(providers, "register", examples=["az provider register -n Microsoft.KubernetesConfiguration"])
@click.option("--namespace", "--name", "-n", "name", required=True, metavar="NAME", help="Name of the provider.")
@click.option("--wait", is_flag=True, help="Accepted.")
def register_provider(session: Session, name: str, wait: bool) -> None:
    """Nothing to register."""
    session.say(f"provider '{name}': nothing to register")


@command(providers, "show", examples=["az provider show -n Microsoft.Kubernetes --query registrationState -o tsv"])
@click.option("--namespace", "--name", "-n", "name", required=True, metavar="NAME", help="Name of the provider.")
def show_provider(session: Session, name: str) -> Manifest:
    """Say that a provider is registered, which scripts wait for."""
    return {"namespace": name, "registrationState": "Registered"}


@command(None, "version", examples=["az version"])
def version(session: Session) -> Manifest:
    """Show Moorage's version; there is no other `az` below it."""
    from moorage import __version__

    return {"moorage": __version__, "extensions": dict.fromkeys(BUILT_IN, __version__)}
