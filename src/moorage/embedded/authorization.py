"""What an authenticated caller may do: roles and bindings of the store, evaluated as Kubernetes' RBAC authorizer does.

Decisions are kept until a role or binding changes. Members of system:masters are asked nothing, as on Kubernetes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from moorage.embedded.objects import Entry, ObjectStore
from moorage.embedded.rbac import Attributes, Rule, allows, parse_rules, refusal
from moorage.embedded.storage import Key
from moorage.embedded.users import ACCOUNT_PREFIX, User
from moorage.errors import Forbidden, NotFound
from moorage.specs.manifest import Manifest

GROUP = "rbac.authorization.k8s.io"
CLUSTER_ROLES, ROLES = (GROUP, "clusterroles"), (GROUP, "roles")
CLUSTER_BINDINGS, BINDINGS = (GROUP, "clusterrolebindings"), (GROUP, "rolebindings")
_SOURCES = (CLUSTER_ROLES, ROLES, CLUSTER_BINDINGS, BINDINGS)
_MOST_DECISIONS = 4096
# Whoever asks chooses how long a path or a name is, strangers included.
_LONGEST_REMEMBERED = 4096


class Denied(Forbidden):
    """A refusal that knows what was asked, for the details of its Status."""

    def __init__(self, message: str, asked: Attributes) -> None:
        super().__init__(message, target=asked.name or None)
        self.asked = asked


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether it is allowed, and why: the binding that allows it, or the roles that bindings miss."""

    allowed: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class RoleRef:
    kind: str
    name: str


@dataclass(frozen=True, slots=True)
class _Bound:
    """One subject of a binding."""

    role: RoleRef
    source: str


@dataclass(slots=True)
class _Index:
    """Bindings by namespace (empty: everywhere) and subject; rules by role."""

    versions: tuple[int, ...] = ()
    bound: dict[tuple[str, str, str], list[_Bound]] = field(default_factory=dict)
    rules: dict[tuple[str, str, str], tuple[Rule, ...]] = field(default_factory=dict)


class Authorizer:
    """Answers from the store's present roles and bindings."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._index = _Index()
        self._parsed: dict[Key, tuple[int, Any]] = {}
        self._decisions: dict[tuple[User, Attributes], Decision] = {}

    def authorize(self, user: User, asked: Attributes) -> None:
        """Raise Denied, in Kubernetes' words, unless `user` may do it."""
        if user.all_powerful:
            return
        decision = self.decide(user, asked)
        if not decision.allowed:
            raise Denied(refusal(user, asked, f"rbac: {decision.reason}" if decision.reason else ""), asked)

    def decide(self, user: User, asked: Attributes) -> Decision:
        if user.all_powerful:
            return Decision(True)
        index = self._current()
        known = self._decisions.get((user, asked))
        if known is None:
            if len(self._decisions) >= _MOST_DECISIONS:
                self._decisions.clear()
            known = _decide(index, user, asked)
            if len(repr((user, asked))) <= _LONGEST_REMEMBERED:
                self._decisions[user, asked] = known
        return known

    def rules_for(self, user: User, namespace: str) -> tuple[list[Rule], list[str]]:
        """Every rule that applies to the user in a namespace (empty: those that apply everywhere), and the roles that bindings miss."""
        rules: list[Rule] = []
        missing: list[str] = []
        for _, found, lost in _bound_rules(self._current(), user, namespace):
            rules += found
            missing += [lost] if lost else []
        return rules, missing

    def role_rules(self, role: RoleRef, namespace: str) -> tuple[Rule, ...]:
        """The rules of the role that a binding in `namespace` refers to; NotFound when there is none."""
        found = self._current().rules.get(_role_key(role, namespace))
        if found is None:
            raise NotFound(f'{_plural(role)}.{GROUP} "{role.name}" not found', target=role.name)
        return found

    def _current(self) -> _Index:
        versions = tuple(self._store.changed_at(source) for source in _SOURCES)
        if versions != self._index.versions:
            self._index = self._built(versions)
            self._decisions.clear()
        return self._index

    def _built(self, versions: tuple[int, ...]) -> _Index:
        index = _Index(versions)
        parsed: dict[Key, tuple[int, Any]] = {}
        for source in _SOURCES:
            for entry in self._store.list(source):
                known = self._parsed.get(entry.key)
                value = known[1] if known is not None and known[0] == entry.revision else _parse(entry)
                parsed[entry.key] = (entry.revision, value)
                if source in (CLUSTER_ROLES, ROLES):
                    index.rules[source[1], entry.key.namespace, entry.key.name] = value
                else:
                    for (kind, name), bound in value:
                        index.bound.setdefault((entry.key.namespace, kind, name), []).append(bound)
        self._parsed = parsed
        return index


def _parse(entry: Entry) -> Any:
    manifest = entry.manifest()
    if entry.key.resource in (CLUSTER_ROLES, ROLES):
        return parse_rules(manifest.get("rules"))
    return _subjects(entry.key.namespace, manifest)


def _subjects(namespace: str, binding: Manifest) -> list[tuple[tuple[str, str], _Bound]]:
    found = []
    named = binding.get("roleRef") or {}
    role = RoleRef(str(named.get("kind")), str(named.get("name")))
    name = f"{binding['metadata']['name']}/{namespace}" if namespace else binding["metadata"]["name"]
    for subject in binding.get("subjects") or ():
        kind, shown = subject.get("kind"), subject.get("name")
        if kind == "ServiceAccount":
            place = subject.get("namespace") or namespace
            if not place:
                continue
            kind, subject_name, shown = "User", f"{ACCOUNT_PREFIX}{place}:{shown}", f"{shown}/{place}"
        else:
            subject_name = shown
        source = f'{binding["kind"]} "{name}" of {role.kind} "{role.name}" to {subject.get("kind")} "{shown}"'
        found.append(((kind, subject_name), _Bound(role, source)))
    return found


def _bound_rules(index: _Index, user: User, namespace: str) -> Iterator[tuple[str, Sequence[Rule], str]]:
    """Of every binding that applies: who says so, its rules, or the message that its role is missing."""
    subjects = [("User", user.name), *(("Group", group) for group in user.groups)]
    for place in ("", namespace) if namespace else ("",):
        for kind, name in subjects:
            for bound in index.bound.get((place, kind, name), ()):
                rules = index.rules.get(_role_key(bound.role, place))
                if rules is None:
                    yield bound.source, (), f'{_kind(bound.role)}.{GROUP} "{bound.role.name}" not found'
                else:
                    yield bound.source, rules, ""


def _decide(index: _Index, user: User, asked: Attributes) -> Decision:
    missing = []
    for source, rules, lost in _bound_rules(index, user, asked.namespace):
        if any(allows(rule, asked) for rule in rules):
            return Decision(True, f"RBAC: allowed by {source}")
        if lost and lost not in missing:
            missing.append(lost)
    if not missing:
        return Decision(False)
    return Decision(False, "RBAC: " + (missing[0] if len(missing) == 1 else f"[{', '.join(missing)}]"))


def _role_key(role: RoleRef, namespace: str) -> tuple[str, str, str]:
    return ("clusterroles", "", role.name) if role.kind == "ClusterRole" else ("roles", namespace, role.name)


def _plural(role: RoleRef) -> str:
    return "clusterroles" if role.kind == "ClusterRole" else "roles"


def _kind(role: RoleRef) -> str:
    return role.kind.lower()
