"""`moorage sdk`: what the unmodified `azure-ai-ml` SDK needs to reach the workspace service. The SDK itself is never imported here."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import click

from moorage.cli.commands import command, group
from moorage.cli.session import Session
from moorage.errors import Invalid
from moorage.specs.manifest import Manifest

sdk = group("sdk", "Use the azure-ai-ml SDK with the workspace service.")

_METADATA = "/metadata/endpoints?api-version=2019-05-01"
# In the SDK's own words, all of them required (contract 1.1).
_CLOUD = {
    "azure_portal": "https://portal.azure.com",
    "resource_manager": "{url}/",
    "active_directory": "{url}/",
    "aml_resource_id": "https://ml.azure.com",
    "storage_endpoint": "core.local",
    "registry_discovery_endpoint": "{url}/",
}
_PROXIES = ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")


@command(
    sdk,
    "env",
    examples=[
        'eval "$(moorage sdk env)"',
        "moorage sdk env --format ps",
        "moorage sdk env --format python > connect.py",
        "moorage sdk env --format json --query variables",
    ],
)
@click.option(
    "--format",
    "format_",
    type=click.Choice(["sh", "ps", "json", "python"]),
    default="sh",
    show_default=True,
    help="Shell, PowerShell, JSON or Python.",
)
@click.option(
    "--way",
    type=click.Choice(["A", "B", "C", "D"]),
    default="A",
    show_default=True,
    help="How the SDK finds the service: A its address in a variable, B a document of clouds, C that one named in MLClient, D all in MLClient.",
)
def env(session: Session, format_: str, way: str) -> Manifest | None:
    """Print the environment variables that lead the SDK here, and a ready MLClient. No secret is printed: the credential reads the profile."""
    profile = session.profile
    if not profile.url:
        raise Invalid("no workspace service is configured: `moorage up`, or `moorage login --url URL`.", code="NotConfigured", target="url")
    workspace = profile.scope()
    variables = _variables(profile.url, profile.ca, way)
    arguments = [repr(each) for each in (workspace.subscription, workspace.resource_group, workspace.name)]
    client = f"MLClient(MoorageCredential(), {', '.join(arguments)}, enable_telemetry=False{_arguments(profile.url, way)})"
    if format_ == "json":
        return {
            "url": profile.url,
            "subscription": workspace.subscription,
            "resource_group": workspace.resource_group,
            "workspace": workspace.name,
            "variables": variables,
            "client": client,
        }
    click.echo(_text(format_, variables, client))
    return None


@command(sdk, "credential", examples=["moorage sdk credential > moorage_credential.py"])
def credential(session: Session) -> None:
    """Print the credential class as a file of its own, for an environment that has the SDK and not Moorage."""
    from moorage.client import credential as module

    click.echo(Path(module.__file__).read_text(encoding="utf-8"), nl=False)


def _variables(url: str, ca: str, way: str) -> dict[str, str]:
    from moorage.client.profile import state_folder
    from moorage.specs.addresses import is_loopback

    found = {}
    if way == "A":
        found["AZUREML_DEV_URL_MFE"] = url
    elif way in ("B", "C"):
        found["ARM_CLOUD_METADATA_URL"] = url + _METADATA
        # No part of the document of clouds. In way A the SDK asks Azure for registries, whatever is set.
        found["REGISTRY_DISCOVERY_ENDPOINT_URL"] = url + "/"
    if ca:
        found["REQUESTS_CA_BUNDLE"] = str(_bundle(Path(ca)))
    # Where the credential finds its token.
    found["MOORAGE_HOME"] = str(state_folder().absolute())
    if is_loopback(url) and any(os.environ.get(name) for name in _PROXIES):
        kept = [each for each in os.environ.get("NO_PROXY", os.environ.get("no_proxy", "")).split(",") if each]
        found["NO_PROXY"] = ",".join(dict.fromkeys([*kept, "127.0.0.1", "localhost"]))
    return found


def _bundle(ca: Path) -> Path:
    """Our authority and the system's in one file: the variable takes one, and a script speaks to others too."""
    import ssl

    from moorage.client.profile import state_folder
    from moorage.files import write_private

    try:
        text = ca.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise Invalid(f"the authority's file {ca} cannot be read: {error}.", target="ca") from error
    system = ssl.get_default_verify_paths().cafile
    if system and Path(system).is_file():
        text = f"{text.rstrip()}\n{Path(system).read_text(encoding='utf-8', errors='replace')}"
    home = state_folder()
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    file = (home / "sdk-ca.pem").absolute()
    if not file.is_file() or file.read_text(encoding="utf-8", errors="replace") != text:
        write_private(file, text)
    return file


def _arguments(url: str, way: str) -> str:
    if way == "C":
        return ", cloud='SelfHosted'"
    if way == "D":
        return f", cloud='Moorage', cloud_metadata={ {name: text.format(url=url) for name, text in _CLOUD.items()}!r}"
    return ""


def _text(format_: str, variables: dict[str, str], client: str) -> str:
    imports = "from azure.ai.ml import MLClient\nfrom moorage.client.credential import MoorageCredential"
    hint = "# Moorage is not installed beside the SDK? `moorage sdk credential > moorage_credential.py`, and import it from there."
    if format_ == "python":
        lines = "".join(f"    {name!r}: {value!r},\n" for name, value in variables.items())
        return f"import os\n\n# Before the SDK is imported: it reads them then.\nos.environ.update({{\n{lines}}})\n\n{imports}  {hint}\n\nml = {client}"
    if format_ == "ps":
        quoted = [f"$env:{name} = '{value.replace(chr(39), chr(39) * 2)}'" for name, value in variables.items()]
    else:
        quoted = [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]
    comment = "\n".join(f"# {line}" for line in (*imports.splitlines(), f"ml = {client}"))
    return "\n".join([*quoted, "# Then, in Python:", comment, hint])
