"""The `az` executable that `moorage az install` makes: the nouns of `az` that scripts about machine learning use, over Moorage's own commands.

`az ml NOUN VERB` is `moorage NOUN VERB`: the same Click commands, so that there is one behaviour. Exit codes are Moorage's (docs/how-to/migrate.md).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import click

from moorage.cli.az.words import expand
from moorage.cli.commands import SETTINGS, LazyGroup, refused_command
from moorage.cli.main import COMMANDS, run
from moorage.wire.documents.support import KINDS

_NOUNS = (
    "job",
    "model",
    "environment",
    "data",
    "component",
    "datastore",
    "compute",
    "workspace",
    "online-endpoint",
    "online-deployment",
    "batch-endpoint",
    "batch-deployment",
    "schedule",
)
_HERE = "moorage.cli.az"
# Variables of `az` and those of Moorage that mean the same.
_VARIABLES = {
    "AZURE_CORE_OUTPUT": "MOORAGE_OUTPUT",
    "AZURE_DEFAULTS_GROUP": "MOORAGE_RESOURCE_GROUP",
    "AZURE_DEFAULTS_WORKSPACE": "MOORAGE_WORKSPACE",
}

ml = LazyGroup(
    "ml",
    lazy={noun: COMMANDS[noun] for noun in _NOUNS if noun in COMMANDS},
    examples=["az ml job create --file train.yml --stream", "az ml online-endpoint create --file endpoint.yml", "az ml model list"],
    help="Train and serve: the nouns and verbs of `az ml`.",
    no_args_is_help=True,
    context_settings=SETTINGS,
)

for _noun, _reason in (
    ("registry", KINDS["registry"].replace("`moorage ", "`az ml ")),
    ("connection", KINDS["workspaceConnection"]),
    *((noun, KINDS["featureStore"]) for noun in ("feature-store", "feature-set", "feature-store-entity")),
    ("serverless-endpoint", "models are served by online endpoints of your own cluster: `az ml online-endpoint create`."),
):
    refused_command(ml, _noun, _reason)


class _Version(click.Option):
    """`az --version`, by which scripts look whether there is an `az` and its part `ml`."""

    def __init__(self) -> None:
        super().__init__(
            ["--version", "-v"], is_flag=True, expose_value=False, is_eager=True, callback=_versions, help="Show versions and exit."
        )


def _versions(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value and not context.resilient_parsing:
        from moorage import __version__
        from moorage.cli.az.account import BUILT_IN

        for part in ("moorage", *BUILT_IN):
            click.echo(f"{part:<20}{__version__}")
        context.exit()


application = LazyGroup(
    "az",
    lazy={
        "ml": (f"{_HERE}.main:ml", "Train and serve: jobs, models, endpoints."),
        "k8s-extension": (f"{_HERE}.k8s:extensions", "Install, show and remove the extension of a cluster."),
        "connectedk8s": (f"{_HERE}.k8s:connected", "Register clusters."),
        "configure": (f"{_HERE}.settings:configure", "Keep defaults: --defaults group=G workspace=W."),
        "config": (f"{_HERE}.settings:config", "Keep and show defaults one by one."),
        "account": (f"{_HERE}.account:account", "Show and choose the subscription; print an access token."),
        "login": (f"{_HERE}.account:login", "Say who is signed in; `moorage login` signs in."),
        "logout": ("moorage.cli.login:logout", "Remove the token from the profile."),
        "group": (f"{_HERE}.account:groups", "Resource groups: names that workspaces lie in."),
        "deployment": (f"{_HERE}.deployment:deployment", "Put the resources of an ARM template."),
        "extension": (f"{_HERE}.account:parts", "Extensions of `az`: those that are needed are built in."),
        "provider": (f"{_HERE}.account:providers", "Resource providers: those that are needed are built in."),
        "version": (f"{_HERE}.account:version", "Show versions."),
    },
    examples=["az configure --defaults group=research workspace=vision", "az ml job create --file train.yml --stream", "az ml model list"],
    help="""The part of `az` that Moorage answers: machine learning on your own clusters.

    Nothing here speaks to Azure. `az ml NOUN VERB` is `moorage NOUN VERB`.""",
    no_args_is_help=True,
    context_settings=SETTINGS,
    params=[_Version()],
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line of `az`; the exit code is `moorage.cli.exits.Exit`'s."""
    for theirs, ours in _VARIABLES.items():
        if os.environ.get(theirs):
            os.environ.setdefault(ours, "yaml" if os.environ[theirs] == "yamlc" else os.environ[theirs])
    # What `az` prints when nothing is said, lists on a terminal included.
    os.environ.setdefault("MOORAGE_OUTPUT", "json")
    words = expand(list(sys.argv[1:] if arguments is None else arguments))
    # As `az`: JSON is for results.
    return run(application, "az", words, plain_errors=True)
