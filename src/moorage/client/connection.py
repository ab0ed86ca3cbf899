"""The ARM verbs of one workspace, its lists, and its long-running operations."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from types import TracebackType
from typing import TypeVar
from urllib.parse import quote

from moorage.client.profile import Profile
from moorage.client.transport import Response, Tell, Transport, backoff, error_fields, retry_after
from moorage.clock import monotonic
from moorage.errors import Invalid, MoorageError, NotFound, Throttled, Unavailable
from moorage.ids import Workspace
from moorage.specs.manifest import Manifest

T = TypeVar("T")
_DONE = frozenset({"succeeded", "failed", "canceled"})
# How long a waiting command rides out a service that does not answer: longer than a restart takes, shorter than a coffee.
PATIENCE = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class Step:
    """What a waiting command has learned: the operation's phase, and how long it has run."""

    phase: str
    message: str
    elapsed: timedelta


Watch = Callable[[Step], None]


class Client:
    """Speaks to one workspace. A context manager.

    Args:
        profile: where and as whom.
        tell: called with one line whenever something is slow or repeated; progress for people, not a result.
        warn: called with what was asked for and is stored without being acted on.

    Raises:
        Invalid: the profile has no address or no workspace.
        Unauthenticated, Forbidden, NotFound, Conflict, Throttled, Unavailable, Invalid: from every method, as the service answered.
    """

    def __init__(self, profile: Profile, *, tell: Tell | None = None, warn: Tell | None = None, patience: timedelta = PATIENCE) -> None:
        if not profile.url:
            raise Unavailable(
                "no workspace service is configured. `moorage up` starts one on this machine; for another one, "
                "`moorage login --url https://HOST:PORT --ca FILE`.",
                code="NotConfigured",
                target="url",
            )
        self.workspace: Workspace = profile.scope()
        self.tell = tell or (lambda line: None)
        self.patience = patience
        self.profile = profile
        # Where environments are looked for in place of the workspace; "" for the workspace itself.
        self.registry = ""
        self.transport = Transport(profile.url, token=profile.token, ca=profile.ca, tell=self.tell, warn=warn)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self.transport.close()

    def path(self, *segments: str) -> str:
        """The path of something in the workspace, each segment quoted; of environments in the registry, when one is set."""
        if self.registry and segments[:1] == ("environments",):
            own = f"{self.workspace.id.rpartition('/workspaces/')[0]}/registries/{quote(self.registry, safe='')}"
            return "/".join((own, *(quote(segment, safe="") for segment in segments)))
        return self.workspace.child(*(quote(segment, safe="") for segment in segments)) if segments else self.workspace.id

    def get(self, path: str, params: Mapping[str, str] | None = None) -> Manifest:
        return _object(self.transport.request("GET", path, params=params))

    def find(self, path: str, params: Mapping[str, str] | None = None) -> Manifest | None:
        """As `get`, None when there is none."""
        try:
            return self.get(path, params)
        except NotFound:
            return None

    def list(self, path: str, params: Mapping[str, str] | None = None) -> Iterator[Manifest]:
        """Every item of a collection; pages are fetched as they are needed."""
        found = self.get(path, params)
        while True:
            yield from found.get("value") or []
            link = found.get("nextLink")
            if not link:
                return
            if not self.transport.origin(link):
                raise Invalid("the service's next page leads to another host; it is not followed.", code="BadAnswer")
            found = self.get(link)

    def put(self, path: str, body: Manifest) -> Response:
        return self.transport.request("PUT", path, json=body)

    def patch(self, path: str, body: Manifest) -> Manifest:
        return _object(self.transport.request("PATCH", path, json=body))

    def post(self, path: str, body: Manifest | None = None) -> Manifest:
        return _object(self.transport.request("POST", path, json=body or {}))

    def apply(self, path: str, body: Manifest, *, wait: bool = True, watch: Watch | None = None) -> Manifest:
        """PUT, then wait until the resource is provisioned.

        Returns:
            The resource as it stands at the end; with `wait=False` as the PUT answered it.

        Raises:
            MoorageError: with the operation's own code and message when it failed or was cancelled.
        """
        response = self.put(path, body)
        return self.settle(response, path, watch=watch) if wait else _object(response)

    def delete(self, path: str, *, params: Mapping[str, str] | None = None, wait: bool = True, watch: Watch | None = None) -> bool:
        """DELETE and wait until it is gone; whether there was something to delete."""
        response = self.transport.request("DELETE", path, params=params)
        if wait and response.status_code == 202:
            self.settle(response, None, watch=watch)
        return response.status_code != 204

    def action(self, path: str, body: Manifest | None = None, *, wait: bool = True) -> Manifest:
        """POST an action that may go on after its answer."""
        response = self.transport.request("POST", path, json=body or {})
        if wait and response.status_code == 202:
            return self.settle(response, None)
        return _object(response)

    def settle(self, response: Response, path: str | None, *, watch: Watch | None = None) -> Manifest:
        """Wait for what an answer began: by `Azure-AsyncOperation`, by `Location`, or by the resource's own state."""
        begun = monotonic()
        watch = watch or (lambda step: None)
        operation = response.headers.get("Azure-AsyncOperation")
        location = response.headers.get("Location") if response.status_code == 202 else None
        pause = retry_after(response, 1.0)
        if operation:
            while True:
                time.sleep(pause)
                answer = self._ask(operation)
                found = _object(answer)
                status = str(found.get("status", ""))
                watch(self._seen(found, status, path, begun))
                if status.lower() in _DONE:
                    _refuse_failure(found, status)
                    return self.get(path) if path else {}
                pause = retry_after(answer, 2.0)
        while location:
            time.sleep(pause)
            answer = self._ask(location)
            if answer.status_code != 202:
                return _object(answer)
            watch(_step(_object(answer), "InProgress", begun))
            pause = retry_after(answer, 2.0)
        found = _object(response)
        while path and (state := _state(found)) and state.lower() not in _DONE:
            watch(_step(found, state, begun))
            time.sleep(pause)
            answer = self._ask(path)
            found, pause = _object(answer), retry_after(answer, 2.0)
        if (state := _state(found)).lower() in ("failed", "canceled"):
            _refuse_failure(found.get("properties") or {}, state)
        return found

    def _seen(self, operation: Manifest, status: str, path: str | None, begun: float) -> Step:
        """How far it is; while it lasts the resource itself knows more than its operation: phase, and what its cluster says."""
        resource = self.patiently(lambda: self.find(path)) if path and status.lower() not in _DONE else None
        return _step(resource or operation, status, begun)

    def _ask(self, url: str) -> Response:
        """GET, riding out a service that restarts."""
        if not self.transport.origin(url):
            raise Invalid("the service's operation leads to another host; it is not followed.", code="BadAnswer")
        return self.patiently(lambda: self.transport.request("GET", url))

    def patiently(self, ask: Callable[[], T]) -> T:
        """Ask until there is an answer, at most `patience` long; says once that contact was lost, and once that it is back."""
        lost: float | None = None
        attempt = 0
        while True:
            try:
                found = ask()
            except (Unavailable, Throttled) as error:
                if lost is None:
                    lost = monotonic()
                    # Who has forgotten to start it need not wait for the end.
                    problem, _, remedy = error.message.partition(". ")
                    self.tell(
                        f"no contact with the workspace service ({problem.rstrip('.')}); trying for {describe(self.patience)}"
                        + (f". {remedy}" if remedy else "")
                    )
                if error.code == "UntrustedCertificate" or monotonic() - lost >= self.patience.total_seconds():
                    raise
                attempt += 1
                time.sleep(backoff(attempt) / 2)
            else:
                if lost is not None:
                    self.tell(f"back in contact after {describe(timedelta(seconds=monotonic() - lost))}")
                return found


def describe(span: timedelta) -> str:
    """A span for people: `3.2 s`, `4 min 10 s`, `2 h 5 min`."""
    seconds = span.total_seconds()
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes == 0:
        return f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"
    return f"{minutes} min {rest} s" if rest else f"{minutes} min"


def _object(response: Response) -> Manifest:
    if not response.content:
        return {}
    try:
        found = response.json()
    except ValueError as error:
        raise MoorageError(f"the service's answer is not JSON: {response.text[:200]}", code="BadAnswer") from error
    return found if isinstance(found, dict) else {"value": found}


def _state(resource: Manifest) -> str:
    return str((resource.get("properties") or {}).get("provisioningState") or "")


def _step(found: Manifest, status: str, begun: float) -> Step:
    properties = found.get("properties") or {}
    ours = properties.get("moorage") or {}
    phase = str(ours.get("phase") or properties.get("provisioningState") or status)
    message = str(ours.get("message") or "")
    return Step(phase, message, timedelta(seconds=monotonic() - begun))


def _refuse_failure(found: Manifest, status: str) -> None:
    if status.lower() == "succeeded":
        return
    error = found.get("error") or {}
    code, message, target, details = error_fields(error.get("error", error) if isinstance(error, dict) else {})
    raise MoorageError(message or f"the operation ended as {status}.", code=code or f"Operation{status}", target=target, details=details)
