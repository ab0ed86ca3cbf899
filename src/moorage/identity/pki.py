"""The private certificate authority of one installation: both services on loopback get their TLS certificates from it.

Everything lies in one folder as PEM; keys are 0600 and written atomically, so that a kill leaves either the old pair or the new one. Certificates
renew themselves when asked for close to their end.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from moorage.clock import Clock, now
from moorage.errors import Unavailable
from moorage.files import write_private, write_public

_AUTHORITY_LIFE = timedelta(days=3650)
# Apple's and Chromium's limit for server certificates is 398 days (825 for private authorities).
_SERVER_LIFE = timedelta(days=397)
_RENEW_BEFORE = timedelta(days=30)
# A laptop's clock may have been a little ahead when the certificate was made.
_BACKDATED = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Authority:
    """A certificate authority: where its certificate lies, and what signs."""

    certificate_path: Path
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)


@dataclass(frozen=True, slots=True)
class ServerCertificate:
    """Paths of a server's certificate and key, as uvicorn and ssl want them."""

    certificate_path: Path
    key_path: Path


def ensure_authority(folder: Path, *, clock: Clock = now) -> Authority:
    """The authority in `folder` (`ca.pem`, `ca.key`), made when there is none or its end is near. Unavailable when the files do not fit together."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    certificate_path, key_path = folder / "ca.pem", folder / "ca.key"
    if certificate_path.exists() and key_path.exists():
        authority = _read_authority(certificate_path, key_path)
        if authority.certificate.not_valid_after_utc - clock() > _RENEW_BEFORE:
            return authority
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Moorage private authority")])
    moment = clock()
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(moment - _BACKDATED)
        .not_valid_after(moment + _AUTHORITY_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    # The key first: a certificate without its key would be taken for damage, a key without certificate is simply replaced.
    certificate_path.unlink(missing_ok=True)
    write_private(key_path, _key_pem(key))
    write_public(certificate_path, certificate.public_bytes(serialization.Encoding.PEM))
    return Authority(certificate_path, certificate, key)


def ensure_server_certificate(
    authority: Authority, folder: Path, name: str, hosts: Sequence[str], *, clock: Clock = now
) -> ServerCertificate:
    """A server certificate `NAME.pem` (with its chain) and `NAME.key` in `folder` for these host names and addresses.

    The present one is kept while it is of this authority, names exactly these hosts and lasts another month.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    paths = ServerCertificate(folder / f"{name}.pem", folder / f"{name}.key")
    if paths.certificate_path.exists() and paths.key_path.exists() and _still_good(paths, authority, hosts, clock()):
        return paths
    key = ec.generate_private_key(ec.SECP256R1())
    moment = clock()
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(authority.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(moment - _BACKDATED)
        .not_valid_after(min(moment + _SERVER_LIFE, authority.certificate.not_valid_after_utc))
        .add_extension(x509.SubjectAlternativeName(_alternative_names(hosts)), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key()), critical=False)
        .sign(authority.key, hashes.SHA256())
    )
    paths.certificate_path.unlink(missing_ok=True)
    write_private(paths.key_path, _key_pem(key))
    write_public(paths.certificate_path, certificate.public_bytes(serialization.Encoding.PEM) + authority.pem)
    return paths


def _read_authority(certificate_path: Path, key_path: Path) -> Authority:
    key = _read_key(key_path)
    certificate = _read_certificate(certificate_path)
    if certificate.public_key() != key.public_key():
        raise Unavailable(
            f"{certificate_path} and {key_path} do not belong together; remove both to make a new authority", target=str(key_path)
        )
    return Authority(certificate_path, certificate, key)


def _read_certificate(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except ValueError as error:
        raise Unavailable(f"{path} is not a PEM certificate; remove it to have a new one made", target=str(path)) from error


def _read_key(path: Path) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (ValueError, TypeError) as error:
        raise Unavailable(f"{path} is not an unencrypted PEM private key; remove it to have a new one made", target=str(path)) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise Unavailable(f"{path} is not an elliptic-curve key; remove it to have a new one made", target=str(path))
    return key


def _still_good(paths: ServerCertificate, authority: Authority, hosts: Sequence[str], moment: datetime) -> bool:
    try:
        certificate, key = _read_certificate(paths.certificate_path), _read_key(paths.key_path)
        certificate.verify_directly_issued_by(authority.certificate)
    except (Unavailable, InvalidSignature, ValueError, TypeError):
        # Whatever is wrong with it, a new one is the remedy, and nothing else depends on the old.
        return False
    named = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return (
        certificate.public_key() == key.public_key()
        and set(named) == set(_alternative_names(hosts))
        and certificate.not_valid_after_utc - moment > _RENEW_BEFORE
    )


def _alternative_names(hosts: Sequence[str]) -> list[x509.GeneralName]:
    names: list[x509.GeneralName] = []
    for host in hosts:
        try:
            names.append(x509.IPAddress(ipaddress.ip_address(host)))
        except ValueError:
            names.append(x509.DNSName(host))
    return names


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
