"""A Cluster over HTTP: any Kubernetes API that a kubeconfig or a service account reaches. lightkube reads the configuration and authenticates;
requests are our own, because its typed models drop fields they do not know and its watch neither times out nor survives a refused connection."""

from __future__ import annotations

import asyncio
import os
import random
import ssl
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx2
import orjson
import yaml
from lightkube.config import client_adapter
from lightkube.config.kubeconfig import KubeConfig, SingleConfig
from lightkube.config.models import User
from lightkube.core.exceptions import ConfigError

import moorage
from moorage.errors import Expired, Invalid, MoorageError, Throttled, Unauthenticated, Unavailable
from moorage.kube.cluster import EventType, Listing, LogOptions, PatchType, WatchEvent
from moorage.kube.kinds import POD, Kind
from moorage.kube.status import error_of
from moorage.specs.addresses import is_loopback
from moorage.specs.manifest import Manifest
from moorage.specs.mounted import mounted

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")

_APPLY = "application/apply-patch+yaml"
_PAGE = 500  # what kubectl asks for at a time
_LONGEST_BODY = 64 * 1024  # of an error
_CONNECT_SECONDS = 10.0
_ANSWER_SECONDS = 60.0  # the API server ends a request itself after this long
_SILENCE_SECONDS = 90.0  # bookmarks come about every minute; see Cluster.watch
_WATCH_SECONDS = (300, 600)  # the server ends a watch in this range; spread, so that not all come back at once
_THROTTLED_ATTEMPTS = 5
_LONGEST_THROTTLE = timedelta(seconds=10)
_WHOLE_LOG = LogOptions()
_ANOTHER = "Name another with --kubeconfig or KUBECONFIG."


def connect(kubeconfig: Path | None = None, context: str | None = None) -> RemoteCluster:
    """A cluster by kubeconfig; without one: the service account in a pod, else `$KUBECONFIG`, else `~/.kube/config`. Contacts nobody yet.

    Raises:
        Invalid: the configuration is missing, unreadable, or has no such context.
    """
    if kubeconfig is None and context is None and os.environ.get("KUBERNETES_SERVICE_HOST"):
        return in_cluster(Path(mounted(str(SERVICE_ACCOUNT), os.environ)))
    path = kubeconfig or Path(os.environ.get("KUBECONFIG") or "~/.kube/config")
    _checked(path)
    try:
        config = KubeConfig.from_file(path).get(context)
    except ConfigError as error:
        raise Invalid(f"Kubeconfig {path}: {error}. {_ANOTHER}", target="kubeconfig") from error
    except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise Invalid(f"Kubeconfig {path} is none: {error!r}. {_ANOTHER}", target="kubeconfig") from error
    except yaml.YAMLError as error:
        raise Invalid(f"Kubeconfig {path} is no YAML: {error}. {_ANOTHER}", target="kubeconfig") from error
    assert config is not None
    return _open(config)


def _checked(path: Path) -> None:
    """Refuse what lightkube would call "not found" or stumble over: a folder, an empty file, text without fields."""
    expanded = path.expanduser()
    if expanded.is_dir():
        raise Invalid(f"Kubeconfig {path} is a folder, not a file. {_ANOTHER}", target="kubeconfig")
    if not expanded.exists() and os.pathsep in str(path):
        raise Invalid(
            f"KUBECONFIG names several files ({path}), and one is read. Make one of them: kubectl config view --flatten > FILE, and --kubeconfig FILE.",
            target="kubeconfig",
        )
    if not expanded.is_file():
        return
    try:
        fields = yaml.safe_load(expanded.read_text(encoding="utf-8"))
    except OSError as error:
        raise Invalid(f"Kubeconfig {path} cannot be read: {error.strerror}. {_ANOTHER}", target="kubeconfig") from error
    except UnicodeDecodeError as error:
        raise Invalid(f"Kubeconfig {path} is not UTF-8 text. {_ANOTHER}", target="kubeconfig") from error
    except yaml.YAMLError as error:
        # The library's own words go over several lines, with a caret below the place.
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
        where = f"line {mark.line + 1}: {problem}" if mark and problem else "it cannot be parsed"
        raise Invalid(f"Kubeconfig {path} is no YAML: {where}. {_ANOTHER}", target="kubeconfig") from error
    if not isinstance(fields, dict) or not {"clusters", "contexts"} <= fields.keys():
        what = "is empty" if fields is None else "has no `clusters` and `contexts`"
        raise Invalid(f"Kubeconfig {path} {what}. {_ANOTHER}", target="kubeconfig")


def in_cluster(service_account: Path = SERVICE_ACCOUNT) -> RemoteCluster:
    """The cluster this pod runs in. The token file is read again when the token in use is refused, as it rotates."""
    try:
        config = KubeConfig.from_service_account(service_account).get()
    except (ConfigError, KeyError, OSError) as error:
        raise Invalid(f"No service account in this process: {error}. Outside of a pod, give a kubeconfig.", target="kubeconfig") from error
    assert config is not None
    return _open(config)


def _open(config: SingleConfig) -> RemoteCluster:
    if config.user is not None and config.user.exec is not None and config.user.exec.apiVersion == "client.authentication.k8s.io/v1":
        # lightkube knows the name v1beta1 only; of the answer it reads `status.token`, which is the same in both.
        config.user.exec.apiVersion = "client.authentication.k8s.io/v1beta1"
    try:
        verify = client_adapter.verify_cluster(config.cluster, config.user or User(), config.abs_file)
        auth = client_adapter.user_auth(config.user)
    except ssl.SSLError as error:
        raise Invalid(
            f"Context {config.context_name}: its certificates or key cannot be used ({error.reason or error}). Correct certificate-authority, "
            "client-certificate and client-key (or their -data) in the kubeconfig.",
            target="kubeconfig",
        ) from error.with_traceback(None)
    except (ConfigError, OSError, ValueError) as error:
        # Its frames hold lightkube's temporary files, with keys in them: without them they go at once.
        raise Invalid(f"Context {config.context_name}: {error}.", target="kubeconfig") from error.with_traceback(None)
    return RemoteCluster(
        httpx2.AsyncClient(
            base_url=config.cluster.server,
            trust_env=not is_loopback(config.cluster.server),
            verify=verify,
            auth=auth,
            timeout=httpx2.Timeout(_ANSWER_SECONDS, connect=_CONNECT_SECONDS, pool=None),
            # Every watch and followed log holds a connection of its own.
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=8, keepalive_expiry=30),
            headers={"User-Agent": f"moorage/{moorage.__version__}", "Accept": "application/json"},
        )
    )


class RemoteCluster:
    """A Kubernetes API over one HTTP client, which it closes."""

    def __init__(self, client: httpx2.AsyncClient) -> None:
        self._client = client

    async def get(self, kind: Kind, name: str, namespace: str | None = None) -> Manifest:
        return _typed(kind, await self._call("GET", _path(kind, namespace, name)))

    async def list(self, kind: Kind, namespace: str | None = None, *, labels: str | None = None, fields: str | None = None) -> Listing:
        try:
            return await self._list(kind, namespace, _selectors(labels, fields), page=_PAGE)
        except Expired:
            # The list changed so much while its pages were read that the rest is gone; in one piece that cannot happen.
            return await self._list(kind, namespace, _selectors(labels, fields), page=0)

    async def _list(self, kind: Kind, namespace: str | None, query: dict[str, str], *, page: int) -> Listing:
        items: list[Manifest] = []
        query = {**query, "limit": str(page)} if page else query
        while True:
            body = await self._call("GET", _path(kind, namespace), query=query)
            items.extend(_typed(kind, item) for item in body.get("items") or ())
            metadata = body.get("metadata") or {}
            if not metadata.get("continue"):
                return Listing(items, metadata.get("resourceVersion") or "")
            query = {**query, "continue": metadata["continue"]}

    async def watch(
        self, kind: Kind, namespace: str | None = None, *, since: str, labels: str | None = None, fields: str | None = None
    ) -> AsyncIterator[WatchEvent]:
        query = {
            **_selectors(labels, fields),
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": since,
            "timeoutSeconds": str(random.randint(*_WATCH_SECONDS)),
        }
        async with self._stream(_path(kind, namespace), query, silence=_SILENCE_SECONDS) as chunks:
            async for line in _lines(chunks):
                event = _parse(line)
                match event.get("type"):
                    case "ERROR":
                        status: Manifest = event.get("object") or {}
                        raise error_of(int(status.get("code") or 500), status)
                    case "ADDED" | "MODIFIED" | "DELETED" | "BOOKMARK" as known:
                        yield WatchEvent(EventType(known), _typed(kind, event["object"]))
                    case other:
                        raise Unavailable(f"The watch of {kind} sent an event of unknown type {other!r}.")

    async def create(self, kind: Kind, manifest: Manifest) -> Manifest:
        return _typed(kind, await self._call("POST", _path(kind, manifest["metadata"].get("namespace")), body=manifest))

    async def create_subresource(self, kind: Kind, name: str, namespace: str | None, subresource: str, body: Manifest) -> Manifest:
        """POST to a part of an object, e.g. `token` of a ServiceAccount or `eviction` of a Pod; the answer is of the body's kind."""
        return await self._call("POST", _path(kind, namespace, name, subresource), body=body)

    async def replace(self, kind: Kind, manifest: Manifest) -> Manifest:
        metadata = manifest["metadata"]
        return _typed(kind, await self._call("PUT", _path(kind, metadata.get("namespace"), metadata["name"]), body=manifest))

    async def apply(self, kind: Kind, manifest: Manifest, *, manager: str, force: bool = True) -> Manifest:
        metadata = manifest["metadata"]
        answer = await self._call(
            "PATCH",
            _path(kind, metadata.get("namespace"), metadata["name"]),
            query={"fieldManager": manager, "force": "true" if force else "false"},
            body=manifest,
            content_type=_APPLY,
        )
        return _typed(kind, answer)

    async def patch(
        self,
        kind: Kind,
        name: str,
        namespace: str | None,
        patch: Mapping[str, Any] | Sequence[Any],
        *,
        type: PatchType = PatchType.MERGE,
        subresource: str | None = None,
    ) -> Manifest:
        path = _path(kind, namespace, name, subresource)
        answer = await self._call("PATCH", path, body=patch, content_type=type.value)
        return answer if subresource == "scale" else _typed(kind, answer)

    async def delete(
        self,
        kind: Kind,
        name: str,
        namespace: str | None = None,
        *,
        propagation: str = "Background",
        grace: timedelta | None = None,
        uid: str | None = None,
    ) -> None:
        options: Manifest = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": propagation}
        if grace is not None:
            options["gracePeriodSeconds"] = int(grace.total_seconds())
        if uid is not None:
            options["preconditions"] = {"uid": uid}
        await self._call("DELETE", _path(kind, namespace, name), body=options)

    async def logs(self, namespace: str, pod: str, options: LogOptions = _WHOLE_LOG) -> AsyncIterator[bytes]:
        query = {
            "container": options.container,
            "follow": "true" if options.follow else None,
            "previous": "true" if options.previous else None,
            "timestamps": "true" if options.timestamps else None,
            "tailLines": None if options.tail is None else str(options.tail),
            "sinceSeconds": None if options.since is None else str(max(1, int(options.since.total_seconds()))),
        }
        chosen = {key: value for key, value in query.items() if value is not None}
        # A container may be silent for days; whoever follows knows from the pod's status when there is nothing more to come.
        silence = None if options.follow else _ANSWER_SECONDS
        async with self._stream(_path(POD, namespace, pod, "log"), chosen, silence=silence) as chunks:
            async for chunk in chunks:
                yield chunk

    async def version(self) -> str:
        return str((await self._call("GET", "/version")).get("gitVersion") or "")

    async def close(self) -> None:
        await self._client.aclose()

    async def _call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | Sequence[Any] | None = None,
        content_type: str = "application/json",
    ) -> Manifest:
        content = None if body is None else orjson.dumps(body)
        headers = {} if body is None else {"Content-Type": content_type}
        for attempt in range(1, _THROTTLED_ATTEMPTS + 1):
            with _transport_errors():
                response = await self._client.request(method, path, params=query, content=content, headers=headers)
            if response.is_success:
                return _parse(response.content)
            error = _error(response, response.content)
            # A throttled request was not looked at, so that repeating it is safe for every method.
            if not isinstance(error, Throttled) or attempt == _THROTTLED_ATTEMPTS or error.retry_after > _LONGEST_THROTTLE:
                raise error
            await asyncio.sleep(error.retry_after.total_seconds())
        raise AssertionError("unreachable")

    @asynccontextmanager
    async def _stream(self, path: str, query: Mapping[str, str], *, silence: float | None) -> AsyncIterator[AsyncIterator[bytes]]:
        """The body of a GET in chunks, given up when nothing comes for `silence` seconds."""
        timeout = httpx2.Timeout(silence, connect=_CONNECT_SECONDS, pool=None)
        with _transport_errors():
            async with self._client.stream("GET", path, params=query, timeout=timeout) as response:
                async with aclosing(response.aiter_bytes()) as chunks:
                    if response.is_success:
                        yield chunks
                        return
                    body = b""
                    async for chunk in chunks:
                        body += chunk
                        if len(body) > _LONGEST_BODY:
                            break
                raise _error(response, body)


def _path(kind: Kind, namespace: str | None, name: str | None = None, subresource: str | None = None) -> str:
    parts = ["apis", kind.group, kind.version] if kind.group else ["api", kind.version]
    if kind.namespaced and namespace:
        parts += ["namespaces", namespace]
    elif kind.namespaced and name is not None:
        raise ValueError(f"{kind.kind} {name} needs a namespace")
    parts += [part for part in (kind.plural, name, subresource) if part]
    return "/" + "/".join(quote(part, safe="") for part in parts)


def _selectors(labels: str | None, fields: str | None) -> dict[str, str]:
    return {key: value for key, value in (("labelSelector", labels), ("fieldSelector", fields)) if value}


def _typed(kind: Kind, manifest: Manifest) -> Manifest:
    """Kubernetes leaves apiVersion and kind out of the items of a list."""
    manifest.setdefault("apiVersion", kind.api_version)
    manifest.setdefault("kind", kind.kind)
    return manifest


def _parse(content: bytes) -> Manifest:
    try:
        parsed = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise Unavailable(f"The Kubernetes API answered with something that is no JSON: {content[:200]!r}.") from error
    if not isinstance(parsed, dict):
        raise Unavailable(f"The Kubernetes API answered with something that is no object: {content[:200]!r}.")
    return parsed


async def _lines(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    rest: list[bytes] = []  # joined once per line: a large object comes in many chunks
    async for chunk in chunks:
        *lines, tail = chunk.split(b"\n")
        for line in lines:
            whole = b"".join((*rest, line)) if rest else line
            rest.clear()
            if whole.strip():
                yield whole
        if tail:
            rest.append(tail)


def _error(response: httpx2.Response, body: bytes) -> MoorageError:
    header = response.headers.get("Retry-After", "")
    after = timedelta(seconds=int(header)) if header.isdigit() else None
    try:
        parsed = orjson.loads(body)
    except orjson.JSONDecodeError:
        parsed = None
    text = parsed if isinstance(parsed, dict) else body.decode(errors="replace")
    if response.status_code == 401:
        where = response.request.url.copy_with(raw_path=b"/")
        return Unauthenticated(
            f"The Kubernetes API at {where} does not accept the credential it was sent: it is wrong, or has ended. "
            "Renew it, or use a kubeconfig with another one."
        )
    return error_of(response.status_code, text, retry_after=after)


@contextmanager
def _transport_errors() -> Iterator[None]:
    try:
        yield
    except ConfigError as error:
        raise Unauthenticated(f"No credential for the cluster: {error}.") from error
    except httpx2.RequestError as error:
        where = error.request.url.copy_with(query=None)
        said = str(error).rstrip(".") or type(error).__name__
        remedy = (
            "Correct the authority that its certificate is checked against"
            if "CERTIFICATE_VERIFY_FAILED" in said
            else "Check the server's address, and that it is reached from here"
        )
        raise Unavailable(f"The Kubernetes API does not answer at {where}: {said}. {remedy}.") from error
