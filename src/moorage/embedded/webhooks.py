"""Admission webhooks: which of the configured ones a write concerns, the AdmissionReview each is sent, and what its answer does to the write.

As apiserver/pkg/admission/plugin/webhook does it, but for match conditions, which the validation refuses.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import ssl
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx2
import orjson

from moorage.embedded.metadata import new_uid
from moorage.embedded.node.proxy import ADDRESS_ANNOTATION
from moorage.embedded.objects import ObjectStore
from moorage.embedded.patch import json_patch
from moorage.embedded.selectors import from_label_selector
from moorage.embedded.storage import Key
from moorage.errors import Invalid, MoorageError
from moorage.specs.manifest import Manifest

if TYPE_CHECKING:
    from moorage.embedded.registry import Target, Writer

GROUP = "admissionregistration.k8s.io"
MUTATING, VALIDATING = (GROUP, "mutatingwebhookconfigurations"), (GROUP, "validatingwebhookconfigurations")
_SILENT = ("None", "NoneOnDryRun")
_ANSWER_LIMIT = 3 * 1024 * 1024


class Refused(MoorageError):
    """A webhook's no, with the HTTP code and reason that it chose; `statuses` catches it."""

    def __init__(self, message: str, *, status: int, reason: str) -> None:
        super().__init__(message, code=reason or "Refused")
        self.status = status
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Change:
    """A write on its way: CREATE, UPDATE or DELETE of `target`, by `writer`."""

    operation: str
    target: Target
    before: Manifest | None
    after: Manifest | None
    writer: Writer


class Webhooks:
    """The configured webhooks of one store."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    @property
    def active(self) -> bool:
        """Whether there is any: without one a write never waits."""
        return bool(self._store.count(MUTATING) or self._store.count(VALIDATING))

    async def mutate(self, change: Change) -> Manifest:
        """The new object as the mutating webhooks leave it, each having seen what those before it did."""
        assert change.after is not None
        after, seen = change.after, {}
        for hook in self._concerned(MUTATING, change):
            after = await self._mutated(hook, change, after)
            seen[hook["name"]] = after
        for hook in self._concerned(MUTATING, change):
            # One that wants to is asked once more when others have changed what it left.
            if hook.get("reinvocationPolicy") == "IfNeeded" and seen.get(hook["name"]) != after:
                after = await self._mutated(hook, change, after)
        return after

    async def validate(self, change: Change) -> None:
        """Raise Refused when a validating webhook says no."""
        for hook in self._concerned(VALIDATING, change):
            await self._ask(hook, change, change.after)

    async def _mutated(self, hook: Manifest, change: Change, after: Manifest) -> Manifest:
        answer = await self._ask(hook, change, after)
        if not answer.get("patch"):
            return after
        try:
            patched = json_patch(after, orjson.loads(base64.b64decode(answer["patch"])))
        except (binascii.Error, ValueError, Invalid) as error:
            raise _internal(f'failed calling webhook "{hook["name"]}": its patch cannot be applied: {error}') from error
        if answer.get("patchType") != "JSONPatch" or not isinstance(patched, dict):
            raise _internal(f'failed calling webhook "{hook["name"]}": webhook returned response.patch but not response.patchType')
        return patched

    # Which.

    def _concerned(self, storage: tuple[str, str], change: Change) -> Iterator[Manifest]:
        if change.target.resource.kind.group == GROUP:
            return  # a webhook that refuses its own removal could never be removed
        for entry in sorted(self._store.list(storage), key=lambda entry: entry.key.name):
            for hook in entry.manifest().get("webhooks") or ():
                any_version = hook.get("matchPolicy") == "Equivalent"
                if any(_matches(rule, change, any_version) for rule in hook.get("rules") or ()) and self._selects(hook, change):
                    yield hook

    def _selects(self, hook: Manifest, change: Change) -> bool:
        found = [one for one in (change.after, change.before) if one is not None]
        if not any(_labelled(hook.get("objectSelector"), one) for one in found):
            return False
        target = change.target
        if target.resource.storage == ("", "namespaces"):
            return _labelled(hook.get("namespaceSelector"), found[0])
        if not target.resource.kind.namespaced:
            return True
        namespace = self._store.latest(Key("", "namespaces", "", target.namespace))
        return namespace is None or _labelled(hook.get("namespaceSelector"), namespace.manifest())

    # Asking.

    async def _ask(self, hook: Manifest, change: Change, after: Manifest | None) -> Manifest:
        """The webhook's `response`, allowed; Refused when it is not, or when it cannot be had and the failure policy says so."""
        name = hook["name"]
        if change.writer.dry_run and hook.get("sideEffects") not in _SILENT:
            raise Invalid(f'admission webhook "{name}" does not support dry run', code="BadRequest")
        review = _review(change, after)
        try:
            response = await self._call(hook, review)
        except (httpx2.HTTPError, OSError, ValueError, KeyError, Invalid) as error:
            if hook.get("failurePolicy") == "Ignore":
                return {}
            words = str(error) or type(error).__name__
            raise _internal(f'failed calling webhook "{name}": failed to call webhook: {words}') from error
        change.writer.warnings.extend(str(text).replace("\\", "\\\\").replace('"', '\\"') for text in response.get("warnings") or ())
        if not response.get("allowed"):
            raise _denied(name, response.get("status") or {})
        return response

    async def _call(self, hook: Manifest, review: Manifest) -> Manifest:
        config = hook["clientConfig"]
        url, host = self._address(config)
        seconds = float(hook.get("timeoutSeconds") or 10)
        said = await _posted(url, host, _trust(config.get("caBundle") or ""), seconds, orjson.dumps(review))
        response = said.get("response") if isinstance(said, dict) else None
        if not isinstance(response, dict):
            raise ValueError("webhook response has no response")
        if response.get("uid") != review["request"]["uid"]:
            raise ValueError(f"expected response.uid={review['request']['uid']!r}, got {response.get('uid')!r}")
        return response

    def _address(self, config: Manifest) -> tuple[str, str]:
        """Where to post, and the name that the certificate has to be for."""
        if url := config.get("url"):
            return str(url), urlsplit(url).netloc
        wanted = config["service"]
        namespace, name, port = wanted["namespace"], wanted["name"], int(wanted.get("port") or 443)
        found = self._store.get(Key("", "services", namespace, name))
        if found is None:
            raise ValueError(f'service "{name}" not found')
        service = found.manifest()
        ports = (service.get("spec") or {}).get("ports") or []
        if port not in [one.get("port") for one in ports]:
            raise ValueError(f'no service port {port} found for service "{name}"')
        # Below 1024 the cluster may have to listen elsewhere, which it says of the first port.
        given = (service["metadata"].get("annotations") or {}).get(ADDRESS_ANNOTATION) if ports[0].get("port") == port else None
        place = given or f"{service['spec']['clusterIP']}:{port}"
        return f"https://{place}/{str(wanted.get('path') or '').lstrip('/')}", f"{name}.{namespace}.svc:{port}"


async def _posted(url: str, host: str, context: ssl.SSLContext, seconds: float, body: bytes) -> Any:
    """The JSON that the webhook answers, in that many seconds from first to last: it must neither hold a write up nor fill the memory."""
    # No compression: what a few bytes unpack to is known only when it is too late.
    headers = {"content-type": "application/json", "accept": "application/json", "accept-encoding": "identity", "host": host}
    answer = bytearray()
    try:
        async with (
            asyncio.timeout(seconds),
            httpx2.AsyncClient(verify=context, timeout=None, trust_env=False) as client,  # that one clock is enough
            client.stream(
                "POST",
                url,
                params={"timeout": f"{int(seconds)}s"},
                content=body,
                headers=headers,
                extensions={"sni_hostname": urlsplit(f"//{host}").hostname or ""},
            ) as response,
        ):
            response.raise_for_status()
            async for piece in response.aiter_raw():
                answer += piece
                if len(answer) > _ANSWER_LIMIT:
                    raise ValueError(f"the answer is longer than {_ANSWER_LIMIT} bytes")
    except TimeoutError as late:
        raise ValueError(f"no whole answer within {seconds:g} s") from late
    return orjson.loads(answer)


def _matches(rule: Mapping[str, Any], change: Change, any_version: bool) -> bool:
    target = change.target
    kind = target.resource.kind
    shown = f"{kind.plural}/{target.subresource}" if target.subresource else kind.plural
    scope = "Namespaced" if kind.namespaced and target.resource.storage != ("", "namespaces") else "Cluster"
    return (
        _any(rule.get("operations"), change.operation)
        and _any(rule.get("apiGroups"), kind.group)
        and (any_version or _any(rule.get("apiVersions"), kind.version))
        and rule.get("scope", "*") in ("*", scope)
        and any(_names(one, kind.plural, target.subresource, shown) for one in rule.get("resources") or ())
    )


def _any(choices: Sequence[str] | None, value: str) -> bool:
    return choices is not None and ("*" in choices or value in choices)


def _names(pattern: str, plural: str, subresource: str, shown: str) -> bool:
    if "/" not in pattern:
        return not subresource and pattern in ("*", plural)
    one, _, other = pattern.partition("/")
    return (one in ("*", plural) and other in ("*", subresource)) or pattern == shown


def _labelled(selector: Mapping[str, Any] | None, manifest: Manifest) -> bool:
    labels = manifest["metadata"].get("labels") or {}
    return all(term.matches(labels) for term in from_label_selector(selector or {}))


def _review(change: Change, after: Manifest | None) -> Manifest:
    target, writer = change.target, change.writer
    kind = target.resource.kind
    which = {"group": kind.group, "version": kind.version, "kind": kind.kind}
    what = {"group": kind.group, "version": kind.version, "resource": kind.plural}
    request: Manifest = {
        "uid": new_uid(),
        "kind": which,
        "resource": what,
        "requestKind": which,
        "requestResource": what,
        "name": target.name,
        "operation": change.operation,
        "userInfo": {"username": writer.user, "groups": list(writer.groups)},
        "object": after if change.operation != "DELETE" else None,
        "oldObject": change.before,
        "dryRun": writer.dry_run,
        "options": {"kind": f"{change.operation.capitalize()}Options", "apiVersion": "meta.k8s.io/v1"},
    }
    if target.subresource:
        request |= {"subResource": target.subresource, "requestSubResource": target.subresource}
    if target.namespace:
        request["namespace"] = target.namespace
    return {"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "request": request}


def _denied(name: str, said: Mapping[str, Any]) -> Refused:
    head = f'admission webhook "{name}" denied the request'
    words = said.get("message") or said.get("reason")
    return Refused(
        f"{head}: {words}" if words else f"{head} without explanation",
        status=max(400, int(said.get("code") or 0)),
        reason=str(said.get("reason") or ""),
    )


def _internal(message: str) -> Refused:
    return Refused(f"Internal error occurred: {message}", status=500, reason="InternalError")


@lru_cache(maxsize=32)
def _trust(bundle: str) -> ssl.SSLContext:
    return ssl.create_default_context(cadata=base64.b64decode(bundle).decode("ascii") if bundle else None)


# As objects.


def complete(configuration: Manifest) -> None:
    """Defaults of a webhook configuration, in place (pkg/apis/admissionregistration/v1/defaults.go)."""
    mutating = configuration.get("kind") == "MutatingWebhookConfiguration"
    for hook in configuration.get("webhooks") or ():
        for name, value in (("failurePolicy", "Fail"), ("matchPolicy", "Equivalent"), ("timeoutSeconds", 10)):
            hook.setdefault(name, value)
        hook.setdefault("namespaceSelector", {})
        hook.setdefault("objectSelector", {})
        if mutating:
            hook.setdefault("reinvocationPolicy", "Never")
        for rule in hook.get("rules") or ():
            rule.setdefault("scope", "*")
        if (service := (hook.get("clientConfig") or {}).get("service")) is not None:
            service.setdefault("port", 443)


def invalid_fields(configuration: Manifest) -> Iterator[Invalid]:
    """What is wrong with a webhook configuration, and what of it this cluster does not do."""
    seen: set[str] = set()
    for index, hook in enumerate(configuration.get("webhooks") or ()):
        path, name = f"webhooks[{index}]", str(hook.get("name") or "")
        if name.count(".") < 2:
            words = "should be a domain with at least three segments separated by dots"
            yield Invalid(f'Invalid value: "{name}": {words}', code="FieldValueInvalid", target=f"{path}.name")
        if name in seen:
            yield Invalid(f'Duplicate value: "{name}"', code="FieldValueDuplicate", target=f"{path}.name")
        seen.add(name)
        config = hook.get("clientConfig") or {}
        if (config.get("url") is None) == (config.get("service") is None):
            yield Invalid(
                "Required value: exactly one of url or service is required", code="FieldValueRequired", target=f"{path}.clientConfig"
            )
        elif config.get("url") is not None and urlsplit(str(config["url"])).scheme != "https":
            words = "'https' is the only allowed URL scheme; desired format: https://host[/path]"
            yield Invalid(
                f'Invalid value: "{urlsplit(str(config["url"])).scheme}": {words}',
                code="FieldValueInvalid",
                target=f"{path}.clientConfig.url",
            )
        if hook.get("sideEffects") not in _SILENT:
            shown = (
                f'Unsupported value: "{hook["sideEffects"]}": supported values: '
                if hook.get("sideEffects")
                else "Required value: must specify one of "
            )
            yield Invalid(f'{shown}"None", "NoneOnDryRun"', code="FieldValueNotSupported", target=f"{path}.sideEffects")
        if "v1" not in (hook.get("admissionReviewVersions") or ()):
            words = "must include at least one of v1, v1beta1; this cluster sends v1"
            yield Invalid(f"Required value: {words}", code="FieldValueRequired", target=f"{path}.admissionReviewVersions")
        if hook.get("matchConditions"):
            words = "Forbidden: not supported by the embedded cluster (docs/limits.md)"
            yield Invalid(words, code="FieldValueForbidden", target=f"{path}.matchConditions")
        if not 1 <= int(hook.get("timeoutSeconds") or 0) <= 30:
            words = "the timeout value must be between 1 and 30 seconds"
            yield Invalid(
                f"Invalid value: {hook.get('timeoutSeconds')}: {words}", code="FieldValueInvalid", target=f"{path}.timeoutSeconds"
            )
