"""What a field may hold. A shape reads a Node into a plain value and reports every problem it meets, so that one run names them all."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from moorage.wire.documents.references import compute_name, parse_reference
from moorage.wire.documents.source import Finding, Node, Path


@dataclass(slots=True)
class Reading:
    """What one pass over a document has found, and where each field stood."""

    findings: list[Finding] = field(default_factory=list)
    where: dict[str, str] = field(default_factory=dict)

    def say(self, node: Node, path: Path, problem: str) -> None:
        self.findings.append(Finding(node.where, ".".join(path), problem))


class Shape(Protocol):
    """Reads one value; answers None after reporting what is wrong with it."""

    def read(self, node: Node, path: Path, into: Reading) -> Any: ...


def kind_of(node: Node) -> str:
    """How a message calls what was found."""
    match node.value:
        case dict():
            return "a mapping"
        case list():
            return "a list"
        case None:
            return "nothing"
        case bool():
            return f"the boolean {node.text}"
        case int() | float():
            return f"the number {node.text}"
        case _:
            return f"the text '{node.text[:60]}'"


@dataclass(frozen=True, slots=True)
class Text:
    """Text, as it was written: `version: 1.10` is `1.10`.

    Attributes:
        choices: what is accepted, in lower case, to what it is read as.
        check: answers what is wrong with a text, or None.
    """

    choices: Mapping[str, str] | None = None
    check: Callable[[str], str | None] | None = None
    empty: bool = False

    def read(self, node: Node, path: Path, into: Reading) -> str | None:
        if isinstance(node.value, dict | list) or node.value is None:
            into.say(node, path, f"expected text, found {kind_of(node)}.")
            return None
        text = node.text
        if not text.strip() and not self.empty:
            into.say(node, path, "must not be empty.")
            return None
        if self.choices is not None:
            found = self.choices.get(text.strip().lower().replace("-", "_"))
            if found is None:
                into.say(node, path, f"'{text}' is not one of {', '.join(self.choices)}.{nearest(text.lower(), self.choices)}")
            return found
        if self.check is not None and (problem := self.check(text)):
            into.say(node, path, problem)
            return None
        return text


@dataclass(frozen=True, slots=True)
class Flag:
    def read(self, node: Node, path: Path, into: Reading) -> bool | None:
        if isinstance(node.value, bool):
            return node.value
        if isinstance(node.value, str) and node.text.lower() in ("true", "false"):
            return node.text.lower() == "true"
        into.say(node, path, f"expected true or false, found {kind_of(node)}.")
        return None


@dataclass(frozen=True, slots=True)
class Number:
    """A number; text such as `"3"` is taken, since templates quote everything."""

    minimum: float = -math.inf
    maximum: float = math.inf
    whole: bool = True

    def read(self, node: Node, path: Path, into: Reading) -> int | float | None:
        what = "a whole number" if self.whole else "a number"
        value = node.value
        if isinstance(value, str):
            try:
                value = float(value)
            except ValueError:
                value = None
        if isinstance(value, bool | dict | list) or value is None or not math.isfinite(value):
            into.say(node, path, f"expected {what}, found {kind_of(node)}.")
            return None
        if self.whole and value != int(value):
            into.say(node, path, f"expected a whole number, found {node.text}.")
            return None
        if not self.minimum <= value <= self.maximum:
            span = f"at least {self.minimum:g}" if math.isinf(self.maximum) else f"between {self.minimum:g} and {self.maximum:g}"
            into.say(node, path, f"{node.text} is out of range: {what} {span} is needed.")
            return None
        return int(value) if self.whole else value


@dataclass(frozen=True, slots=True)
class Plain:
    """Anything that JSON can hold, unchecked: `properties`."""

    def read(self, node: Node, path: Path, into: Reading) -> Any:
        match node.value:
            case dict() as fields:
                return {name: self.read(child, (*path, name), into) for name, child in fields.items()}
            case list() as items:
                return [self.read(child, (*path, str(index)), into) for index, child in enumerate(items)]
            case float() as value if not math.isfinite(value):
                into.say(node, path, f"{node.text} has no form in JSON.")
                return None
            case value:
                return value


@dataclass(frozen=True, slots=True)
class Literal:
    """A literal input, as the text that goes over the wire: `3.5`, `True`."""

    def read(self, node: Node, path: Path, into: Reading) -> str | None:
        if isinstance(node.value, dict | list) or node.value is None:
            into.say(node, path, f"expected text, a number or a boolean, found {kind_of(node)}.")
            return None
        return str(node.value)


@dataclass(frozen=True, slots=True)
class MapOf:
    """Names of the user's choice to values of one shape."""

    values: Shape
    name: re.Pattern[str] | None = None
    name_rule: str = ""

    def read(self, node: Node, path: Path, into: Reading) -> dict[str, Any] | None:
        if node.value is None:
            return {}
        if not isinstance(node.value, dict):
            into.say(node, path, f"expected a mapping (`name: value`), found {kind_of(node)}.")
            return None
        found: dict[str, Any] = {}
        for name, child in node.value.items():
            here = (*path, name)
            into.where[".".join(here)] = child.where
            if self.name is not None and not self.name.match(name):
                into.say(child, here, f"'{name}' is not a valid name: {self.name_rule}.")
                continue
            found[name] = self.values.read(child, here, into)
        return found


@dataclass(frozen=True, slots=True)
class ListOf:
    items: Shape

    def read(self, node: Node, path: Path, into: Reading) -> list[Any] | None:
        if not isinstance(node.value, list):
            into.say(node, path, f"expected a list (`- item`), found {kind_of(node)}.")
            return None
        return [self.items.read(child, (*path, str(index)), into) for index, child in enumerate(node.value)]


@dataclass(frozen=True, slots=True)
class Record:
    """Fields with names of ours: an unknown one is refused with the nearest name.

    Attributes:
        fields: each field's shape.
        required: must be there.
        remedies: names that people write here, to what they should do instead.
        ignored: accepted and dropped, e.g. `$schema` and what only the service sets.
        rule: looks at the whole record; answers `(field, problem)` pairs.
        secret: what stands in its place is not repeated in messages.
    """

    fields: Mapping[str, Shape]
    required: tuple[str, ...] = ()
    remedies: Mapping[str, str] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()
    rule: Callable[[Mapping[str, Any]], list[tuple[str, str]]] | None = None
    secret: bool = False

    def read(self, node: Node, path: Path, into: Reading) -> dict[str, Any] | None:
        if not isinstance(node.value, dict):
            said = "something else" if self.secret else kind_of(node)
            into.say(node, path, f"expected a mapping of {', '.join(list(self.fields)[:6])}, found {said}.")
            return None
        before = len(into.findings)
        found: dict[str, Any] = {}
        for name, child in node.value.items():
            here = (*path, name)
            into.where[".".join(here)] = child.where
            if name in self.fields:
                # An empty `tags:` or `description:` says nothing, as if it were left out.
                if child.value is None and name not in self.required and not isinstance(self.fields[name], MapOf | Optional):
                    continue
                found[name] = self.fields[name].read(child, here, into)
            elif name not in self.ignored:
                into.say(child, here, self.remedies.get(name) or f"unknown field.{nearest(name, self.fields)}{self.known(name)}")
        misspelt = {close for name in node.value if name not in self.fields for close in difflib.get_close_matches(name, self.fields, n=1)}
        for name in self.required:
            if name not in node.value and name not in misspelt:
                into.say(node, (*path, name), "is required, and is missing.")
        if self.rule is not None and len(into.findings) == before:
            for name, problem in self.rule(found):
                at = node.value.get(name.split(".")[0], node)
                into.say(Node(None, "", into.where.get(".".join((*path, name)), at.where)), (*path, *name.split(".")), problem)
        return found

    def known(self, name: str) -> str:
        return "" if nearest(name, self.fields) else f" Known here: {', '.join(sorted(self.fields))}."


@dataclass(frozen=True, slots=True)
class Optional:
    """A field that may stand there without a value, read as the default (`outputs: {model: }`)."""

    shape: Shape
    default: Callable[[], Any]

    def read(self, node: Node, path: Path, into: Reading) -> Any:
        return self.default() if node.value is None else self.shape.read(node, path, into)


@dataclass(frozen=True, slots=True)
class Either:
    """Text in one form, a mapping in the other: `environment: azureml:e:1` or `environment: {image: ...}`."""

    text: Shape
    mapping: Shape

    def read(self, node: Node, path: Path, into: Reading) -> Any:
        return (self.mapping if isinstance(node.value, dict) else self.text).read(node, path, into)


@dataclass(frozen=True, slots=True)
class Chosen:
    """A record whose fields depend on its `type`.

    Attributes:
        refused: the reason why a type that exists elsewhere is not among the records, or None.
    """

    by: str
    records: Mapping[str, Record]
    default: str | None = None
    refused: Callable[[str], str | None] = lambda name: None

    def read(self, node: Node, path: Path, into: Reading) -> Any:
        if not isinstance(node.value, dict):
            into.say(node, path, f"expected a mapping with the field '{self.by}', found {kind_of(node)}.")
            return None
        given = node.value.get(self.by)
        name = self.default if given is None else str(given.text).strip().lower().replace("-", "_")
        if name is None:
            into.say(node, (*path, self.by), f"is required, and is missing: one of {', '.join(self.records)}.")
            return None
        record = self.records.get(name)
        if record is None:
            reason = self.refused(name)
            known = f"is not one of {', '.join(self.records)}.{nearest(name, self.records)}"
            into.say(given or node, (*path, self.by), f"'{name}': {reason}" if reason else f"'{name}' {known}")
            return None
        found = record.read(node, path, into)
        return None if found is None else {**found, self.by: name}


def nearest(name: str, known: Mapping[str, Any]) -> str:
    """` Did you mean 'x'?`, or nothing when no known name is close."""
    close = difflib.get_close_matches(name.lower(), list(known), n=1, cutoff=0.6)
    return f" Did you mean '{close[0]}'?" if close else ""


def reference_problem(text: str) -> str | None:
    try:
        parse_reference(text)
    except ValueError as error:
        return str(error)
    return None


def compute_problem(text: str) -> str | None:
    try:
        compute_name(text)
    except ValueError as error:
        return str(error)
    return None


def choices(*names: str, **renamed: str) -> Mapping[str, str]:
    """Choices that are read as they stand, or as another word."""
    return {**{name: name for name in names}, **renamed}
