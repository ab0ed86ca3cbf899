"""Questions about callers: who am I, may I, may they, whose token is this (`kubectl auth`). Nothing here is stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from moorage.clock import Clock, rfc3339
from moorage.embedded.authentication import Authenticator, audiences_error
from moorage.embedded.authorization import Authorizer, Decision
from moorage.embedded.rbac import Attributes
from moorage.embedded.tokens import AUDIENCE
from moorage.embedded.users import User
from moorage.errors import Invalid, NotFound, Unauthenticated
from moorage.specs.manifest import Manifest

AUTHENTICATION, AUTHORIZATION = "authentication.k8s.io", "authorization.k8s.io"
GROUPS = frozenset({AUTHENTICATION, AUTHORIZATION})
# By group: plural, kind, whether it is namespaced.
KINDS: Mapping[str, Sequence[tuple[str, str, bool]]] = {
    AUTHENTICATION: (("selfsubjectreviews", "SelfSubjectReview", False), ("tokenreviews", "TokenReview", False)),
    AUTHORIZATION: (
        ("localsubjectaccessreviews", "LocalSubjectAccessReview", True),
        ("selfsubjectaccessreviews", "SelfSubjectAccessReview", False),
        ("selfsubjectrulesreviews", "SelfSubjectRulesReview", False),
        ("subjectaccessreviews", "SubjectAccessReview", False),
    ),
}


class Reviewer:
    """Answers reviews with what the authenticator and the authorizer know."""

    def __init__(self, authenticator: Authenticator, authorizer: Authorizer, clock: Clock) -> None:
        self._authenticator = authenticator
        self._authorizer = authorizer
        self._clock = clock

    def review(self, group: str, plural: str, namespace: str | None, body: Manifest, user: User) -> Manifest:
        """The answered review. NotFound when the path is none; Invalid for one that asks nothing."""
        found = next((each for each in KINDS.get(group, ()) if each[0] == plural and each[2] == (namespace is not None)), None)
        if found is None:
            raise NotFound("the server could not find the requested resource", target=plural)
        kind = found[1]
        if body.get("kind", kind) != kind:
            raise Invalid(f"the object provided is a {body.get('kind')}, not a {kind}", code="BadRequest", target="kind")
        spec = _mapping(body.get("spec"), "spec")
        match kind:
            case "SelfSubjectReview":
                shown = {"metadata": {"creationTimestamp": rfc3339(self._clock())}, "status": {"userInfo": shown_user(user)}}
            case "TokenReview":
                shown = {"spec": spec, "status": self._token(spec)}
            case "SelfSubjectRulesReview":
                shown = {"spec": {}, "status": self._rules(spec, user)}
            case "SelfSubjectAccessReview":
                shown = {"spec": spec, "status": _answer(self._authorizer.decide(user, _asked(kind, spec)))}
            case _:
                if kind == "LocalSubjectAccessReview":
                    _check_local(kind, spec, namespace or "")
                shown = {"spec": spec, "status": self._subject(kind, spec)}
        meta = body.get("metadata") if isinstance(body.get("metadata"), dict) else {}
        return {"kind": kind, "apiVersion": f"{group}/v1", "metadata": meta or {}, **shown}

    def _subject(self, kind: str, spec: Manifest) -> Manifest:
        name, groups, uid = _text(spec, "user"), _texts(spec, "groups"), _text(spec, "uid")
        asked = _asked(kind, spec)
        if not name and not groups:
            raise _invalid(kind, "spec.user", 'Invalid value: "": at least one of user or group must be specified')
        return _answer(self._authorizer.decide(User(name, groups, uid), asked))

    def _rules(self, spec: Manifest, user: User) -> Manifest:
        namespace = _text(spec, "namespace")
        if not namespace:
            raise Invalid("no namespace on request", code="BadRequest", target="spec.namespace")
        rules, missing = self._authorizer.rules_for(user, namespace)
        resources = [
            {"verbs": list(r.verbs), "apiGroups": list(r.groups), "resources": list(r.resources)}
            | ({"resourceNames": list(r.names)} if r.names else {})
            for r in rules
            if r.resources
        ]
        paths = [{"verbs": list(r.verbs), "nonResourceURLs": list(r.urls)} for r in rules if r.urls]
        status: Manifest = {"resourceRules": resources, "nonResourceRules": paths, "incomplete": bool(missing)}
        return status | ({"evaluationError": ", ".join(missing)} if missing else {})

    def _token(self, spec: Manifest) -> Manifest:
        token = _text(spec, "token")
        if not token:
            raise Invalid("token is required for TokenReview in authentication", code="BadRequest", target="spec.token")
        asked = _texts(spec, "audiences") or (AUDIENCE,)
        try:
            verified = self._authenticator.verify(token)
        except Unauthenticated as failure:
            why = "invalid bearer token"
            return {"user": {}, "error": why if failure.message == "Unauthorized" else f"[{why}, {failure.message}]"}
        agreed = [audience for audience in asked if audience in verified.audiences]
        if not agreed:
            return {"user": {}, "error": audiences_error(verified.audiences, asked)}
        return {"authenticated": True, "user": shown_user(verified.user), "audiences": agreed}


def shown_user(user: User) -> Manifest:
    """A UserInfo."""
    shown: Manifest = {"username": user.name}
    if user.uid:
        shown["uid"] = user.uid
    if user.groups:
        shown["groups"] = list(user.groups)
    if user.extra:
        shown["extra"] = {key: list(values) for key, values in user.extra}
    return shown


def _answer(decision: Decision) -> Manifest:
    return {"allowed": decision.allowed} | ({"reason": decision.reason} if decision.reason else {})


def _asked(kind: str, spec: Manifest) -> Attributes:
    resource, path = spec.get("resourceAttributes"), spec.get("nonResourceAttributes")
    if (resource is None) == (path is None):
        shown = "cannot be specified in combination with resourceAttributes" if resource is not None else ""
        if shown:
            raise _invalid(kind, "spec.nonResourceAttributes", f"Invalid value: {path}: {shown}")
        raise _invalid(kind, "spec", "Invalid value: null: exactly one of nonResourceAttributes or resourceAttributes must be specified")
    if path is not None:
        of = _mapping(path, "spec.nonResourceAttributes")
        return Attributes(_text(of, "verb"), path=_text(of, "path") or "/")
    of = _mapping(resource, "spec.resourceAttributes")
    return Attributes(*(_text(of, name) for name in ("verb", "group", "resource", "subresource", "namespace", "name")))


def _check_local(kind: str, spec: Manifest, namespace: str) -> None:
    named = _mapping(spec.get("resourceAttributes"), "spec.resourceAttributes").get("namespace") or ""
    if named != namespace:
        raise _invalid(kind, "spec.resourceAttributes.namespace", f'Invalid value: "{named}": must match metadata.namespace')


def _invalid(kind: str, field: str, message: str) -> Invalid:
    cause = Invalid(message, code="FieldValueInvalid", target=field)
    return Invalid(f'{kind}.{AUTHORIZATION} "" is invalid: {field}: {message}', code="Invalid", target=field, details=(cause,))


def _mapping(value: Any, field: str) -> Manifest:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise Invalid(f"{field} must be an object", code="BadRequest", target=field)
    return value


def _text(of: Manifest, name: str) -> str:
    value = of.get(name)
    if value is not None and not isinstance(value, str):
        raise Invalid(f"{name} must be a string", code="BadRequest", target=name)
    return value or ""


def _texts(of: Manifest, name: str) -> tuple[str, ...]:
    values = of.get(name) or []
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise Invalid(f"{name} must be a list of strings", code="BadRequest", target=name)
    return tuple(values)
