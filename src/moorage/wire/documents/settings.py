"""Changes a document before it is checked, so that a wrong one is reported like a wrong line of the file.

The verbs are those of the original's generic update: `--set path=value`, `--add path value...` and `--remove path [index]`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from moorage.errors import Invalid
from moorage.wire.documents.edits import Change, Edit, Verb, edit
from moorage.wire.documents.source import Node, Path, read_value

# Dots separate, `[0]` indexes, and a name with dots in it stands in quotes: resources.limits."nvidia.com/gpu"=1
_STEP = re.compile(r"""\.?(?:"(?P<double>[^"]+)"|'(?P<single>[^']+)'|\[(?P<index>-?\d+)\]|(?P<name>[^.\[\]"']+))""")


def apply(root: Node, changes: Sequence[Change]) -> None:
    """Make each change in the tree, in order.

    `--set` makes the folders of its path as needed, and `--add` the list. Values are JSON (`[1,2]`, `{"a": 1}`) or YAML scalars (`3`, `true`, `text`), or
    text as it is written; `null` sets nothing, which is as if the field were left out. Words `key=value` after `--add` are fields of one mapping, whose values
    are text.

    Raises:
        Invalid: no `=`, an empty path, a list index that is not there, a path through something that has no fields; for `--remove` a field that is not there.
    """
    for change in map(edit, changes):
        match change.verb:
            case Verb.SET:
                _set(root, change)
            case Verb.ADD:
                _add(root, change)
            case Verb.REMOVE:
                _remove(root, change)


def _refusal(message: str, target: str) -> Invalid:
    return Invalid(message, code="ValidationError", target=target)


def _set(root: Node, change: Edit) -> None:
    path_text, equals, value_text = change.words[0].partition("=")
    if not equals or not path_text.strip():
        raise _refusal(f"--set {change.words[0]}: write it as path=value, e.g. --set inputs.epochs=3.", "--set")
    value = Node(value_text, value_text, change.where, quoted=True) if change.as_text else read_value(value_text, change.where)
    _put(root, _path(change), value, change.where)


def _add(root: Node, change: Edit) -> None:
    path = _path(change)
    if len(change.words) < 2:
        raise _refusal(
            f"{change.where}: name what to add to the list: --add {change.path} VALUE, or --add {change.path} key=value key=value.", "--add"
        )
    here = root
    for depth, name in enumerate(path):
        here = _child(here, name, path[:depth], change.where)
    if here.value is None:
        here.value = []
    if not isinstance(here.value, list):
        said = "a mapping" if isinstance(here.value, dict) else f"'{here.text}'"
        raise _refusal(
            f"{change.where}: {change.path} is {said}, and no list that could grow; use --set {change.path}...=VALUE.", change.path
        )
    here.value.extend(_added(change))


def _added(change: Edit) -> Iterator[Node]:
    """Items for a list; `key=value` words that follow each other are one."""
    fields: dict[str, Node] = {}
    for word in change.words[1:]:
        key, equals, value = word.partition("=")
        if equals and key and not word.lstrip().startswith(("{", "[", '"')):
            fields[key] = Node(value, value, change.where, quoted=True)
            continue
        if fields:
            yield Node(fields, "", change.where)
            fields = {}
        yield Node(word, word, change.where, quoted=True) if change.as_text else read_value(word, change.where)
    if fields:
        yield Node(fields, "", change.where)


def _remove(root: Node, change: Edit) -> None:
    *above, last = _path(change)
    if len(change.words) > 2:
        raise _refusal(f"{change.where}: at most one index follows the path; repeat --remove for more.", "--remove")
    here = root
    for depth, name in enumerate(above):
        here = _found(here, name, above[:depth], change.where)
    if len(change.words) == 2:
        here, last = _found(here, last, above, change.where), change.words[1]
        if not isinstance(here.value, list):
            raise _refusal(f"{change.where}: {change.path} is no list, so that it has no item {last}.", change.path)
    _found(here, last, above, change.where)
    match here.value:
        case dict() as fields:
            del fields[last]
        case list() as items:
            items.pop(_index(items, last, change.where))


def _path(change: Edit) -> Path:
    if not change.path:
        raise _refusal(f"{change.verb} needs the path of a field, e.g. tags.team.", change.verb)
    return steps(change.path, change.verb)


def steps(text: str, option: str = "--set") -> Path:
    """`a.b[0]."c.d"` -> `("a", "b", "0", "c.d")`."""
    found: list[str] = []
    position = 0
    while position < len(text):
        step = _STEP.match(text, position)
        if not step:
            raise _refusal(f"{option} {text}: '{text[position:]}' is not a field's path.", option)
        found.append(step["double"] or step["single"] or step["index"] or step["name"])
        position = step.end()
    return tuple(found)


def _put(root: Node, path: Path, value: Node, where: str) -> None:
    here = root
    for depth, name in enumerate(path[:-1]):
        here = _child(here, name, path[:depth], where)
    if here.value is None:
        here.value = {}
    match here.value:
        case dict() as fields:
            fields[path[-1]] = value
        case _:
            item = _child(here, path[-1], path[:-1], where)
            item.value, item.text, item.where, item.quoted = value.value, value.text, value.where, value.quoted


def _child(here: Node, name: str, above: Sequence[str], where: str) -> Node:
    """What stands under a name or index; made when it is not there, one past the end of a list included."""
    if here.value is None:
        here.value = {}
    match here.value:
        case dict() as fields:
            child: Node = fields.setdefault(name, Node(None, "", where))
        case list() as items:
            if name == str(len(items)):
                items.append(Node(None, "", where))
            child = items[_index(items, name, where)]
        case _:
            before = ".".join(above) or "the document"
            raise _refusal(f"{where}: {before} is '{here.text}', which has no field '{name}'.", before)
    return child


def _found(here: Node, name: str, above: Sequence[str], where: str) -> Node:
    """What stands under a name or index; Invalid, with what there is, when nothing does."""
    before = ".".join(above) or "the document"
    match here.value:
        case dict() as fields if name in fields:
            child: Node = fields[name]
        case list() as items:
            child = items[_index(items, name, where)]
        case dict() as fields:
            raise _refusal(f"{where}: {before} has no field '{name}'; it has {', '.join(sorted(fields)) or 'none'}.", before)
        case _:
            raise _refusal(f"{where}: {before} has no field '{name}'.", before)
    return child


def _index(items: Sequence[Node], name: str, where: str) -> int:
    if not re.fullmatch(r"-?\d+", name):
        raise _refusal(f"{where}: '{name}' is no index, and the value there is a list.", where.partition(" ")[0])
    index = int(name)
    if not -len(items) <= index < len(items):
        raise _refusal(f"{where}: there is no item {index}; the list has {len(items)}.", where.partition(" ")[0])
    return index
