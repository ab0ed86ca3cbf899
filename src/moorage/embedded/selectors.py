"""Label and field selectors in kubectl's syntax, parsed once and matched against many objects."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from moorage.errors import Invalid
from moorage.specs.manifest import Manifest

Labels = Mapping[str, str]
_SET_TERM = re.compile(r"^(?P<key>[^\s!=,()]+)\s+(?P<op>in|notin)\s*\((?P<values>[^()]*)\)$")
_PAIR = re.compile(r"^(?P<key>[^\s!=,()]+)\s*(?P<op>==|=|!=|>|<)\s*(?P<value>[^\s!=,()]*)$")
_FIELD = re.compile(r"^(?P<path>[^=!]+)(?P<op>!=|==|=)(?P<value>.*)$")
_KEY = re.compile(r"^(?:[a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$")

# What a field selector can name beyond metadata.name and metadata.namespace, by (group, plural).
SELECTABLE: Mapping[tuple[str, str], tuple[str, ...]] = {
    ("", "pods"): ("spec.nodeName", "status.phase", "spec.restartPolicy", "spec.schedulerName", "spec.serviceAccountName", "status.podIP", "spec.hostNetwork"),
    ("", "nodes"): ("spec.unschedulable",),
    ("", "namespaces"): ("status.phase",),
    ("", "secrets"): ("type",),
    ("", "services"): ("spec.clusterIP", "spec.type"),
    ("", "events"): (
        "involvedObject.kind", "involvedObject.namespace", "involvedObject.name", "involvedObject.uid", "involvedObject.apiVersion",
        "involvedObject.resourceVersion", "involvedObject.fieldPath", "reason", "reportingComponent", "source", "type",
    ),
    ("apps", "replicasets"): ("status.replicas",),
    ("batch", "jobs"): ("status.successful",),
}  # fmt: skip
_BOOLEAN = frozenset({"spec.unschedulable", "spec.hostNetwork"})
# events.k8s.io/v1 names the same fields differently.
_ALIASES = {
    "regarding.kind": "involvedObject.kind",
    "regarding.namespace": "involvedObject.namespace",
    "regarding.name": "involvedObject.name",
    "regarding.uid": "involvedObject.uid",
    "reportingController": "reportingComponent",
}


def value_at(manifest: Any, path: str) -> Any:
    """The value at a dotted path, None where the path ends early."""
    here = manifest
    for part in path.split("."):
        if not isinstance(here, Mapping):
            return None
        here = here.get(part)
    return here


def selectable(resource: tuple[str, str], manifest: Manifest) -> dict[str, str]:
    """The fields of an object that field selectors of its kind can ask for, as text."""
    fields: dict[str, str] = {}
    for path in SELECTABLE.get(resource, ()):
        value = value_at(manifest, path)
        if path == "source" and isinstance(value, Mapping):
            value = value.get("component")
        if path in _BOOLEAN:
            value = "true" if value else "false"
        fields[path] = "" if value is None else str(value)
    return fields


@dataclass(frozen=True, slots=True)
class LabelTerm:
    key: str
    operator: str
    values: frozenset[str] = frozenset()

    def matches(self, labels: Labels) -> bool:
        match self.operator:
            case "in":
                return labels.get(self.key) in self.values
            case "notin":
                return labels.get(self.key) not in self.values
            case "exists":
                return self.key in labels
            case "gt" | "lt":
                return self._compares(labels.get(self.key, ""))
            case _:
                return self.key not in labels

    def _compares(self, text: str) -> bool:
        (bound,) = self.values
        if not text.lstrip("-").isdigit():
            return False
        return int(text) > int(bound) if self.operator == "gt" else int(text) < int(bound)


@dataclass(frozen=True, slots=True)
class FieldTerm:
    path: str
    equal: bool
    value: str


@dataclass(frozen=True, slots=True)
class Selector:
    """Every term must hold; no terms select everything."""

    labels: tuple[LabelTerm, ...] = ()
    fields: tuple[FieldTerm, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.labels or self.fields)

    def matches(self, labels: Labels, field: Callable[[str], str | None]) -> bool:
        """Whether an object with these labels, and whose fields `field` reads, is selected."""
        return all(term.matches(labels) for term in self.labels) and all((field(f.path) == f.value) == f.equal for f in self.fields)


EVERYTHING = Selector()


def parse(
    labels: str | None = None, fields: str | None = None, *, resource: tuple[str, str] = ("", ""), extra: tuple[str, ...] = ()
) -> Selector:
    """Read both selectors; Invalid with Kubernetes' words when one is malformed or names a field the kind cannot be selected by."""
    return Selector(parse_labels(labels or ""), _parse_fields(fields or "", resource, extra))


def parse_labels(text: str) -> tuple[LabelTerm, ...]:
    """`a=b,c!=d,e in (x,y),f notin (z),g,!h`."""
    return tuple(_label_term(term) for term in _split(text))


def from_label_selector(selector: Mapping[str, Any] | None) -> tuple[LabelTerm, ...]:
    """A metav1.LabelSelector (`matchLabels`, `matchExpressions`) as terms."""
    selector = selector or {}
    terms = [LabelTerm(key, "in", frozenset({value})) for key, value in (selector.get("matchLabels") or {}).items()]
    operators = {"In": "in", "NotIn": "notin", "Exists": "exists", "DoesNotExist": "absent"}
    for wanted in selector.get("matchExpressions") or ():
        operator = operators.get(wanted.get("operator", ""))
        if operator is None:
            raise Invalid(f'"{wanted.get("operator")}" is not a valid label selector operator', code="BadRequest")
        if not wanted.get("key"):
            raise Invalid("a label selector's expression needs a key", code="BadRequest")
        terms.append(LabelTerm(wanted["key"], operator, frozenset(wanted.get("values") or ())))
    return tuple(terms)


def _split(text: str) -> list[str]:
    terms, depth, start = [], 0, 0
    for position, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if character == "," and depth == 0:
            terms.append(text[start:position])
            start = position + 1
    terms.append(text[start:])
    return [term.strip() for term in terms if term.strip()]


_OPERATORS = ("=", "<", ">")


def _label_term(text: str) -> LabelTerm:
    if found := _SET_TERM.match(text):
        term = LabelTerm(found["key"], found["op"], frozenset(value.strip() for value in found["values"].split(",")))
    elif found := _PAIR.match(text):
        operator = {"!=": "notin", ">": "gt", "<": "lt"}.get(found["op"], "in")
        term = LabelTerm(found["key"], operator, frozenset({found["value"]}))
        if operator in ("gt", "lt") and not found["value"].lstrip("-").isdigit():
            raise _unparsable(text, "for 'Gt', 'Lt' operators, the value must be an integer")
    else:
        term = LabelTerm(text.lstrip("!").strip(), "absent" if text.startswith("!") else "exists")
    if text[:1] in _OPERATORS:
        words = f"found '{text[0]}', expected: !, identifier, or 'end of string'"
        raise Invalid(words, code="BadRequest", target="labelSelector")
    if not _KEY.match(term.key):
        raise _unparsable(text, f"'{term.key}' is not a label key")
    return term


def only_name(fields: str) -> str:
    """The one name that a field selector leaves, empty when it leaves many; what cannot be read leaves none, and is refused when it is used."""
    try:
        terms = _field_terms(fields)
    except Invalid:
        return ""
    return next((value for path, operator, value in terms if path == "metadata.name" and operator != "!="), "")


def _field_terms(text: str) -> list[tuple[str, str, str]]:
    """Path, operator and value of each term. Rights are decided and objects are chosen by this one reading of a selector."""
    terms = []
    for term in text.split(","):
        if not term.strip():
            continue
        found = _FIELD.match(term.strip())
        if not found:
            raise Invalid(f"invalid selector: '{term}'; can't understand '{term}'", code="BadRequest", target="fieldSelector")
        terms.append((found["path"].strip(), found["op"], found["value"]))
    return terms


def _parse_fields(text: str, resource: tuple[str, str], extra: tuple[str, ...]) -> tuple[FieldTerm, ...]:
    terms = []
    for given, operator, value in _field_terms(text):
        path = _ALIASES.get(given, given)
        if path not in ("metadata.name", "metadata.namespace") and path not in SELECTABLE.get(resource, ()) and path not in extra:
            # Kinds with fields of their own to select by are told apart by Kubernetes' words.
            known = 'metadata.name", "metadata.namespace'
            generic = f'"{given}" is not a known field selector: only "{known}"'
            words = f"field label not supported: {given}" if resource in SELECTABLE else generic
            raise Invalid(words, code="BadRequest", target="fieldSelector")
        terms.append(FieldTerm(path, operator != "!=", value))
    return tuple(terms)


def _unparsable(text: str, reason: str) -> Invalid:
    return Invalid(f"unable to parse requirement: {reason} (in '{text}')", code="BadRequest", target="labelSelector")
