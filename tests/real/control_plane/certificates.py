"""Certificates, keys and kubeconfigs of a test control plane; the authority and server certificates come from `moorage.identity.pki`."""

from __future__ import annotations

import base64
from datetime import timedelta
from pathlib import Path

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from moorage.clock import now
from moorage.identity.pki import Authority, write_private

_LIFE = timedelta(days=365)
CONTEXT = "moorage-test"


def client_certificate(authority: Authority, folder: Path, file: str, user: str, group: str | None = None) -> None:
    """`FILE.pem` and `FILE.key`: who presents it is `user` (common name) of `group` (organization), as Kubernetes reads certificates."""
    path = folder / f"{file}.pem"
    if path.exists():
        return
    key = ec.generate_private_key(ec.SECP256R1())
    names = [x509.NameAttribute(NameOID.COMMON_NAME, user)]
    if group is not None:
        names.insert(0, x509.NameAttribute(NameOID.ORGANIZATION_NAME, group))
    moment = now()
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name(names))
        .issuer_name(authority.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(moment - timedelta(hours=1))
        .not_valid_after(moment + _LIFE)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .sign(authority.key, hashes.SHA256())
    )
    write_private(folder / f"{file}.key", _pem(key))
    write_private(path, certificate.public_bytes(serialization.Encoding.PEM))


def signing_key(path: Path) -> None:
    """The key that signs service account tokens, in the older form: only of that does Kubernetes take the public half by itself."""
    if not path.exists():
        key = ec.generate_private_key(ec.SECP256R1())
        form = serialization.PrivateFormat.TraditionalOpenSSL
        write_private(path, key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()))


def kubeconfig(path: Path, server: str, authority: Authority, folder: Path, file: str) -> None:
    """A kubeconfig that holds everything itself, so that it can be copied."""

    def inline(content: bytes) -> str:
        return base64.b64encode(content).decode()

    user = {
        "client-certificate-data": inline((folder / f"{file}.pem").read_bytes()),
        "client-key-data": inline((folder / f"{file}.key").read_bytes()),
    }
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": CONTEXT, "cluster": {"server": server, "certificate-authority-data": inline(authority.pem)}}],
        "users": [{"name": file, "user": user}],
        "contexts": [{"name": CONTEXT, "context": {"cluster": CONTEXT, "user": file, "namespace": "default"}}],
        "current-context": CONTEXT,
    }
    write_private(path, yaml.safe_dump(content, sort_keys=False).encode())


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
