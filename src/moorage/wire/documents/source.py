"""YAML text as a tree that remembers where each value stood and how it was written.

Positions make `train.yml:7: inputs.data.path: ...` possible; the written form keeps `version: 1.10` from becoming 1.1.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import yaml

from moorage.errors import Invalid

Scalar = str | int | float | bool | None
Path = tuple[str, ...]

# Far above any real document; aliases can otherwise grow one into gigabytes.
_NODE_LIMIT = 50_000
_QUOTES = "\u201c\u201d\u201e\u2018\u2019\u00ab\u00bb"


@dataclass(slots=True)
class Node:
    """One value of a document: a scalar, a mapping or a sequence.

    Attributes:
        value: what YAML 1.1 reads it as; timestamps stay text.
        text: a scalar as it was written, quotes removed.
        where: `train.yml:7`, or `--set a.b`.
        quoted: whether a scalar stood in quotes, so that `"1"` is text and `1` is a number.
    """

    value: Scalar | dict[str, Node] | list[Node]
    text: str
    where: str
    quoted: bool = False


@dataclass(frozen=True, slots=True)
class Finding:
    """One problem of a document: where, which field, and what to do."""

    where: str
    field: str
    problem: str

    def __str__(self) -> str:
        return ": ".join(part for part in (self.where, self.field, self.problem) if part)


def refuse(findings: list[Finding]) -> Invalid:
    """The error that names every finding; the first is its target."""
    details = tuple(Invalid(str(finding), target=finding.field or None) for finding in findings)
    return Invalid(
        "\n".join(str(finding) for finding in findings),
        code="ValidationError",
        target=findings[0].field or None,
        details=details if len(details) > 1 else (),
    )


def read(text: str, name: str) -> Node:
    """Parse one YAML document.

    Args:
        text: the document.
        name: how messages call it, e.g. the path the user typed.

    Raises:
        Invalid: not YAML, several documents, an empty one, a duplicate key, typographic quotes, or not a mapping at the top.
    """
    reader = _Reader(name)
    node = reader.tree(text)
    if reader.findings:
        raise refuse(reader.findings)
    return node


def read_value(text: str, where: str) -> Node:
    """Parse the value of a `--set`: JSON or a YAML scalar, plain text when it is neither."""
    reader = _Reader("", fixed=where)
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError:
        root = None
    if root is None:
        return Node(text if text.strip() else "", text, where, quoted=True)
    if isinstance(root, yaml.ScalarNode) and root.style is None and not text.strip().startswith("#"):
        # The shell took the user's quotes; a `#` or `: ` inside is text, not YAML.
        root.value = root.value if root.value == text.strip() else text
    elif not isinstance(root, yaml.ScalarNode) and not text.lstrip().startswith(("{", "[")):
        return Node(text, text, where, quoted=True)
    node = reader.convert(root, ())
    if reader.findings:
        raise refuse(reader.findings)
    return node


class _Reader:
    def __init__(self, name: str, fixed: str = "") -> None:
        self.name = name
        self.fixed = fixed
        self.findings: list[Finding] = []
        self.count = 0
        self.open: set[int] = set()

    def tree(self, text: str) -> Node:
        for number, line in enumerate(text.splitlines(), start=1):
            indent = line[: len(line) - len(line.lstrip(" \t"))]
            if "\t" in indent and line.strip():
                raise refuse([Finding(f"{self.name}:{number}", "", "YAML does not allow tabs for indentation; use spaces.")])
        try:
            root = yaml.compose(text, Loader=yaml.SafeLoader)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            where = f"{self.name}:{mark.line + 1}" if mark else self.name
            context = f" ({error.context})" if error.context else ""
            raise refuse([Finding(where, "", f"this is not valid YAML: {error.problem}{context}.")]) from error
        except yaml.reader.ReaderError as error:
            raise refuse(
                [Finding(self.name, "", f"this is not valid YAML: the character #x{error.character:04x} is not allowed.")]
            ) from error
        if root is None:
            raise refuse([Finding(self.name, "", "the document is empty.")])
        if not isinstance(root, yaml.MappingNode):
            raise refuse([Finding(self.at(root), "", "the document must be a mapping of fields (`name: value`).")])
        return self.convert(root, ())

    def at(self, node: yaml.Node) -> str:
        return self.fixed or f"{self.name}:{node.start_mark.line + 1}"

    def say(self, node: yaml.Node, path: Path, problem: str) -> None:
        self.findings.append(Finding(self.at(node), ".".join(path), problem))

    def convert(self, node: yaml.Node, path: Path) -> Node:
        self.count += 1
        if self.count > _NODE_LIMIT or id(node) in self.open:
            raise refuse([Finding(self.at(node), ".".join(path), "the document's aliases make it endless or far too large.")])
        expected = "map" if isinstance(node, yaml.MappingNode) else "seq"
        if isinstance(node, yaml.CollectionNode) and node.tag != f"tag:yaml.org,2002:{expected}":
            tag = node.tag.removeprefix("tag:yaml.org,2002:")
            self.say(node, path, f"the YAML tag '{tag}' is not supported; write plain values.")
        self.open.add(id(node))
        try:
            match node:
                case yaml.MappingNode():
                    return self.mapping(node, path)
                case yaml.SequenceNode():
                    items = [self.convert(item, (*path, str(index))) for index, item in enumerate(node.value)]
                    return Node(items, "", self.at(node))
                case yaml.ScalarNode():
                    return self.scalar(node, path)
                case _:
                    raise TypeError(f"YAML has no node of type {type(node).__name__}")
        finally:
            self.open.discard(id(node))

    def mapping(self, node: yaml.MappingNode, path: Path) -> Node:
        fields: dict[str, Node] = {}
        seen: dict[str, str] = {}
        for key, value in self.pairs(node, path):
            if not isinstance(key, yaml.ScalarNode):
                self.say(key, path, "a field's name must be plain text.")
                continue
            name = str(key.value)
            if name in seen:
                self.say(key, (*path, name), f"the field is given twice (first at {seen[name]}); keep one.")
                continue
            seen[name] = self.at(key)
            self.quotes(key, (*path, name))
            child = self.convert(value, (*path, name))
            if child.value is None or isinstance(child.value, dict | list):
                child.where = self.at(key)
            fields[name] = child
        for key, value in self.merged(node, path):
            if key.value not in fields:
                fields[str(key.value)] = self.convert(value, (*path, str(key.value)))
        return Node(fields, "", self.at(node))

    def pairs(self, node: yaml.MappingNode, path: Path) -> Iterator[tuple[yaml.Node, yaml.Node]]:
        return ((key, value) for key, value in node.value if key.tag != "tag:yaml.org,2002:merge")

    def merged(self, node: yaml.MappingNode, path: Path) -> Iterator[tuple[yaml.Node, yaml.Node]]:
        """What `<<: *base` brings in; the mapping's own fields win, earlier bases win over later ones."""
        for key, value in node.value:
            if key.tag != "tag:yaml.org,2002:merge":
                continue
            bases = value.value if isinstance(value, yaml.SequenceNode) else [value]
            for base in bases:
                if not isinstance(base, yaml.MappingNode):
                    self.say(key, path, "`<<` must name a mapping or a list of mappings.")
                    continue
                yield from self.pairs(base, path)
                if id(base) not in self.open:
                    self.open.add(id(base))
                    yield from self.merged(base, path)
                    self.open.discard(id(base))

    def quotes(self, node: yaml.ScalarNode, path: Path) -> None:
        text = str(node.value)
        if node.style is None and text and (text[0] in _QUOTES or text[-1] in _QUOTES):
            self.say(node, path, f"typographic quotes are part of the value {text}; write plain quotes (\" or ').")

    def scalar(self, node: yaml.ScalarNode, path: Path) -> Node:
        text = str(node.value)
        self.quotes(node, path)
        quoted = node.style is not None
        value: Scalar
        match node.tag.removeprefix("tag:yaml.org,2002:"):
            case "str" | "timestamp":
                value = text
            case "null":
                value = None
            case "bool" | "int" | "float" as kind:
                value = self.number(node, path, kind)
            case other:
                self.say(node, path, f"the YAML tag '{other}' is not supported; write plain values.")
                value = text
        return Node(value, text, self.at(node), quoted)

    def number(self, node: yaml.ScalarNode, path: Path, kind: str) -> Scalar:
        constructor = yaml.constructor.SafeConstructor()
        try:
            found = constructor.construct_object(node)
        except (ValueError, KeyError, yaml.YAMLError):
            self.say(node, path, f"'{node.value}' is no {kind}.")
            return None
        return found if isinstance(found, str | int | float | bool) else None
