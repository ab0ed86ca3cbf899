"""Key files: 0600, made once and atomically, so that two processes that start together end up with the same key."""

from __future__ import annotations

import os
import secrets
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from moorage.errors import Invalid

_SECRET_BYTES = 32


def secret_key(path: Path) -> bytes:
    """32 random bytes kept at `path`; made there on first use."""
    key = _kept(path, lambda: secrets.token_bytes(_SECRET_BYTES))
    if len(key) != _SECRET_BYTES:
        raise Invalid(f"{path} is not a key of {_SECRET_BYTES} bytes. Restore it from a backup.", code="BadKeyFile", target=str(path))
    return key


def signing_key(path: Path) -> Ed25519PrivateKey:
    """An Ed25519 key kept at `path` as PEM; made there on first use."""
    pem = _kept(
        path,
        lambda: Ed25519PrivateKey.generate().private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ),
    )
    return _private_key(path, pem)


def kept_signing_key(path: Path) -> Ed25519PrivateKey | None:
    """The Ed25519 key at `path`, or None when there is none: a predecessor that somebody keeps for a while."""
    try:
        pem = _read(path)
    except FileNotFoundError:
        return None
    return _private_key(path, pem)


def _private_key(path: Path, pem: bytes) -> Ed25519PrivateKey:
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except ValueError as error:
        raise Invalid(f"{path} is not a private key in PEM. Restore it from a backup.", code="BadKeyFile", target=str(path)) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise Invalid(f"{path} holds a key of another kind than Ed25519.", code="BadKeyFile", target=str(path))
    return key


def _kept(path: Path, make: Callable[[], bytes]) -> bytes:
    try:
        return _read(path)
    except FileNotFoundError:
        pass
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(make())
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(temporary, path)
        except FileExistsError:
            # Another process was faster; its key is the key.
            return _read(path)
    finally:
        Path(temporary).unlink()
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return _read(path)


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        if mode & 0o077:
            raise Invalid(f"{path} can be read by others (mode {mode:o}). Run: chmod 600 {path}", code="BadKeyFile", target=str(path))
        return file.read()
