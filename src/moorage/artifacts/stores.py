"""Opens obstore's stores by URL, and says in our words what they fail with. obstore's own errors quote addresses, signatures in them: none is passed on."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from obstore.exceptions import NotFoundError, PermissionDeniedError, UnauthenticatedError
from obstore.store import LocalStore, ObjectStore, from_url

from moorage.errors import MoorageError, NotFound, Unavailable

# URL schemes, and what the variables of each begin with.
VARIABLES: Mapping[str, str] = {"s3": "AWS", "az": "AZURE", "abfs": "AZURE", "abfss": "AZURE", "gs": "GOOGLE"}
# obstore takes options of its HTTP client from arguments or from the environment, never from both, and two of ours have to be arguments.
_CLIENT = ("allow_http", "allow_invalid_certificates", "proxy_url", "timeout", "connect_timeout")
_CLIENT_DEFAULTS: Mapping[str, str] = {"timeout": "30s", "connect_timeout": "5s"}
_MOST_RETRIES = 10
# Linux: no space (28), quota (122), file too large (27).
_FULL = re.compile(r"os error (28|122|27)\b")
_STATUS = re.compile(r"status code: (\d{3}[ A-Za-z]*)")
_CODE = re.compile(r"<Code>(\w{1,60})</Code>|\"(?:code|reason)\": *\"(\w{1,60})\"")
_TIMED_OUT = re.compile(r"kind: Timeout|timed out")
_CERTIFICATE = re.compile(r"InvalidCertificate\(\s*(\w+)")
_NO_BUCKET = re.compile(r"NoSuchBucket|ContainerNotFound|The specified bucket does not exist")
_ADDRESS = re.compile(r"\w+://\S*|\?\S*")


def open_store(url: str, patience: timedelta) -> tuple[ObjectStore, Path | None]:
    """The store, and the folder that it is if it is one.

    Raises:
        ValueError: the URL's scheme is none of ours.
        OSError: the folder cannot be made.
        obstore.exceptions.BaseError: as obstore finds it.
    """
    parts = urlsplit(url)
    if parts.scheme == "file":
        folder = Path(unquote(parts.path))
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return LocalStore(folder), folder
    if parts.scheme not in VARIABLES:
        # obstore knows more: `memory://`, whose objects end with the process, and `https://`, which cannot be written.
        raise ValueError(parts.scheme)
    options: Any = client_options(VARIABLES[parts.scheme], os.environ)
    backoff = {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=5), "base": 2}
    retries: Any = {"max_retries": _MOST_RETRIES, "retry_timeout": patience, "backoff": backoff}
    return from_url(url, client_options=options, retry_config=retries), None


def client_options(prefix: str, environment: Mapping[str, str]) -> dict[str, str | bool]:
    """obstore's options of the HTTP client: as `PREFIX_TIMEOUT` and its like say, else ours."""
    said = {name: environment[f"{prefix}_{name.upper()}"] for name in _CLIENT if f"{prefix}_{name.upper()}" in environment}
    return {**_CLIENT_DEFAULTS, **{name: value.lower() == "true" if name.startswith("allow_") else value for name, value in said.items()}}


def translated(error: Exception) -> MoorageError:
    """Ours for one of obstore's. What the store refuses is not the caller's to mend, so that it is Unavailable, each kind with a code of its own."""
    text = str(error)
    if _NO_BUCKET.search(text):
        return Unavailable("The bucket that keeps artifacts does not exist.", code="ArtifactsBucketNotFound")
    if isinstance(error, NotFoundError | FileNotFoundError):
        return NotFound("The object is not in the artifact store.", code="BlobNotFound")
    if _FULL.search(text):
        return Unavailable(
            "The disk that keeps artifacts is full. Free some space and send it again; nothing was stored.", code="InsufficientStorage"
        )
    reason = _reason(text)
    if isinstance(error, PermissionDeniedError | UnauthenticatedError | PermissionError) or reason.startswith(("401", "403")):
        return Unavailable(f"The artifact store refuses the service access: {reason}.", code="ArtifactsForbidden")
    return Unavailable(f"The artifact store does not answer: {reason}.", code="ArtifactsUnavailable")


def _reason(text: str) -> str:
    """Status and error code, or what the library calls it, without addresses and without the store's own words, which repeat what was signed."""
    status, code = _STATUS.search(text), _CODE.search(text)
    if status:
        said = next((each for each in code.groups() if each), "") if code else ""
        return f"{status[1].strip()} ({said})" if said else status[1].strip()
    if "BadScheme" in text:
        return "its address is http:// and not https://, which AWS_ALLOW_HTTP=true (AZURE_..., GOOGLE_...) would allow"
    if certificate := _CERTIFICATE.search(text):
        return f"its certificate is not trusted ({certificate[1]}); SSL_CERT_FILE says where that of its authority is"
    if _TIMED_OUT.search(text):
        return "the request timed out"
    if "kind: Connect," in text:
        return "no connection comes about"
    first = text.partition("\n")[0]
    return _ADDRESS.sub("...", first.rpartition(" - ")[2])[:200].rstrip(". ")
