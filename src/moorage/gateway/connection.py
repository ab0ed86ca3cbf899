"""The workspace as the agent reaches it: address and credential from a mounted Secret, and the four requests of the gateway protocol."""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

import httpx2
from pydantic import BaseModel, ValidationError

import moorage
from moorage.clock import now
from moorage.errors import Conflict, Forbidden, Invalid, MoorageError, NotFound, Throttled, Unauthenticated, Unavailable
from moorage.specs.addresses import is_loopback
from moorage.wire.gateway import (
    HEARTBEAT_SECONDS,
    PREFIX,
    DesiredEvent,
    ObjectKey,
    ReportBatch,
    ReportReceipt,
    TokenGrant,
    TokenRequest,
    WorkloadToken,
)

B = TypeVar("B", bound=BaseModel)

_CONNECT_SECONDS = 10.0
_ANSWER_SECONDS = 60.0
# Two heartbeats may be lost on the way before the stream counts as dead.
_SILENCE_SECONDS = 3.0 * HEARTBEAT_SECONDS
_LONGEST_LINE = 8 * 1024 * 1024  # an object is at most 1.5 MiB in Kubernetes; this is for a peer gone mad
_LONGEST_MESSAGE = 500
_CLASSES: dict[int, type[MoorageError]] = {401: Unauthenticated, 403: Forbidden, 404: NotFound, 409: Conflict}


@dataclass(frozen=True, slots=True)
class Connection:
    """Where the workspace is and who this cluster is to it.

    Args:
        url: base address of the workspace service.
        cluster: id of the registration.
        token: agent token; read again from `token_file` when the service refuses it, as Secrets are renewed in place.
        ca: PEM of the authority that signed the service's certificate; empty: those the system trusts.
    """

    url: str
    cluster: str
    token: str
    ca: str = ""
    token_file: Path | None = None


def read_connection(folder: Path) -> Connection:
    """The Secret `moorage-agent` as mounted at `folder`; Invalid when something is missing."""

    def read(name: str) -> str:
        try:
            text = (folder / name).read_text(encoding="utf-8").strip()
        except OSError as error:
            raise Invalid(f"{folder / name}: {error.strerror}. The agent needs the Secret moorage-agent mounted there.") from error
        if not text:
            raise Invalid(f"{folder / name} is empty.")
        return text

    authority = folder / "ca.crt"
    ca = authority.read_text(encoding="utf-8") if authority.is_file() else ""
    return Connection(read("url").rstrip("/"), read("cluster"), read("token"), ca.strip() and ca, folder / "token")


@dataclass(frozen=True, slots=True)
class Granted:
    """A workload's token, and how long it lives from now on (by the service's clock, so that ours may be off)."""

    token: WorkloadToken
    lifetime: timedelta


class Workspace:
    """The gateway protocol's client. Proxies come from the environment (HTTPS_PROXY, NO_PROXY)."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._base = f"{PREFIX}/{quote(connection.cluster, safe='')}"
        self._client = httpx2.AsyncClient(
            base_url=connection.url,
            trust_env=not is_loopback(connection.url),
            auth=_AgentToken(connection.token, connection.token_file),
            verify=_trust(connection),
            timeout=httpx2.Timeout(_ANSWER_SECONDS, connect=_CONNECT_SECONDS),
            headers={"User-Agent": f"moorage-agent/{moorage.__version__}"},
        )

    async def close(self) -> None:
        await self._client.aclose()

    @asynccontextmanager
    async def desired(self, since: int | None) -> AsyncIterator[AsyncIterator[DesiredEvent | None]]:
        """The stream of desired objects after revision `since`, or from a RESET on. None is a heartbeat."""
        query = {} if since is None else {"since": str(since)}
        timeout = httpx2.Timeout(_SILENCE_SECONDS, connect=_CONNECT_SECONDS)
        with self._errors():
            async with self._client.stream("GET", f"{self._base}/desired", params=query, timeout=timeout) as response:
                if not response.is_success:
                    raise _refusal(response.status_code, await response.aread())
                async with aclosing(_events(response.aiter_bytes())) as events:
                    yield events

    async def report(self, batch: ReportBatch) -> ReportReceipt:
        return _read(ReportReceipt, await self._post("reports", batch))

    async def tokens(self, keys: Sequence[ObjectKey]) -> Sequence[Granted]:
        response = await self._post("tokens", TokenRequest(keys=list(keys)))
        there = _date(response)
        return [Granted(token, token.expires - there) for token in _read(TokenGrant, response).tokens]

    async def answer(self, ask: str, content: bytes) -> None:
        await self._send(f"answers/{quote(ask, safe='')}", content, "application/octet-stream")

    async def _post(self, path: str, body: BaseModel) -> httpx2.Response:
        return await self._send(path, body.model_dump_json(by_alias=True).encode(), "application/json")

    async def _send(self, path: str, content: bytes, content_type: str) -> httpx2.Response:
        with self._errors():
            response = await self._client.post(f"{self._base}/{path}", content=content, headers={"Content-Type": content_type})
        if not response.is_success:
            raise _refusal(response.status_code, response.content)
        return response

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except httpx2.RequestError as error:
            raise Unavailable(f"The workspace does not answer at {self._connection.url}: {error or type(error).__name__}.") from error


class _AgentToken(httpx2.Auth):
    def __init__(self, token: str, file: Path | None) -> None:
        self._token = token
        self._file = file

    async def async_auth_flow(self, request: httpx2.Request) -> AsyncGenerator[httpx2.Request, httpx2.Response]:
        request.headers["Authorization"] = f"Bearer {self._token}"
        response = yield request
        if response.status_code != 401 or self._file is None or not self._file.is_file():
            return
        renewed = self._file.read_text(encoding="utf-8").strip()
        if renewed and renewed != self._token:
            self._token = renewed
            request.headers["Authorization"] = f"Bearer {renewed}"
            yield request


def _trust(connection: Connection) -> ssl.SSLContext:
    if not connection.ca:
        return httpx2.create_ssl_context()
    try:
        return ssl.create_default_context(cadata=connection.ca)
    except ssl.SSLError as error:
        raise Invalid(f"The authority given for the workspace (ca.crt) is no PEM certificate: {error}.", target="ca.crt") from error


async def _events(chunks: AsyncIterator[bytes]) -> AsyncGenerator[DesiredEvent | None, None]:
    rest = b""
    async for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            if not line.strip():
                yield None
                continue
            try:
                yield DesiredEvent.model_validate_json(line)
            except ValidationError as error:
                raise Unavailable(
                    f"The workspace sent a line that is no desired event: {error.errors(include_input=False)[0]['msg']}."
                ) from error
        if len(rest) > _LONGEST_LINE:
            raise Unavailable(f"The workspace sent a line of more than {_LONGEST_LINE} bytes.")


def _read(model: type[B], response: httpx2.Response) -> B:
    try:
        return model.model_validate_json(response.content)
    except ValidationError as error:
        raise Unavailable(f"The workspace's answer is no {model.__name__}: {error.errors(include_input=False)[0]['msg']}.") from error


def _date(response: httpx2.Response) -> datetime:
    """The service's clock."""
    try:
        return parsedate_to_datetime(response.headers["Date"])
    except (KeyError, ValueError):
        return now()


def _refusal(status: int, body: bytes) -> MoorageError:
    """What a refusal means. Invalid, for which a report is given up, only in the service's own words: a proxy's refusal may pass."""
    text = body[:_LONGEST_MESSAGE].decode(errors="replace").strip()
    message = f"The workspace refused the agent (HTTP {status}): {text or 'no reason given'}"
    if status == 429:
        return Throttled(message)
    # One that is too large for a proxy is so for ever, and in halves it may pass.
    final = status == 413 or (400 <= status < 500 and status != 408 and _is_ours(body))
    found = _CLASSES.get(status) or (Invalid if final else Unavailable)
    return found(message)


def _is_ours(body: bytes) -> bool:
    """Whether this is ARM's error envelope."""
    try:
        said = json.loads(body)
    except ValueError:
        return False
    return isinstance(said, dict) and isinstance(said.get("error"), dict) and "code" in said["error"]
