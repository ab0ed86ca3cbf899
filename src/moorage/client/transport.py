"""Requests to the workspace service: credentials, trust, retries of what may be repeated, and answers turned into errors.

Owns httpx2 for the client. Nothing of a token or a signed link ever reaches a message.
"""

from __future__ import annotations

import html
import random
import re
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import httpx2

from moorage import __version__
from moorage.errors import Conflict, Expired, Forbidden, Invalid, MoorageError, NotFound, Throttled, Unauthenticated, Unavailable
from moorage.specs.addresses import is_loopback
from moorage.specs.manifest import Manifest
from moorage.wire.warning import HEADER, read_header

Response = httpx2.Response
Tell = Callable[[str], None]
# Connecting is quick or hopeless; an answer may wait for a PUT that validates against a cluster.
TIMEOUT = httpx2.Timeout(60.0, connect=5.0)
_ATTEMPTS = 4
_REPEATABLE = frozenset({"GET", "HEAD", "PUT", "DELETE", "PATCH"})
_PASSING = frozenset({429, 502, 503, 504})
_BODY_LIMIT = 2000
# Of the blob facade, which speaks as Azure Storage does.
_XML_ERROR = re.compile(r"<Error>\s*<Code>(?P<code>[^<]*)</Code>\s*<Message>(?P<message>[^<]*)</Message>")
_CLASSES: Mapping[int, type[MoorageError]] = {
    401: Unauthenticated,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    410: Expired,
    412: Conflict,
}


class Transport:
    """One connection pool with its trust and, unless `token` is empty, a bearer token.

    Args:
        url: the service's address; https, or http on loopback.
        token: bearer token.
        ca: certificate authority file; empty for the system's.
        tell: called with a line when something is repeated or slow.
        warn: called with each warning of an answer: what was asked for and is not done.
    """

    def __init__(self, url: str, *, token: str = "", ca: str = "", tell: Tell | None = None, warn: Tell | None = None) -> None:
        parts = urlsplit(url)
        loopback = is_loopback(url)
        if parts.scheme != "https" and not (parts.scheme == "http" and loopback):
            raise Invalid(f"the service's address '{url}' must begin with https://, so that the token stays secret.", target="url")
        self.url = url.rstrip("/")
        self._tell = tell or (lambda line: None)
        self._warn = warn or (lambda message: None)
        headers = {"User-Agent": f"moorage/{__version__}", **({"Authorization": f"Bearer {token}"} if token else {})}
        self._client = httpx2.Client(
            verify=trust(ca), headers=headers, timeout=TIMEOUT, trust_env=not loopback, limits=httpx2.Limits(max_connections=16)
        )

    def close(self) -> None:
        self._client.close()

    def request(
        self,
        method: str,
        url: str,
        *,
        json: Manifest | None = None,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        content: bytes | Callable[[], Any] | None = None,
        allowed: tuple[int, ...] = (),
    ) -> Response:
        """Send, repeat what failed in passing, and return the answer.

        Args:
            url: absolute, or a path of the service.
            content: a body; a callable makes it anew for each attempt.
            allowed: error statuses to return instead of raising.

        Raises:
            MoorageError: the class of `errors` that fits the answer; Unavailable when there was none.
        """
        target = self.absolute(url)
        for attempt in range(1, _ATTEMPTS + 1):
            last = attempt == _ATTEMPTS or method not in _REPEATABLE
            try:
                body = content() if callable(content) else content
                response = self._client.request(method, target, json=json, params=params, headers=headers, content=body)
            except httpx2.ConnectError as error:
                # Nothing was sent, so that even a POST may be repeated; but a service that is down is down: say so soon.
                if attempt >= 2 or _hopeless(error):
                    raise unreachable(target, error) from error
                delay = 0.2
            except httpx2.TransportError as error:
                if last:
                    raise unreachable(target, error) from error
                delay = backoff(attempt)
            else:
                if response.status_code < 400 or response.status_code in allowed:
                    for message in read_header(response.headers.get(HEADER, "")):
                        self._warn(message)
                    return response
                if response.status_code not in _PASSING or (last and response.status_code != 429) or attempt == _ATTEMPTS:
                    raise error_of(response)
                delay = retry_after(response, backoff(attempt))
                if delay > 60:
                    raise error_of(response)
            if delay >= 2:
                self._tell(f"the service is busy or restarting; trying again in {delay:.0f} s")
            time.sleep(delay)
        raise AssertionError("the last attempt returns or raises")

    @contextmanager
    def stream(self, method: str, url: str, *, headers: Mapping[str, str] | None = None) -> Iterator[Response]:
        """An answer whose body is read as it comes; not repeated. Errors as for `request`."""
        target = self.absolute(url)
        try:
            with self._client.stream(method, target, headers=headers) as response:
                if response.status_code >= 400:
                    response.read()
                    raise error_of(response)
                yield response
        except httpx2.TransportError as error:
            raise unreachable(target, error) from error

    def absolute(self, url: str) -> str:
        return url if "://" in url else f"{self.url}{url}"

    def origin(self, url: str) -> bool:
        """Whether a link leads to this service, so that the token may go there."""
        ours, theirs = urlsplit(self.url), urlsplit(self.absolute(url))
        return (ours.scheme, ours.netloc) == (theirs.scheme, theirs.netloc)


def trust(ca: str) -> ssl.SSLContext:
    """The authorities to believe; Invalid when the file is not there or holds none."""
    try:
        context = ssl.create_default_context(cafile=ca or None)
    except (OSError, ssl.SSLError) as error:
        raise Invalid(
            f"the certificate authority '{ca}' cannot be used: {error}. Set it with `moorage config set ca=FILE`.", target="ca"
        ) from error
    # Our own small authority has no key identifier extensions that the strict mode of newer Pythons asks for.
    context.verify_flags &= ~getattr(ssl, "VERIFY_X509_STRICT", 0)
    return context


def backoff(attempt: int) -> float:
    """Seconds before another try: 0.5, 1, 2, ... with jitter, at most 15."""
    return float(min(15.0, 0.5 * 2 ** (attempt - 1)) * random.uniform(0.8, 1.2))


def retry_after(response: Response, otherwise: float) -> float:
    """Seconds that the answer asks for."""
    try:
        return max(0.0, float(response.headers["Retry-After"]))
    except (KeyError, ValueError):
        return otherwise


def _hopeless(error: Exception) -> bool:
    return "CERTIFICATE_VERIFY_FAILED" in str(error) or "Name or service not known" in str(error)


def unreachable(url: str, error: Exception) -> Unavailable:
    """The error for a request that got no answer; names the address and never its query, which may be a signature."""
    parts = urlsplit(url)
    address = f"{parts.scheme}://{parts.netloc}"
    reason = str(error).rstrip(".") or type(error).__name__
    if "CERTIFICATE_VERIFY_FAILED" in reason:
        return Unavailable(
            f"the certificate of {address} is not trusted ({reason}). Name its authority: `moorage config set ca=FILE`, or MOORAGE_CA.",
            code="UntrustedCertificate",
            target="ca",
        )
    return Unavailable(
        f"cannot reach the workspace service at {address}: {reason}. `moorage status` shows whether it runs here, `moorage up` starts it.",
        code="CannotReachService",
        target="url",
    )


def error_of(response: Response) -> MoorageError:
    """The error that an answer of 400 or more stands for."""
    status = response.status_code
    code, message, target, details = _envelope(response)
    request_id = response.headers.get("x-ms-request-id") or response.headers.get("x-request-id")
    if not message:
        message = f"the service answered {status} {response.reason_phrase}" + (f" (request {request_id})" if request_id else "") + "."
    if status == 401:
        message += " Sign in again: `moorage up` renews the token of a service on this machine; elsewhere `moorage login`."
    if status == 429:
        return Throttled(message, retry_after=timedelta(seconds=retry_after(response, 1.0)), code=code, target=target)
    if status in (502, 503, 504):
        return Unavailable(message, code=code, target=target)
    if status >= 500:
        suffix = f" (request {request_id})" if request_id else ""
        return MoorageError(f"the service failed{suffix}: {message}", code=code or "InternalError", target=target)
    if code == "InsufficientStorage":
        # Nothing that the caller could write differently.
        return MoorageError(message, code=code, target=target)
    return _CLASSES.get(status, Invalid)(message, code=code, target=target, details=details)


def _envelope(response: Response) -> tuple[str | None, str, str | None, tuple[MoorageError, ...]]:
    """Code, message, target and details of an ARM error body; a body of another form gives its text."""
    if not response.is_stream_consumed and not response.is_closed:
        response.read()
    try:
        found = response.json()
    except ValueError:
        text = response.text[:_BODY_LIMIT].strip()
        if text.startswith("<?xml") and (found := _XML_ERROR.search(text)):
            return html.unescape(found["code"]), html.unescape(found["message"]), None, ()
        return None, text, None, ()
    error = found.get("error") if isinstance(found, dict) else None
    return error_fields(error if isinstance(error, dict) else {})


def error_fields(error: Manifest) -> tuple[str | None, str, str | None, tuple[MoorageError, ...]]:
    """The parts of `{"code", "message", "target", "details"}`."""
    details = tuple(
        MoorageError(str(item.get("message", "")), code=item.get("code"), target=item.get("target"))
        for item in error.get("details") or []
        if isinstance(item, dict)
    )
    return error.get("code"), str(error.get("message") or "")[:_BODY_LIMIT], error.get("target"), details


def score(uri: str, key: str, body: bytes, *, headers: Mapping[str, str], ca: str, timeout: timedelta) -> Response:
    """One scoring request, sent once: a model's `run()` need not be repeatable. Plain http is the endpoint's own choice.

    Raises:
        Unavailable: no answer, or not within the time.
    """
    context = trust("")
    if ca:
        context.load_verify_locations(cafile=ca)
    loopback = is_loopback(uri)
    sent = {"User-Agent": f"moorage/{__version__}", "Content-Type": "application/json", "Authorization": f"Bearer {key}", **headers}
    limit = httpx2.Timeout(timeout.total_seconds(), connect=5.0)
    parts = urlsplit(uri)
    try:
        with httpx2.Client(verify=context, timeout=limit, trust_env=not loopback) as client:
            return client.post(uri, content=body, headers=sent)
    except httpx2.TransportError as error:
        reason = str(error) or type(error).__name__
        raise Unavailable(
            f"no answer from {parts.scheme}://{parts.netloc}: {reason}.", code="CannotReachEndpoint", target="scoring_uri"
        ) from error
