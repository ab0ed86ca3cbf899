"""Rights that depend on what is written: nobody grants what he does not hold, and nobody blocks the deletion of what he may not finalize."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from moorage.embedded.authorization import GROUP, Authorizer, RoleRef
from moorage.embedded.kinds import Catalog
from moorage.embedded.rbac import EVERYTHING, Attributes, Rule, describe, parse_rules, quoted, uncovered
from moorage.embedded.registry import Target
from moorage.embedded.users import User
from moorage.errors import Forbidden, NotFound
from moorage.specs.manifest import Manifest

_ROLES, _BINDINGS = ("clusterroles", "roles"), ("clusterrolebindings", "rolebindings")


class WriteGuard:
    """Asked by the registry before each write of a caller over HTTP. Made per request; the in-process cluster has none."""

    def __init__(self, authorizer: Authorizer, catalog: Catalog, user: User) -> None:
        self._authorizer = authorizer
        self._catalog = catalog
        self._user = user

    def may_create(self, target: Target) -> None:
        """An apply that makes the object needs the right to create it too."""
        kind = target.resource.kind
        asked = Attributes("create", kind.group, kind.plural, "", target.namespace, target.name)
        self._authorizer.authorize(self._user, asked)

    def check(self, target: Target, before: Manifest | None, after: Manifest) -> None:
        """Raise Forbidden unless the caller may leave the object as `after`. `before` is None for a new one."""
        if self._user.all_powerful:
            return
        kind = target.resource.kind
        if kind.group == GROUP and not target.subresource and not (before is not None and _only_for_collection(before, after)):
            if kind.plural in _ROLES:
                self._grant_role(target, before, after)
            elif kind.plural in _BINDINGS:
                self._bind_role(target, after)
        if (kind.plural, target.subresource) != ("pods", "status"):
            self._own(target, before, after)

    def _grant_role(self, target: Target, before: Manifest | None, after: Manifest) -> None:
        kind = target.resource.kind
        if self._may(Attributes("escalate", GROUP, kind.plural, "", target.namespace, target.name)):
            return
        self._hold(target, parse_rules(after.get("rules")))
        if _aggregates(after) or (before is not None and _aggregates(before)):
            owned, _ = self._authorizer.rules_for(self._user, target.namespace)
            if uncovered(owned, EVERYTHING):
                raise _forbidden(target, "must have cluster-admin privileges to use the aggregationRule")

    def _bind_role(self, target: Target, after: Manifest) -> None:
        named = after.get("roleRef") or {}
        role = RoleRef(str(named.get("kind")), str(named.get("name")))
        plural = "clusterroles" if role.kind == "ClusterRole" else "roles"
        if self._may(Attributes("bind", GROUP, plural, "", target.namespace, role.name)):
            return
        try:
            rules = self._authorizer.role_rules(role, target.namespace)
        except NotFound as missing:
            # Kubernetes names the kind that was written, not the one that is missing.
            raise NotFound(f'{target.resource.kind} "{role.name}" not found', target=role.name) from missing
        self._hold(target, rules)

    def _hold(self, target: Target, rules: Sequence[Rule]) -> None:
        owned, missing = self._authorizer.rules_for(self._user, target.namespace)
        lacking = uncovered(owned, rules)
        if not lacking:
            return
        shown = "\n".join(describe(lacking))
        errors = f"; resolution errors: [{' '.join(missing)}]" if missing else ""
        who = f'user "{self._user.name}" (groups={quoted(self._user.groups)})'
        raise _forbidden(target, f"{who} is attempting to grant RBAC permissions not currently held:\n{shown}{errors}")

    def _own(self, target: Target, before: Manifest | None, after: Manifest) -> None:
        """What OwnerReferencesPermissionEnforcement asks."""
        owners, earlier = _owners(after), _owners(before) if before is not None else []
        if owners == earlier:
            return
        kind = target.resource.kind
        if before is not None:
            decision = self._authorizer.decide(
                self._user, Attributes("delete", kind.group, kind.plural, target.subresource, target.namespace, target.name)
            )
            if not decision.allowed:
                raise _forbidden(target, f"cannot set an ownerRef on a resource you can't delete: {decision.reason}, <nil>")
        had = {owner.get("uid") for owner in earlier if owner.get("blockOwnerDeletion")}
        blocking = [owner for owner in owners if owner.get("blockOwnerDeletion") and owner.get("uid") not in had]
        if not blocking or self._may(Attributes("update", "*", "*", "finalizers", "", "*")):
            return
        for owner in blocking:
            self._finalize(target, owner)

    def _finalize(self, target: Target, owner: Manifest) -> None:
        group, _, version = str(owner.get("apiVersion")).rpartition("/")
        found = [
            r.kind for r in self._catalog.resources() if (r.kind.group, r.kind.version, r.kind.kind) == (group, version, owner.get("kind"))
        ]
        if not found:
            raise _forbidden(
                target,
                f"cannot set blockOwnerDeletion in this case because cannot find RESTMapping for APIVersion {owner.get('apiVersion')} "
                f'Kind {owner.get("kind")}: no matches for kind "{owner.get("kind")}" in version "{owner.get("apiVersion")}"',
            )
        for kind in found:
            namespace = target.namespace if kind.namespaced else ""
            asked = Attributes("update", kind.group, kind.plural, "finalizers", namespace, str(owner.get("name")))
            decision = self._authorizer.decide(self._user, asked)
            if not decision.allowed:
                raise _forbidden(
                    target,
                    "cannot set blockOwnerDeletion if an ownerReference refers to a resource you can't set finalizers on: "
                    f"{decision.reason}, <nil>",
                )

    def _may(self, asked: Attributes) -> bool:
        return self._authorizer.decide(self._user, asked).allowed


def _forbidden(target: Target, why: str) -> Forbidden:
    return Forbidden(f'{target.resource.kind} "{target.name}" is forbidden: {why}', target=target.name)


def _owners(manifest: Manifest) -> list[dict[str, Any]]:
    return list(manifest["metadata"].get("ownerReferences") or ())


def _aggregates(role: Manifest) -> bool:
    return bool((role.get("aggregationRule") or {}).get("clusterRoleSelectors"))


def _only_for_collection(before: Manifest, after: Manifest) -> bool:
    """Whether only owners and finalizers change, which the garbage collector must be able to do."""

    def rest(manifest: Manifest) -> tuple[Any, Any]:
        ignored = ("ownerReferences", "finalizers", "managedFields", "resourceVersion")
        meta = {name: value for name, value in manifest["metadata"].items() if name not in ignored}
        return meta, {name: value for name, value in manifest.items() if name != "metadata"}

    return rest(before) == rest(after)
