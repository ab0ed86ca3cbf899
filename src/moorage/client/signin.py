"""Signing in to a workspace service: is it one, does it take the token, and which workspaces does the token reach."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from moorage.client.credential import expiry
from moorage.client.profile import Profile
from moorage.client.transport import Transport
from moorage.errors import Invalid, MoorageError, NotFound, Unauthenticated, Unavailable
from moorage.ids import Workspace
from moorage.specs.manifest import Manifest


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a token stands for.

    Attributes:
        name: as the service notes it on what the user makes.
        roles: role by scope.
        workspaces: those that the roles reach.
        expires: when the token ends; None when it does not say.
    """

    name: str
    roles: dict[str, str]
    workspaces: Sequence[Workspace]
    expires: datetime | None


def check_service(url: str, ca: str) -> None:
    """Return when a workspace service answers there over a connection that can be trusted. No token is sent.

    Raises:
        Unavailable: nothing answers, or its certificate is not trusted.
        Invalid: something else than a workspace service answers.
    """
    transport = Transport(url, ca=ca)
    try:
        found = transport.request("GET", "/discovery").json()
    except Unavailable as error:
        raise _unreachable(url, ca, error) from error
    except (MoorageError, ValueError) as error:
        raise _stranger(url) from error
    finally:
        transport.close()
    if not isinstance(found, dict) or found.get("service") != "moorage":
        raise _stranger(url)


def _stranger(url: str) -> Invalid:
    return Invalid(
        f"something answers at {url}, but it is no Moorage workspace service. Give the address that `moorage status` shows as workspace there.",
        code="NotAWorkspaceService",
        target="--url",
    )


def _unreachable(url: str, ca: str, error: Unavailable) -> Unavailable:
    if error.code == "UntrustedCertificate":
        remedy = (
            f"It was not signed by the authority in {ca}: get the service's own (`pki/ca.pem` of its state folder)."
            if ca
            else "Give the file of the authority that signed it: --ca FILE."
        )
        return Unavailable(f"the certificate of {url} is not trusted. {remedy}", code=error.code, target="--ca")
    # The transport's remedy speaks of a service on this machine.
    reason = error.message.removesuffix(".").partition(". `moorage status`")[0]
    return Unavailable(f"{reason}. Check the address, and that the service runs there.", code=error.code, target="--url")


def identify(url: str, token: str, ca: str) -> Identity:
    """Ask the service who the token stands for; Unauthenticated when it does not take it."""
    transport = Transport(url, token=token, ca=ca)
    try:
        found: Manifest = transport.request("GET", "/identity/v1/me").json()
    except Unauthenticated as error:
        said = error.message.partition(" Sign in again:")[0]
        raise Unauthenticated(f"{url} does not take this token: {said}", code=error.code, target="token") from error
    finally:
        transport.close()
    ends = expiry(token)
    reached = [Workspace(each["subscription"], each["resourceGroup"], each["name"]) for each in found["workspaces"]]
    return Identity(found["name"], found["roles"], reached, datetime.fromtimestamp(ends, UTC) if ends is not None else None)


def choose_workspace(reached: Sequence[Workspace], asked: Profile) -> Workspace:
    """The workspace that the given parts of a name mean.

    Args:
        reached: those the token reaches.
        asked: its `subscription`, `resource_group` and `workspace`, where given.

    Raises:
        NotFound: none of them is meant; the message lists them.
        Invalid: several are.
    """
    meant = [
        each
        for each in reached
        if all(
            not wanted or wanted.lower() == own.lower()
            for wanted, own in (
                (asked.subscription, each.subscription),
                (asked.resource_group, each.resource_group),
                (asked.workspace, each.name),
            )
        )
    ]
    if len(meant) == 1:
        return meant[0]
    listed = "; ".join(f"--subscription {each.subscription} -g {each.resource_group} -w {each.name}" for each in (meant or reached)[:10])
    if meant:
        raise Invalid(
            f"the token reaches several workspaces; say which one: {listed}.", code="SeveralWorkspaces", target="--workspace-name"
        )
    if not reached:
        raise NotFound("the token reaches no workspace. Ask who runs the service for a role on one.", code="NoWorkspace", target="token")
    raise NotFound(f"the token reaches no such workspace; it reaches: {listed}.", code="WorkspaceNotFound", target="--workspace-name")
