"""No document is accepted with a field that is not known, however deep it stands; a name that is nearly right is answered with the right one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fixtures.documents import CORPUS, Place, at, dotted, mappings, name_of, with_field

from moorage.errors import Invalid
from moorage.wire.documents.document import Kind, known, load

# Mappings whose names are the user's.
OPEN = re.compile(
    r"(^|\.)(tags|properties|inputs|outputs|environment_variables|flavors(\.\w+)*|search_space|search_space\.\w+\.values\.\d+|jobs|collections|services"
    r"|traffic|mirror_traffic)$"
)
DOCUMENTS = {path: yaml.safe_load(path.read_text(encoding="utf-8")) for path in CORPUS}
PLACES = [(path, place) for path, document in DOCUMENTS.items() for place in mappings(document)]
CLOSED = [(path, place) for path, place in PLACES if not OPEN.search(dotted(place))]


def refusal(path: Path, document: Any) -> str:
    """Why a document is refused; empty when it is not."""
    try:
        load(Kind(path.parent.name), yaml.safe_dump(document, sort_keys=False), name="d.yml", folder=path.parent)
    except Invalid as error:
        return error.message
    return ""


@pytest.mark.parametrize("path", CORPUS, ids=name_of)
def test_a_field_more_is_refused_wherever_it_stands_and_named(path: Path) -> None:
    assert refusal(path, DOCUMENTS[path]) == ""
    for _, place in (each for each in CLOSED if each[0] == path):
        said = refusal(path, with_field(DOCUMENTS[path], place, "zzz_zzz", None))
        assert "zzz_zzz" in said and dotted(place[: _depth(place)]) in said, (place, said)


def _depth(place: Place) -> int:
    """How far messages name a place: what a conda specification holds is one value to its document."""
    return place.index("conda_file") + 1 if "conda_file" in place else len(place)


@pytest.mark.parametrize("path", CORPUS, ids=name_of)
def test_a_name_that_is_nearly_right_is_answered_with_the_right_one(path: Path) -> None:
    ignored = known(Kind(path.parent.name)) - _fields(path)
    for _, place in (each for each in CLOSED if each[0] == path and "conda_file" not in each[1]):
        # One of each is enough: which names are near is told apart by the same code everywhere.
        for name in [name for name in at(DOCUMENTS[path], place) if len(str(name)) > 4 and name not in ignored][:1]:
            wrong = f"{name[:-2]}x{name[-2:]}"
            said = refusal(path, with_field(DOCUMENTS[path], place, wrong, "v"))
            assert re.search(rf"{re.escape(dotted((*place, wrong)))}: .*Did you mean '[^']+'\?", said), (place, wrong, said)


def _fields(path: Path) -> set[str]:
    return {str(name) for name in DOCUMENTS[path] if not str(name).startswith("$")}


@settings(max_examples=30)
@given(st.sampled_from(CLOSED), st.from_regex(r"[A-Za-z_$][\w.$-]{0,20}", fullmatch=True), st.none() | st.text(max_size=5) | st.integers())
def test_what_is_unknown_is_refused_whatever_its_value(where: tuple[Path, Place], name: str, value: Any) -> None:
    path, place = where
    if "unknown field" in refusal(path, with_field(DOCUMENTS[path], place, name, [[]])):
        assert "unknown field" in refusal(path, with_field(DOCUMENTS[path], place, name, value)), (place, name)
