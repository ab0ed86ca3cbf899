"""`moorage up`, `down`, `status`: the embedded cluster and the workspace service on this machine, extension installed, cluster attached."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click

from moorage.cli.candidates import files, folders
from moorage.cli.commands import command
from moorage.cli.home import Home, default_home
from moorage.cli.stack import (
    StackSettings,
    answers,
    check_ports,
    not_ready,
    read_settings,
    running,
    start,
    stop,
    trust,
    wait_ready,
    write_settings,
)
from moorage.cli.steps import Steps
from moorage.errors import Conflict, Invalid, NotFound, Unauthenticated
from moorage.specs.manifest import Manifest

if TYPE_CHECKING:
    from moorage.cli.session import Session
    from moorage.identity.tokens import Tokens

EXTENSION = "moorage"
CLUSTER = "local"
COMPUTE = "local"
SETTINGS = {
    "enableTraining": "True",
    "enableInference": "True",
    "inferenceRouterServiceType": "ClusterIP",
    "allowInsecureConnections": "True",
    "inferenceRouterHA": "False",
}
# The profile's token is this machine's user's own; the key that signs it lies beside it.
_TOKEN_LIFE = timedelta(days=365)
# A service that is only busy answers within this; one that has just been started refuses at once.
_BUSY = timedelta(seconds=15)
# What containers have to end in when there is no cluster that would give them the grace of their pods.
_LEFT_GRACE = timedelta(seconds=10)


@command(None, "up", examples=["moorage up", "moorage up --nodes 3", "moorage up --nodes nodes.yaml", "moorage up --tour examples/digits"])
@click.option(
    "--nodes",
    metavar="N|FILE",
    shell_complete=files,
    help="Nodes of the embedded cluster: how many, or a YAML file that declares them (docs/how-to/operate.md). Default: as before, 2 at first.",
)
@click.option("--port", type=click.IntRange(1, 65535), help="Port of the workspace service. Default: as before, 8450 at first.")
@click.option("--api-port", type=click.IntRange(1, 65535), help="Port of the embedded cluster's API. Default: as before, 6550 at first.")
@click.option(
    "--url-map",
    metavar="FILE",
    shell_complete=files,
    help="YAML or JSON that maps prefixes of web addresses to local files, for jobs without a network. Default: as before; '' for none.",
)
@click.option(
    "--image-builder",
    metavar="COMMAND",
    help="Program that makes images of environments with a build context (docs/how-to/build-images.md). Default: as before; '' for none.",
)
@click.option("--tour", metavar="FOLDER", shell_complete=folders, help="Then train, register, deploy and score the example in FOLDER.")
def up(
    session: Session, nodes: str | None, port: int | None, api_port: int | None, tour: str | None, **files: str | None
) -> Manifest | None:
    """Start an embedded Kubernetes cluster and a workspace service on this machine, or go on where `moorage down` stopped.

    The cluster gets the extension and is attached to the workspace `default` as compute target `local`. Everything lies in
    $MOORAGE_HOME (~/.moorage).
    """
    from moorage.cli.tour import check_tour, run_tour

    home = default_home()
    if tour is not None:
        check_tour(tour)
    mapped = None if files["url_map"] is None else _checked_map(files["url_map"])
    builder = None if files["image_builder"] is None else _checked_builder(files["image_builder"])
    wanted = None if nodes is None else _checked_nodes(nodes)
    steps = Steps(3 + (4 if tour else 0), quiet=session.quiet)
    home.prepare()
    with home.locked():
        before = read_settings(home)
        count, declared = (before.nodes, before.declared) if wanted is None else wanted
        chosen = before.url_map if mapped is None else mapped
        builds = before.image_builder if builder is None else builder
        settings = StackSettings(api_port or before.api_port, port or before.port, count, chosen, declared, builds)
        found = running(home)
        if len(found) == 3 and settings == before and (left := _unfinished(home, before)):
            session.say(f"Moorage runs already, but {left}; going on with that")
        elif len(found) == 3:
            if _signed_out(home, before):
                _sign_in(home, before)
                session.say(f"Moorage is running; signed in to {before.url} again")
                if settings == before and tour is None:
                    return None
            raise Conflict(
                f"Moorage is already running: cluster {before.api_url}, workspace service {before.url}. "
                "See it with 'moorage status', stop it with 'moorage down'."
            )
        if not found:
            check_ports(settings)
        with _undone_when_interrupted(session, home, begun=not found):
            home.unfinished.touch(mode=0o600)
            with steps.step("Embedded cluster and workspace service"):
                _start(home, settings)
            steps.note(f"cluster    {settings.api_url}   KUBECONFIG={home.kubeconfig}")
            steps.note(f"workspace  {settings.url}   subscription {_scope()[0]}, resource group {_scope()[1]}, workspace {_scope()[2]}")
            with steps.step(f"Extension '{EXTENSION}' in the cluster"):
                _install(home, steps)
            with steps.step(f"Compute target '{COMPUTE}'"):
                _attach()
            home.unfinished.unlink(missing_ok=True)
        if tour is not None:
            run_tour(tour, steps)
    _farewell(home, settings, steps, toured=tour is not None)
    return None


@command(None, "down", examples=["moorage down", "moorage down --purge --yes"])
@click.option("--purge", is_flag=True, help="Remove the state folder too: clusters, jobs, models, everything.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask for confirmation of --purge.")
def down(session: Session, purge: bool, yes: bool) -> Manifest | None:
    """Stop what `moorage up` started. All state stays, and `moorage up` goes on with it; with --purge every trace is removed."""
    from moorage.embedded.node.leftovers import end_containers, remove_memory

    home = default_home()
    if not home.folder.exists():
        raise NotFound(f"There is nothing to stop: {home.folder} does not exist.", target="MOORAGE_HOME")
    home.check_ours()
    if purge:
        session.confirm(f"Remove {home.folder} with all jobs, models and logs?", yes)
    home.run.mkdir(exist_ok=True)
    with home.locked():
        session.on_interrupt("The processes go on stopping; `moorage down` waits for them again.")
        stopped = stop(home)
        session.on_interrupt("")
        session.say(f"Stopped {', '.join(stopped)}." if stopped else "Nothing was running.")
        # Of a cluster that had died, or was just coming up.
        if left := end_containers(home.cluster / "nodes", timedelta(0) if purge else _LEFT_GRACE):
            session.say(f"Ended {left} container{'s' if left > 1 else ''} that the cluster could not end any more.")
        if purge:
            remove_memory(home.cluster / "nodes")
            gone = home.purge()
            session.say(f"Removed {home.folder}." if gone else f"Removed everything in {home.folder}; the folder itself cannot be removed.")
        else:
            session.say(f"State is kept in {home.folder}; 'moorage up' goes on with it.")
    return None


@command(None, "status", examples=["moorage status", "moorage status -o json"], table="processes")
def status(session: Session) -> list[Manifest]:
    """Show the processes of this machine, where they listen, and whether they are ready. Exit code 5 when something is not."""
    home = default_home()
    settings = read_settings(home)
    found = running(home)
    addresses = {"cluster": settings.api_url, "server": settings.url}
    rows: list[Manifest] = []
    for role in ("supervisor", "cluster", "server"):
        process = found.get(role)
        state = "stopped"
        if process is not None:
            state = "running"
            if role in addresses:
                state = "ready" if answers(f"{addresses[role]}/readyz", trust(home)) else "not ready"
        rows.append(
            {
                "name": role,
                "state": state,
                "pid": process.pid if process else None,
                "address": addresses.get(role, ""),
                "log": str(home.log(role)),
                **({"url_map": settings.url_map or None, "image_builder": settings.image_builder or None} if role == "server" else {}),
            }
        )
    if settings.url_map:
        session.say(f"web addresses are mapped to files by {settings.url_map}")
    if settings.image_builder:
        session.say(f"images of build contexts are made by {settings.image_builder}")
    if any(row["state"] in ("stopped", "not ready") for row in rows):
        session.exit_with(5)
    return rows


def _unfinished(home: Home, settings: StackSettings) -> str:
    """What processes that all run still lack, after one of them was started again or an `up` was cut off; empty when nothing."""
    if waiting := not_ready(home, settings, patience=_BUSY):
        return f"{' and '.join(waiting)} {'are' if len(waiting) > 1 else 'is'} not ready yet"
    return "the last 'moorage up' was cut off" if home.unfinished.exists() else ""


def _start(home: Home, settings: StackSettings) -> None:
    from moorage.identity.pki import ensure_authority

    ensure_authority(home.pki)
    _sign_in(home, settings)
    write_settings(home, settings)
    if home.process("supervisor") is None:
        start(home)
    wait_ready(home, settings)


def _sign_in(home: Home, settings: StackSettings) -> None:
    """Point the profile to this machine's service, with a new token."""
    from moorage.client.profile import save
    from moorage.identity.roles import Role

    subscription, group, workspace = _scope()
    token = _tokens(home).issue_user("local", {"/": Role.OWNER}, _TOKEN_LIFE)
    changes = {"url": settings.url, "token": token, "ca": str(home.pki / "ca.pem"), "kubeconfig": str(home.kubeconfig)}
    save(changes | {"subscription": subscription, "resource_group": group, "workspace": workspace})


def _signed_out(home: Home, settings: StackSettings) -> bool:
    """Whether the profile is for this machine's service, and its token is none that it takes: gone, or too old."""
    from moorage.client.profile import VARIABLES, load

    stored = load({name: value for name, value in os.environ.items() if name not in VARIABLES.values()})
    if stored.url not in ("", settings.url):
        return False
    try:
        _tokens(home).verify_user(stored.token)
    except Unauthenticated:
        return True
    return False


def _tokens(home: Home) -> Tokens:
    from moorage.identity.keyfiles import signing_key
    from moorage.identity.tokens import Tokens

    return Tokens(signing_key(home.server / "keys" / "signing.pem"))


def _checked_nodes(given: str) -> tuple[int, tuple[Manifest, ...]]:
    """How many nodes, and what a file declares of them; Invalid when it is neither a number nor such a file."""
    from moorage.embedded.node import declared

    if given.removeprefix("-").isdigit():
        if not 0 < int(given) <= declared.MOST:
            raise Invalid(f"--nodes: {given} is not a number from 1 to {declared.MOST}.", target="--nodes")
        return int(given), ()
    import yaml

    try:
        document = yaml.safe_load(Path(given).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise Invalid(
            f"--nodes takes a number from 1 to {declared.MOST} or a YAML file that declares nodes; {given} cannot be read: {error}.",
            target="--nodes",
        ) from error
    except yaml.YAMLError as error:
        raise Invalid(f"--nodes: {given} is no YAML: {error}.", target="--nodes") from error
    found = declared.read(document)
    return len(found), tuple(one.body for one in found)


def _checked_map(text: str) -> str:
    """The map's absolute path, once it reads well; "" takes the map away."""
    from moorage.server.webfiles import read_map

    if not text:
        return ""
    path = Path(text).expanduser().absolute()
    read_map(path)
    return str(path)


def _checked_builder(text: str) -> str:
    """The command with its program's absolute path, since the service has another folder; "" takes the builder away."""
    from moorage.server.images.builder import read_command

    return shlex.join(read_command(text, target="--image-builder"))


def _scope() -> tuple[str, str, str]:
    """The workspace that the service makes at its first start (server/settings.py)."""
    from moorage.server.settings import Settings

    fields = Settings.model_fields
    return str(fields["subscription"].default), str(fields["resource_group"].default), str(fields["workspace"].default)


def _install(home: Home, steps: Steps) -> None:
    from moorage.cli.extension import create_extension

    create_extension(EXTENSION, SETTINGS, cluster_name=CLUSTER, kubeconfig=home.kubeconfig, report=steps.note)


def _attach() -> None:
    from moorage.cli.extension import cluster_path
    from moorage.client.connection import Client
    from moorage.client.profile import load

    with Client(load()) as client:
        path, cluster = client.path("computes", COMPUTE), cluster_path(client.workspace, CLUSTER)
        wanted = {
            "location": "local",
            "properties": {"computeType": "Kubernetes", "resourceId": cluster, "properties": {"namespace": "default"}},
        }
        found = client.find(path)
        if found is None or _is_unfinished(found, cluster):
            client.apply(path, wanted if found is None else _as_attached(found))


def _is_unfinished(compute: Manifest, cluster: str) -> bool:
    """Whether an earlier `up` was cut off while it attached our cluster, or had waited in vain for its agent."""
    properties = compute.get("properties") or {}
    ours = str(properties.get("resourceId") or "").lower() == cluster.lower()
    return ours and properties.get("provisioningState") not in ("Succeeded", "Deleting")


def _as_attached(compute: Manifest) -> Manifest:
    """What the compute was attached with, of all that is shown of it."""
    properties = compute["properties"]
    asked = ("namespace", "defaultInstanceType", "allowUnsupportedVersion")
    inner = {key: properties["properties"][key] for key in asked if properties["properties"].get(key) is not None}
    kept = {key: properties[key] for key in ("computeType", "resourceId", "description") if properties.get(key) is not None}
    outer = {key: compute[key] for key in ("location", "tags", "identity") if compute.get(key) is not None}
    return {**outer, "properties": {**kept, "properties": inner}}


@contextlib.contextmanager
def _undone_when_interrupted(session: Session, home: Home, *, begun: bool) -> Iterator[None]:
    """What this `up` started is stopped again when it fails or Ctrl-C comes; state stays, and the next `up` goes on from it."""
    try:
        yield
    except BaseException:
        if begun:
            click.echo("Stopping what was started ...", err=True)
            session.on_interrupt("Interrupted while stopping: `moorage down` stops what is left.")
            stop(home)
            session.on_interrupt("Interrupted. Nothing runs, and state is kept: `moorage up` goes on with it.")
        raise


def _farewell(home: Home, settings: StackSettings, steps: Steps, *, toured: bool) -> None:
    lines = [f"Ready after {steps.total()}. Try:"]
    if shutil.which("moorage") is None:
        lines.append(f"  source {shlex.quote(str(Path(sys.executable).parent / 'activate'))}     puts moorage on the path")
    lines += [
        "  moorage compute show -n local              what your jobs run on",
        "  moorage job create -f examples/digits/train.yml --stream",
        "  moorage job list                           and what became of them",
    ]
    if toured:
        lines.append("  moorage online-endpoint get-credentials -n digits")
    lines += [
        f"  export KUBECONFIG={home.kubeconfig}; kubectl get pods -A",
        "  moorage down                               stop; state is kept",
    ]
    for line in lines:
        click.echo(line)
