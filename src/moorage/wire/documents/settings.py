"""`--set path=value`: changes a document before it is checked, so that a wrong one is reported like a wrong line of the file."""

from __future__ import annotations

import re
from collections.abc import Sequence

from moorage.errors import Invalid
from moorage.wire.documents.source import Node, Path, read_value

# Dots separate, `[0]` indexes, and a name with dots in it stands in quotes: resources.limits."nvidia.com/gpu"=1
_STEP = re.compile(r"""\.?(?:"(?P<double>[^"]+)"|'(?P<single>[^']+)'|\[(?P<index>-?\d+)\]|(?P<name>[^.\[\]"']+))""")


def apply(root: Node, settings: Sequence[str]) -> None:
    """Set each `path=value` in the tree, in order; folders of a path are made as needed.

    Values are JSON (`[1,2]`, `{"a": 1}`) or YAML scalars (`3`, `true`, `text`); `null` sets nothing, which is as if the field were left out.

    Raises:
        Invalid: no `=`, an empty path, a list index that is not there, a path through something that has no fields.
    """
    for setting in settings:
        path_text, equals, value_text = setting.partition("=")
        if not equals or not path_text.strip():
            raise Invalid(f"--set {setting}: write it as path=value, e.g. --set inputs.epochs=3.", code="ValidationError", target="--set")
        where = f"--set {path_text.strip()}"
        path = steps(path_text.strip())
        _put(root, path, read_value(value_text, where), where)


def steps(text: str) -> Path:
    """`a.b[0]."c.d"` -> `("a", "b", "0", "c.d")`."""
    found: list[str] = []
    position = 0
    while position < len(text):
        step = _STEP.match(text, position)
        if not step:
            raise Invalid(f"--set {text}: '{text[position:]}' is not a field's path.", code="ValidationError", target="--set")
        found.append(step["double"] or step["single"] or step["index"] or step["name"])
        position = step.end()
    return tuple(found)


def _put(root: Node, path: Path, value: Node, where: str) -> None:
    here = root
    for depth, name in enumerate(path):
        last = depth == len(path) - 1
        before = ".".join(path[:depth]) or "the document"
        if here.value is None:
            here.value = {}
        match here.value:
            case dict() as fields:
                if last:
                    fields[name] = value
                    return
                here = fields.setdefault(name, Node(None, "", where))
            case list() as items:
                here = _item(items, name, value if last else Node(None, "", where), where=where)
                if last:
                    here.value, here.text, here.where, here.quoted = value.value, value.text, value.where, value.quoted
                    return
            case _:
                raise Invalid(f"{where}: {before} is '{here.text}', which has no field '{name}'.", code="ValidationError", target=before)


def _item(items: list[Node], name: str, new: Node, *, where: str) -> Node:
    """The list's item of that index; one past the end appends."""
    if not re.fullmatch(r"-?\d+", name):
        raise Invalid(f"{where}: '{name}' is no index, and the value there is a list.", code="ValidationError", target="--set")
    index = int(name)
    if index == len(items):
        items.append(new)
    elif not -len(items) <= index < len(items):
        raise Invalid(f"{where}: there is no item {index}; the list has {len(items)}.", code="ValidationError", target="--set")
    return items[index]
