"""`moorage run server`: the workspace service with the certificate of this machine's private authority, or with what the environment says."""

from __future__ import annotations

import os

import click

from moorage.cli.commands import SETTINGS, Process


@click.command(
    "server",
    cls=Process,
    examples=["moorage run server", "MOORAGE_PORT=9000 moorage run server"],
    help="Run the workspace service. Settings come from MOORAGE_* variables.",
    context_settings=SETTINGS,
)
def server() -> None:
    from moorage.cli.home import default_home
    from moorage.cli.run import log_to_stderr
    from moorage.identity.pki import ensure_authority, ensure_server_certificate
    from moorage.server.serve import run_server
    from moorage.server.settings import Settings

    log_to_stderr()
    home = default_home()
    settings = Settings(home=home.folder)
    if settings.tls_certificate is None and "MOORAGE_TLS_CERTIFICATE" not in os.environ:
        certificate = ensure_server_certificate(ensure_authority(home.pki), home.pki, "server", ["127.0.0.1", "localhost"])
        settings = settings.model_copy(update={"tls_certificate": certificate.certificate_path, "tls_key": certificate.key_path})
    run_server(settings)
