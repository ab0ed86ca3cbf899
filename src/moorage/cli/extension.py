"""`moorage extension`: into any cluster that a kubeconfig reaches, and register that cluster with the workspace service."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from moorage.cli.candidates import files
from moorage.cli.commands import command, group, name_option, no_wait_option, yes_option
from moorage.errors import Conflict, Invalid, NotFound, Unauthenticated
from moorage.ids import ClusterId, Workspace
from moorage.specs.manifest import Manifest

if TYPE_CHECKING:
    from moorage.cli.session import Session
    from moorage.client.connection import Client
    from moorage.extension.install import Installed
    from moorage.kube.cluster import Cluster

T = TypeVar("T")
extension = group("extension", "Install, show and remove the extension: what makes a cluster a compute target.")


def _cluster_options(function: Callable[..., Any]) -> Callable[..., Any]:
    function = click.option("--context", metavar="NAME", help="Context of the kubeconfig.")(function)
    return click.option(
        "--kubeconfig",
        metavar="FILE",
        shell_complete=files,
        help="Kubeconfig of the cluster. Default: the profile's, $KUBECONFIG, ~/.kube/config.",
    )(function)


@command(
    extension,
    "create",
    examples=[
        "moorage extension create --name moorage --config enableTraining=True",
        "moorage extension create --name moorage --config enableTraining=True enableInference=True \\\n"
        "      inferenceRouterServiceType=ClusterIP allowInsecureConnections=True inferenceRouterHA=False",
    ],
    table="extensions",
)
@name_option("extension")
@click.option("--config", "config", multiple=True, metavar="KEY=VALUE", help="Settings; several may follow one --config.")
@click.option("--config-protected", "protected", multiple=True, metavar="KEY=VALUE", help="Settings that are shown nowhere.")
@click.argument("more", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--cluster-name", default="local", show_default=True, help="Name under which the workspace service knows the cluster.")
@click.option(
    "--cluster-type",
    type=click.Choice(["connectedClusters", "managedClusters"]),
    default="connectedClusters",
    show_default=True,
    help="How the cluster is reached; only connectedClusters, whose agent dials out, is built.",
)
@click.option(
    "--scope", type=click.Choice(["cluster"]), default="cluster", show_default=True, help="The extension serves the whole cluster."
)
@click.option("--any-kubernetes-version", is_flag=True, help="Install outside the supported versions too.")
@_cluster_options
@no_wait_option()
def create(session: Session, name: str, config: Sequence[str], protected: Sequence[str], more: Sequence[str], **options: Any) -> Manifest:
    """Install the extension into a cluster, or change its settings.

    The cluster is registered with the workspace service; the agent that is installed dials out to it. Wrong settings are refused
    before anything is changed.
    """
    if options["cluster_type"] != "connectedClusters":
        raise Invalid(
            "--cluster-type managedClusters is not built yet: the agent always dials out. Use connectedClusters.", target="--cluster-type"
        )
    installed = create_extension(
        name,
        pairs([*config, *more], "--config"),
        pairs(protected, "--config-protected"),
        cluster_name=options["cluster_name"],
        kubeconfig=chosen_kubeconfig(options["kubeconfig"]),
        context=options["context"],
        wait=not options["no_wait"],
        any_version=options["any_kubernetes_version"],
        report=session.say,
    )
    return shown(installed)


@command(extension, "show", examples=["moorage extension show --name moorage -o yaml"], table="extensions")
@name_option("extension")
@_cluster_options
def show(session: Session, name: str, kubeconfig: str | None, context: str | None) -> Manifest:
    """Show the extension's state, its settings and each component with its own state."""
    from moorage.extension import install

    return shown(with_cluster(lambda cluster: install.show(cluster, name), chosen_kubeconfig(kubeconfig), context))


@command(extension, "list", examples=["moorage extension list"], table="extensions")
@_cluster_options
def list_(session: Session, kubeconfig: str | None, context: str | None) -> list[Manifest]:
    """List the extensions of the cluster: none or one."""
    from moorage.extension import install

    return [shown(each) for each in with_cluster(install.list_installed, chosen_kubeconfig(kubeconfig), context)]


@command(extension, "delete", examples=["moorage extension delete --name moorage --yes"])
@name_option("extension")
@click.option("--force", is_flag=True, help="Remove it although jobs or deployments are still in the cluster; they end.")
@_cluster_options
@no_wait_option()
@yes_option()
def delete(session: Session, name: str, force: bool, no_wait: bool, yes: bool, **where: Any) -> None:
    """Remove the extension and everything of it from the cluster. Instance types stay."""
    from moorage.extension import install

    session.confirm(f"Remove the extension '{name}'?", yes)
    wait = None if no_wait else timedelta(minutes=2)
    with_cluster(
        lambda cluster: install.delete(cluster, name, force=force, wait=wait, report=session.say),
        chosen_kubeconfig(where["kubeconfig"]),
        where["context"],
    )


def create_extension(
    name: str,
    config: Mapping[str, str],
    protected: Mapping[str, str] | None = None,
    *,
    cluster_name: str,
    kubeconfig: Path | None,
    report: Callable[[str], None],
    context: str | None = None,
    wait: bool = True,
    any_version: bool = False,
) -> Installed:
    """Check, register, install. Used by `extension create` and by `up` alike."""
    from moorage.client.connection import Client
    from moorage.client.profile import load
    from moorage.clock import now
    from moorage.extension import install
    from moorage.extension.manifests import Connection
    from moorage.extension.settings import check_name, parse_settings

    check_name(name)
    settings = parse_settings(config, protected)
    with Client(load()) as client:

        async def work(cluster: Cluster) -> Installed:
            present = await _present_connection(cluster)
            # Registering is blocking and short; nothing else runs on this loop.
            registration, token = register(client, cluster_name, present)
            authority = Path(client.profile.ca).read_text(encoding="utf-8") if client.profile.ca else ""
            connection = Connection(client.profile.url, registration, token, authority)
            return await install.install(
                cluster,
                name,
                settings,
                connection,
                now=now(),
                report=report,
                wait=timedelta(minutes=5) if wait else None,
                any_version=any_version,
            )

        return with_cluster(work, kubeconfig, context)


def register(client: Client, cluster_name: str, present: tuple[str, str] | None) -> tuple[str, str]:
    """The cluster's registration id and agent token; the token in use stays while the service takes it, for issuing a new one ends it."""
    path = cluster_path(client.workspace, cluster_name)
    found = client.find(path) or client.apply(path, {"location": "local", "properties": {}})
    registration = str((found.get("properties") or {}).get("registration", ""))
    if present is not None and present[0] == registration and _is_taken(client, *present):
        return present
    issued = client.post(f"{path}/issueAgentToken")
    return str(issued["registration"]), str(issued["token"])


def _is_taken(client: Client, registration: str, token: str) -> bool:
    """Whether the service takes the agent's token. Another one may have been issued since, or the service's database be of an earlier day."""
    from moorage.client.transport import Transport
    from moorage.wire.gateway import PREFIX

    agent = Transport(client.profile.url, token=token, ca=client.profile.ca)
    try:
        agent.request("POST", f"{PREFIX}/{registration}/tokens", json={"keys": []})
    except Unauthenticated:
        return False
    finally:
        agent.close()
    return True


def cluster_path(workspace: Workspace, name: str) -> str:
    return str(ClusterId(workspace.subscription, workspace.resource_group, name))


async def _present_connection(cluster: Cluster) -> tuple[str, str] | None:
    import base64

    from moorage.extension.manifests import CONNECTION_SECRET, NAMESPACE
    from moorage.kube.kinds import SECRET

    try:
        secret = await cluster.get(SECRET, CONNECTION_SECRET, NAMESPACE)
    except NotFound:
        return None
    data = {key: base64.b64decode(value).decode() for key, value in (secret.get("data") or {}).items()}
    return (data["cluster"], data["token"]) if {"cluster", "token"} <= data.keys() else None


def with_cluster(work: Callable[[Cluster], Awaitable[T]], kubeconfig: Path | None, context: str | None) -> T:
    """Run `work` on the cluster of a kubeconfig and close the connection."""
    from moorage.kube.remote import connect

    async def run() -> T:
        cluster = connect(kubeconfig, context)
        try:
            return await work(cluster)
        finally:
            await cluster.close()

    return asyncio.run(run())


def chosen_kubeconfig(option: str | None) -> Path | None:
    """The option, else the profile's (which `moorage up` writes), else None for kubectl's own rules."""
    from moorage.client.profile import load

    if option:
        return Path(option).expanduser()
    profile = load().kubeconfig
    return Path(profile).expanduser() if profile else None


def pairs(given: Sequence[str], option: str) -> dict[str, str]:
    """`key=value` words; Invalid naming the word that is none, or the key that comes twice."""
    found: dict[str, str] = {}
    for word in given:
        key, sign, value = word.partition("=")
        if not sign or not key:
            raise Invalid(f"'{word if option == '--config' else key}' is not KEY=VALUE.", target=option)
        if key in found:
            raise Conflict(f"{key} is given twice.", target=option)
        found[key] = value
    return found


def shown(installed: Installed) -> Manifest:
    return {
        "name": installed.name,
        "extensionType": "Microsoft.AzureML.Kubernetes",
        "provisioningState": installed.state,
        "message": installed.message,
        "version": installed.version,
        "configurationSettings": installed.settings,
        "components": [{"name": row.name, "kind": row.kind, "state": state, "note": row.note} for row, state in installed.components],
    }
