"""`az k8s-extension` and `az connectedk8s`: the extension in a cluster, and the clusters that the workspace service knows.

`az` reaches a cluster through Azure; here the kubeconfig does (the profile's, `$KUBECONFIG`, `--kubeconfig`), as for `moorage extension`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from moorage.cli import cluster as clusters
from moorage.cli import extension as ours
from moorage.cli.commands import command, group, name_option, no_wait_option, yes_option
from moorage.cli.session import Session
from moorage.errors import Invalid
from moorage.specs.manifest import Manifest

extensions = group("k8s-extension", "Install, show and remove the extension: what makes a cluster a compute target.")
connected = group("connectedk8s", "Register clusters with the workspace service, so that their agents may connect.")
_TYPE = "Microsoft.AzureML.Kubernetes"


def _where(function: Any) -> Any:
    """The options with which `az` names a cluster, and the kubeconfig that reaches it here."""
    for option in (
        click.option("--cluster-name", "-c", default="local", metavar="NAME", help="Name under which the workspace service knows it."),
        click.option(
            "--cluster-type",
            "-t",
            type=click.Choice(["connectedClusters", "managedClusters"], case_sensitive=False),
            default="connectedClusters",
            help="Accepted: the agent dials out of clusters of either type.",
        ),
        click.option("--kubeconfig", metavar="FILE", help="Kubeconfig of the cluster. Default: the profile's, $KUBECONFIG."),
        click.option("--context", metavar="NAME", help="Context of the kubeconfig."),
    ):
        function = option(function)
    return function


def _settings(function: Any) -> Any:
    for option in (
        click.option(
            "--config", "--configuration-settings", "--config-settings", "config", multiple=True, metavar="KEY=VALUE", help="Settings."
        ),
        click.option(
            "--config-protected",
            "--configuration-protected-settings",
            "--config-protected-settings",
            "protected",
            multiple=True,
            metavar="KEY=VALUE",
            help="Settings that are shown nowhere.",
        ),
        click.option("--auto-upgrade", "--auto-upgrade-minor-version", metavar="BOOL", help="Accepted: versions change with Moorage's."),
        click.option("--release-train", metavar="NAME", help="Accepted: there is one."),
        click.option("--version", metavar="VERSION", help="Accepted: the extension has the version of this command line."),
    ):
        function = option(function)
    return function


def _install(session: Session, name: str, config: Sequence[str], protected: Sequence[str], wait: bool, where: dict[str, Any]) -> Manifest:
    installed = ours.create_extension(
        name,
        ours.pairs(config, "--config"),
        ours.pairs(protected, "--config-protected"),
        cluster_name=where["cluster_name"],
        kubeconfig=ours.chosen_kubeconfig(where["kubeconfig"]),
        context=where["context"],
        wait=wait,
        report=session.say,
    )
    return ours.shown(installed)


@command(
    extensions,
    "create",
    examples=[
        f"az k8s-extension create --name moorage --extension-type {_TYPE} --cluster-type connectedClusters \\\n"
        "      --cluster-name factory -g research --scope cluster --config enableTraining=True enableInference=True \\\n"
        "      inferenceRouterServiceType=ClusterIP allowInsecureConnections=True inferenceRouterHA=False",
    ],
    table="extensions",
)
@name_option("extension")
@click.option("--extension-type", default=_TYPE, metavar="TYPE", help=f"{_TYPE}; the only type there is.")
@click.option("--scope", type=click.Choice(["cluster"]), default="cluster", help="The extension serves the whole cluster.")
@_settings
@_where
@no_wait_option()
def create(session: Session, name: str, extension_type: str, config: Sequence[str], protected: Sequence[str], **where: Any) -> Manifest:
    """Install the extension into a cluster."""
    if extension_type.lower() != _TYPE.lower():
        raise Invalid(f"extensions of type '{extension_type}' are none of Moorage's; the only type is {_TYPE}.", target="--extension-type")
    return _install(session, name, config, protected, not where["no_wait"], where)


@command(extensions, "update", examples=["az k8s-extension update --name moorage --config inferenceRouterHA=True"], table="extensions")
@name_option("extension")
@_settings
@_where
@no_wait_option()
@yes_option()
def update(
    session: Session, name: str, config: Sequence[str], protected: Sequence[str], no_wait: bool, yes: bool, **where: Any
) -> Manifest:
    """Change settings of the extension; those that are not named stay as they are."""
    from moorage.extension import install

    kubeconfig = ours.chosen_kubeconfig(where["kubeconfig"])
    present = ours.with_cluster(lambda cluster: install.show(cluster, name), kubeconfig, where["context"])
    given = ours.pairs(config, "--config")
    named = {key.lower() for key in given}
    kept = [f"{key}={value}" for key, value in present.settings.items() if key.lower() not in named]
    return _install(session, name, [*kept, *config], protected, not no_wait, where)


@command(extensions, "show", examples=["az k8s-extension show --name moorage --query provisioningState -o tsv"], table="extensions")
@name_option("extension")
@_where
def show(session: Session, name: str, kubeconfig: str | None, context: str | None, **where: Any) -> Manifest:
    """Show the extension's state, its settings and each component."""
    from moorage.extension import install

    return ours.shown(ours.with_cluster(lambda cluster: install.show(cluster, name), ours.chosen_kubeconfig(kubeconfig), context))


@command(extensions, "list", examples=["az k8s-extension list -o table"], table="extensions")
@_where
def list_(session: Session, kubeconfig: str | None, context: str | None, **where: Any) -> list[Manifest]:
    """List the extensions of the cluster: none or one."""
    from moorage.extension import install

    return [ours.shown(each) for each in ours.with_cluster(install.list_installed, ours.chosen_kubeconfig(kubeconfig), context)]


@command(extensions, "delete", examples=["az k8s-extension delete --name moorage --yes"])
@name_option("extension")
@click.option("--force", is_flag=True, help="Remove it although jobs or deployments are still in the cluster; they end.")
@_where
@no_wait_option()
@yes_option()
def delete(session: Session, name: str, force: bool, no_wait: bool, yes: bool, **where: Any) -> None:
    """Remove the extension and everything of it from the cluster."""
    from datetime import timedelta

    from moorage.extension import install

    session.confirm(f"Remove the extension '{name}'?", yes)
    wait = None if no_wait else timedelta(minutes=2)
    ours.with_cluster(
        lambda cluster: install.delete(cluster, name, force=force, wait=wait, report=session.say),
        ours.chosen_kubeconfig(where["kubeconfig"]),
        where["context"],
    )


@command(connected, "connect", table="clusters", examples=["az connectedk8s connect -n factory -g research"])
@name_option("cluster")
@click.option("--location", "-l", metavar="PLACE", help="Accepted; there is one place.")
@click.option("--no-wait", is_flag=True, help="Accepted; a registration is done at once.")
def connect(session: Session, name: str, **ignored: str | bool | None) -> Manifest:
    """Register a cluster; installing the extension connects it."""
    assert clusters.register.callback is not None
    made: Manifest = clusters.register.callback(session, name)
    return made


for _verb in ("show", "list", "delete"):
    connected.add_command(clusters.clusters.commands[_verb])
