"""What TAB offers where something of the workspace is named: asked of the service within a deadline, and nothing at all when it does not answer.

A shell waits for this with the user's line half typed: nothing is printed, nobody is asked, and nothing is raised.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import click

from moorage.errors import MoorageError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from moorage.client.connection import Client

Ask = Callable[["Client", Mapping[str, Any]], Iterable[str]]
Place = Callable[["Client", Mapping[str, Any]], str]
Complete = Callable[[click.Context, click.Parameter, str], "list[str]"]
# Longer is felt as a shell that hangs; MOORAGE_COMPLETION_SECONDS is for services that are far away.
_SECONDS = 0.8
# More than anybody reads; a few letters more find the rest.
_MOST = 1000
# What every shell takes for one plain word, whoever named it.
_PLAIN = re.compile(r"[\w.@+-]+")
# Verbs whose --name is one that nobody has yet.
_NEW = frozenset({"create", "attach", "register"})


def offered(context: click.Context, incomplete: str, ask: Ask) -> list[str]:
    """The names that begin so, as far as the service has given them by the deadline."""
    # Before the clock starts: on a busy machine this alone may take as long as the service is given.
    importlib.import_module("moorage.client.connection")
    found: list[str] = []

    def look() -> None:
        # Without a profile, a service or the right to read there is nothing to offer.
        with contextlib.suppress(MoorageError), _client(context.params) as client:
            for name in ask(client, context.params):
                if name.startswith(incomplete) and _PLAIN.fullmatch(name):
                    found.append(name)
                if len(found) == _MOST:
                    break

    # Its own thread, and a daemon: a name server or a service that does not answer holds nobody up.
    looking = threading.Thread(target=look, daemon=True)
    looking.start()
    looking.join(_deadline())
    return list(found)


def _deadline() -> float:
    try:
        return min(60.0, max(0.0, float(os.environ["MOORAGE_COMPLETION_SECONDS"])))
    except (KeyError, ValueError):
        return _SECONDS


@contextlib.contextmanager
def _client(given: Mapping[str, Any]) -> Iterator[Client]:
    from moorage.client.connection import Client
    from moorage.client.profile import load, override

    profile = load()
    # A service without a workspace in the profile has workspaces to offer all the same.
    workspace = given.get("workspace_name") or profile.workspace or "any"
    with Client(
        override(profile, workspace=workspace, resource_group=given.get("resource_group"), subscription=given.get("subscription"))
    ) as client:
        client.registry = given.get("registry_name") or ""
        yield client


def _within(*segments: str) -> Place:
    """A collection of the workspace; a segment `{option}` stands for what that option was given as."""

    def place(client: Client, given: Mapping[str, Any]) -> str:
        path = [given.get(segment[1:-1]) if segment.startswith("{") else segment for segment in segments]
        return client.path(*(str(segment) for segment in path)) if all(path) else ""

    return place


def _workspaces(client: Client, given: Mapping[str, Any]) -> str:
    return client.workspace.id.rpartition("/")[0]


def _clusters(client: Client, given: Mapping[str, Any]) -> str:
    from moorage.ids import ClusterId

    scope = client.workspace
    return str(ClusterId(scope.subscription, scope.resource_group, "x")).rpartition("/")[0]


def _of(place: Place) -> Complete:
    def ask(client: Client, given: Mapping[str, Any]) -> Iterator[str]:
        path = place(client, given)
        return (str(item.get("name") or "") for item in (client.list(path) if path else ()))

    return lambda context, parameter, incomplete: offered(context, incomplete, ask)


def names(*segments: str) -> Complete:
    """Completion by a collection of the workspace.

    Args:
        segments: its path; `{option}` stands for what that option was given as. Nothing is offered when it was not.
    """
    return _of(_within(*segments))


workspaces: Complete = _of(_workspaces)
_NOUNS: Mapping[str, Place] = {
    "job": _within("jobs"),
    "compute": _within("computes"),
    "model": _within("models"),
    "data": _within("data"),
    "environment": _within("environments"),
    "component": _within("components"),
    "datastore": _within("datastores"),
    "schedule": _within("schedules"),
    "online-endpoint": _within("onlineEndpoints"),
    "online-deployment": _within("onlineEndpoints", "{endpoint_name}", "deployments"),
    "batch-endpoint": _within("batchEndpoints"),
    "batch-deployment": _within("batchEndpoints", "{endpoint_name}", "deployments"),
    "cluster": _clusters,
    "workspace": _workspaces,
}


def _noun(context: click.Context) -> str:
    return (context.parent.info_name if context.parent is not None else None) or ""


def existing(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """What `--name` may be: what there is of the noun; for `restore` what is archived of it, for `cancel` what has not ended."""
    place, verb = _NOUNS.get(_noun(context)), context.info_name
    # A schedule that is disabled is there, too.
    view = "ArchivedOnly" if verb == "restore" else "All" if _noun(context) == "schedule" else "ActiveOnly"
    if place is None or verb in _NEW:
        return []

    def ask(client: Client, given: Mapping[str, Any]) -> Iterator[str]:
        path = place(client, given)
        items = client.list(path, {"listViewType": view}) if path else ()
        return (str(item.get("name") or "") for item in items if verb != "cancel" or _goes_on(item))

    return offered(context, incomplete, ask)


def _goes_on(job: Mapping[str, Any]) -> bool:
    from moorage.specs.jobs import TERMINAL

    return (job.get("properties") or {}).get("status") not in TERMINAL


def versions(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """The versions of the asset that `--name` names."""
    collection = {"data": "data"}.get(_noun(context), f"{_noun(context)}s")
    return names(collection, "{name}", "versions")(context, parameter, incomplete)


def endpoints(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """The endpoints of the kind that the command is about."""
    collection = "batchEndpoints" if _noun(context).startswith("batch-") else "onlineEndpoints"
    return names(collection)(context, parameter, incomplete)


def deployments(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """The deployments of the endpoint that `--name` names."""
    collection = "batchEndpoints" if _noun(context).startswith("batch-") else "onlineEndpoints"
    return names(collection, "{name}", "deployments")(context, parameter, incomplete)


def outputs(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """The outputs of the job that `--name` names, and `default`, its logs."""

    def ask(client: Client, given: Mapping[str, Any]) -> Iterable[str]:
        if not given.get("name"):
            return ()
        job = client.get(client.path("jobs", given["name"])).get("properties") or {}
        return dict.fromkeys(("default", *(job.get("outputs") or ())))

    return offered(context, incomplete, ask)


def one_of(*words: str) -> Complete:
    """A few words that are known without asking."""
    return lambda context, parameter, incomplete: [word for word in words if word.startswith(incomplete)]


def files(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Whatever the shell itself offers for a file."""
    from click.shell_completion import CompletionItem

    return [CompletionItem(incomplete, type="file")]


def folders(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Whatever the shell itself offers for a folder."""
    from click.shell_completion import CompletionItem

    return [CompletionItem(incomplete, type="dir")]
