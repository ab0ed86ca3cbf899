"""POST serviceaccounts/NAME/token: a token of the account, for the audiences asked for, bound to a pod, secret or node that it ends with."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from moorage.clock import rfc3339
from moorage.embedded import fieldcheck
from moorage.embedded.registry import Registry, Target
from moorage.embedded.storage import Key
from moorage.embedded.tokens import AUDIENCE, TokenIssuer
from moorage.errors import Conflict, Invalid, NotFound
from moorage.specs.manifest import Manifest

_DEFAULT_SECONDS, _SHORTEST_SECONDS, _LONGEST_SECONDS = 3600, 600, 1 << 32
_BOUND = {"Pod": "pods", "Secret": "secrets", "Node": "nodes"}


def token_request(registry: Registry, issuer: TokenIssuer, target: Target, body: Manifest) -> Manifest:
    """The answered TokenRequest. NotFound without the account or what it is to be bound to; Conflict when that is another one by now."""
    account = registry.get(Target(target.resource, target.namespace, target.name)).manifest()
    uid = account["metadata"]["uid"]
    fieldcheck.check("authentication.k8s.io", "TokenRequest", body)
    spec = body.get("spec") or {}
    seconds = spec.get("expirationSeconds") or _DEFAULT_SECONDS
    _check_seconds(seconds)
    audiences = list(spec.get("audiences") or (AUDIENCE,))
    bound = spec.get("boundObjectRef")
    claims = _bound(registry, target, bound) if bound else None
    grant = issuer.issue(target.namespace, target.name, uid, audiences=audiences, lifetime=timedelta(seconds=seconds), bound=claims)
    return {
        "kind": "TokenRequest",
        "apiVersion": "authentication.k8s.io/v1",
        "metadata": {
            "name": target.name,
            "namespace": target.namespace,
            "uid": uid,
            "creationTimestamp": rfc3339(registry.clock()),
        },
        "spec": {"audiences": audiences, "expirationSeconds": seconds, "boundObjectRef": bound},
        "status": {"token": grant.token, "expirationTimestamp": rfc3339(grant.expires)},
    }


def _check_seconds(seconds: int) -> None:
    if seconds < _SHORTEST_SECONDS:
        rule = "may not specify a duration less than 10 minutes"
    elif seconds > _LONGEST_SECONDS:
        rule = "may not specify a duration larger than 2^32 seconds"
    else:
        return
    field = "spec.expirationSeconds"
    cause = Invalid(f"Invalid value: {seconds}: {rule}", code="FieldValueInvalid", target=field)
    raise Invalid(
        f'TokenRequest.authentication.k8s.io "" is invalid: {field}: {cause.message}', code="Invalid", target=field, details=(cause,)
    )


def _bound(registry: Registry, target: Target, bound: Manifest) -> dict[str, Any]:
    """The token's claims about the object it is bound to."""
    kind, name = str(bound.get("kind")), str(bound.get("name"))
    if kind not in _BOUND:
        shown = f"{bound.get('apiVersion', '')}, Kind={kind}"
        raise Invalid(f"cannot bind token to object of type {shown}", code="BadRequest", target="spec.boundObjectRef.kind")
    plural = _BOUND[kind]
    found = registry.store.get(Key("", plural, "" if kind == "Node" else target.namespace, name))
    if found is None:
        raise NotFound(f'{plural} "{name}" not found', target=name)
    manifest = found.manifest()
    uid = manifest["metadata"]["uid"]
    if kind == "Pod" and manifest["spec"].get("serviceAccountName") != target.name:
        raise Invalid(
            f'cannot bind token for serviceaccount "{target.name}" to pod running with different serviceaccount name.',
            code="BadRequest",
            target="spec.boundObjectRef",
        )
    if bound.get("uid") and bound["uid"] != uid:
        raise Conflict(
            f'Operation cannot be fulfilled on {kind} "{name}": the UID in the bound object reference ({bound["uid"]}) does not match the UID '
            "in record. The object might have been deleted and then recreated",
            target=name,
        )
    claims: dict[str, Any] = {kind.lower(): {"name": name, "uid": uid}}
    if kind == "Pod" and (node := manifest["spec"].get("nodeName")):
        claims["node"] = node_claim(registry, node)
    return claims


def node_claim(registry: Registry, name: str) -> dict[str, str]:
    """What a pod's token says about the pod's node."""
    found = registry.store.get(Key("", "nodes", "", name))
    return {"name": name} if found is None else {"name": name, "uid": found.manifest()["metadata"]["uid"]}
