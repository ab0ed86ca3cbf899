"""`--set`, `--add` and `--remove` as the original's generic update has them: what becomes of a tree, in order, and what is refused."""

from __future__ import annotations

import json
import shlex
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moorage.cli.edits import gathered
from moorage.errors import Invalid
from moorage.wire.documents.edits import Edit, Verb
from moorage.wire.documents.settings import apply
from moorage.wire.documents.source import Node, read
from moorage.wire.documents.words import changed

BEFORE = {"tags": {"a": "1", "b": "2"}, "list": ["x", "y", "z"], "rows": [{"k": "v"}], "n": 3, "empty": {}}


def edits(line: str, *, as_text: bool = False) -> list[Edit]:
    rest, found = gathered(shlex.split(line))
    assert rest == []
    return [Edit(each.verb, each.words, as_text) for each in found]


def plain(node: Node) -> Any:
    match node.value:
        case dict() as fields:
            return {name: plain(child) for name, child in fields.items()}
        case list() as items:
            return [plain(item) for item in items]
        case value:
            return value


def after(line: str, *, as_text: bool = False) -> Any:
    root = read(json.dumps(BEFORE), "before")
    apply(root, edits(line, as_text=as_text))
    found = plain(root)
    return {name: value for name, value in found.items() if BEFORE.get(name) != value} | {
        name: "gone" for name in BEFORE if name not in found
    }


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("--set tags.c=3", {"tags": {"a": "1", "b": "2", "c": 3}}),
        ("--set new.deep=true", {"new": {"deep": True}}),
        ("--set 'list[1]=w'", {"list": ["x", "w", "z"]}),
        ("--set 'list[3]=w'", {"list": ["x", "y", "z", "w"]}),
        ("--set=n=4", {"n": 4}),
        ("--add list w", {"list": ["x", "y", "z", "w"]}),
        ('--add list 1 \'{"a": "b=c"}\' true', {"list": ["x", "y", "z", 1, {"a": "b=c"}, True]}),
        ("--add rows k=1 l=2", {"rows": [{"k": "v"}, {"k": "1", "l": "2"}]}),
        ("--add rows k=1 w l=2", {"rows": [{"k": "v"}, {"k": "1"}, "w", {"l": "2"}]}),
        ("--add new.deep a b", {"new": {"deep": ["a", "b"]}}),
        ("--remove tags.a", {"tags": {"b": "2"}}),
        ("--remove tags", {"tags": "gone"}),
        ("--remove list 0", {"list": ["y", "z"]}),
        ("--remove list -1", {"list": ["x", "y"]}),
        ("--remove 'list[1]'", {"list": ["x", "z"]}),
        ("--remove 'rows[0].k'", {"rows": [{}]}),
        ("--remove list 0 --remove list 0 --add list w", {"list": ["z", "w"]}),
        ("--add list w --remove list 0", {"list": ["y", "z", "w"]}),
        ("--remove tags --set tags.c=3", {"tags": {"c": 3}}),
        ("--set tags.c=3 --remove tags", {"tags": "gone"}),
    ],
)
def test_changes_are_made_in_the_order_in_which_they_are_given(line: str, expected: dict[str, Any]) -> None:
    assert after(line) == expected


def test_values_are_text_when_that_is_asked_for() -> None:
    assert after("--set n=4 --add list 1 true '{}'", as_text=True) == {"n": "4", "list": ["x", "y", "z", "1", "true", "{}"]}
    root = read(json.dumps(BEFORE), "before")
    apply(root, edits("--set n=4", as_text=True))
    assert isinstance(root.value, dict) and root.value["n"].quoted, "as if it stood in quotes in the file"


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("--set tags", "--set tags: write it as path=value, e.g. --set inputs.epochs=3."),
        ("--set =1", "--set =1: write it as path=value"),
        ("--set n.deep=1", "--set n.deep: n is '3', which has no field 'deep'."),
        ("--set 'list[5]=w'", "--set list[5]: there is no item 5; the list has 3."),
        ("--set list.x=w", "--set list.x: 'x' is no index, and the value there is a list."),
        ("--add list", "--add list: name what to add to the list: --add list VALUE, or --add list key=value key=value."),
        ("--add tags x", "--add tags: tags is a mapping, and no list that could grow; use --set tags...=VALUE."),
        ("--add n x", "--add n: n is '3', and no list that could grow"),
        ("--remove tags.c", "--remove tags.c: tags has no field 'c'; it has a, b."),
        ("--remove empty.c", "--remove empty.c: empty has no field 'c'; it has none."),
        ("--remove nowhere", "--remove nowhere: the document has no field 'nowhere'; it has empty, list, n, rows, tags."),
        ("--remove nowhere.deep", "--remove nowhere.deep: the document has no field 'nowhere'"),
        ("--remove n.deep", "--remove n.deep: n has no field 'deep'."),
        ("--remove list 3", "--remove list: there is no item 3; the list has 3."),
        ("--remove list x", "--remove list: 'x' is no index, and the value there is a list."),
        ("--remove tags 0", "--remove tags: tags is no list, so that it has no item 0."),
        ("--remove list 0 1", "--remove list: at most one index follows the path; repeat --remove for more."),
        ("--remove 'a[b'", "--remove a[b: '[b' is not a field's path."),
    ],
)
def test_what_cannot_be_done_is_refused_with_the_path(line: str, says: str) -> None:
    with pytest.raises(Invalid) as refused:
        after(line)
    assert refused.value.message.startswith(says)


def test_words_about_a_version_are_removed_one_by_one_or_all() -> None:
    entity = {"tags": {"a": "1", "b": "2"}, "description": "d", "path": "p"}
    assert changed("model", entity, edits("--remove tags.a")) == {"tags": {"b": "2"}}
    assert changed("model", entity, edits("--remove tags --remove description")) == {"tags": {}, "description": ""}
    assert changed("model", entity, edits("--set tags.n=007", as_text=True)) == {"tags": {"a": "1", "b": "2", "n": "007"}}
    for line in ("--remove path", "--add path x"):
        with pytest.raises(Invalid, match="path: of a model only description, tags, properties and stage can change; create a new version"):
            changed("model", entity, edits(line))


@pytest.mark.parametrize(
    ("line", "rest", "found"),
    [
        ("-n x --add a b c -w y", "-n x -w y", [("--add", "a b c")]),
        ("--add a b --set c=d --remove e 1 --force-string", "--force-string", [("--add", "a b"), ("--set", "c=d"), ("--remove", "e 1")]),
        ("--remove=tags.a -n x", "-n x", [("--remove", "tags.a")]),
        ("--set a=1 b=2", "b=2", [("--set", "a=1")]),
        ("-n x --add", "-n x --add", []),
        ("--add l -1", "", [("--add", "l -1")]),
    ],
)
def test_changes_are_taken_off_the_command_line(line: str, rest: str, found: list[tuple[str, str]]) -> None:
    left, edited = gathered(line.split())
    assert left == rest.split() and edited == [Edit(Verb(verb), tuple(words.split())) for verb, words in found]


@given(st.lists(st.text(min_size=1), max_size=8))
def test_a_command_line_without_changes_stays_as_it_is(words: list[str]) -> None:
    plain_words = [word for word in words if not word.startswith("--")]
    assert gathered(plain_words) == (plain_words, [])


@given(st.lists(st.integers(), max_size=5), st.data())
def test_what_is_added_and_removed_again_leaves_a_list_as_it_was(items: list[int], data: st.DataObject) -> None:
    root = read(json.dumps({"l": items}), "before")
    more = data.draw(st.lists(st.integers(0), min_size=1, max_size=3))
    added = Edit(Verb.ADD, ("l", *map(str, more)))
    apply(root, [added, *(Edit(Verb.REMOVE, ("l", str(len(items)))) for _ in more)])
    assert plain(root) == {"l": items}
