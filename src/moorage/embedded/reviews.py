"""Questions a client asks about itself (who am I, may I), and the tokens of service accounts. Nothing here is stored."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from moorage.clock import rfc3339
from moorage.embedded.authorization import authorize
from moorage.embedded.registry import Registry, Target
from moorage.embedded.tokens import AUDIENCE, TokenIssuer, User
from moorage.errors import Forbidden
from moorage.specs.manifest import Manifest


def review(group: str, plural: str, body: Manifest, user: User) -> Manifest | None:
    """The answered review; None when the path is no review of ours."""
    match group, plural:
        case "authentication.k8s.io", "selfsubjectreviews":
            shown: dict[str, Any] = {"username": user.name, "groups": list(user.groups)}
            if user.uid:
                shown["uid"] = user.uid
            return {"kind": "SelfSubjectReview", "apiVersion": "authentication.k8s.io/v1", "metadata": {}, "status": {"userInfo": shown}}
        case "authorization.k8s.io", "selfsubjectaccessreviews":
            return _access(body, user)
        case "authorization.k8s.io", "selfsubjectrulesreviews":
            every = [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}]
            status = {"resourceRules": every, "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}], "incomplete": False}
            return {**body, "kind": "SelfSubjectRulesReview", "apiVersion": "authorization.k8s.io/v1", "status": status}
        case _:
            return None


def _access(body: Manifest, user: User) -> Manifest:
    asked = (body.get("spec") or {}).get("resourceAttributes") or {}
    status: dict[str, Any] = {"allowed": True}
    try:
        authorize(
            user,
            asked.get("verb", ""),
            asked.get("group", ""),
            asked.get("resource", ""),
            namespace=asked.get("namespace", ""),
            name=asked.get("name", ""),
        )
    except Forbidden as refusal:
        status = {"allowed": False, "reason": refusal.message}
    return {
        "kind": "SelfSubjectAccessReview",
        "apiVersion": "authorization.k8s.io/v1",
        "metadata": {},
        "spec": body.get("spec") or {},
        "status": status,
    }


def token_request(registry: Registry, issuer: TokenIssuer, target: Target, body: Manifest) -> Manifest:
    """POST serviceaccounts/NAME/token."""
    account = registry.get(Target(target.resource, target.namespace, target.name)).manifest()
    spec = body.get("spec") or {}
    bound = spec.get("boundObjectRef")
    grant = issuer.issue(
        target.namespace,
        target.name,
        account["metadata"]["uid"],
        audiences=spec.get("audiences") or (),
        lifetime=timedelta(seconds=int(spec.get("expirationSeconds") or 3600)),
        bound={str(bound.get("kind", "")).lower(): {"name": bound.get("name"), "uid": bound.get("uid")}} if bound else None,
    )
    return {
        "kind": "TokenRequest",
        "apiVersion": "authentication.k8s.io/v1",
        "metadata": {"name": target.name, "namespace": target.namespace, "creationTimestamp": rfc3339(registry.clock())},
        "spec": {"audiences": [AUDIENCE], "expirationSeconds": 3600, "boundObjectRef": None, **spec},
        "status": {"token": grant.token, "expirationTimestamp": rfc3339(grant.expires)},
    }
