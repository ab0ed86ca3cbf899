"""Documents as the real SDK reads them: the corpus beside this file, and generated ones. Slow: the SDK takes seconds to start."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from moorage.errors import Invalid
from moorage.specs.manifest import Manifest
from moorage.wire.documents.document import Kind, known
from moorage.wire.documents.support import FIELDS
from tests.fixtures.documents import dotted, mappings, with_field
from tests.sdk.yaml_compare import Reader, differences, ours, reading
from tests.sdk.yaml_generated import EVERY, FILES

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

HERE = Path(__file__).parent / "documents"
CORPUS = sorted(path for path in HERE.glob("*/*.yml") if path.parent.name in set(Kind) and path.name != "conda.yml")


@pytest.fixture(scope="module")
def sdk(sdk_python: Path) -> Iterator[Reader]:
    with reading(sdk_python) as reader:
        yield reader


@pytest.mark.parametrize("path", CORPUS, ids=[f"{path.parent.name}-{path.stem}" for path in CORPUS])
def test_a_document_means_what_it_means_to_the_sdk(sdk: Reader, path: Path) -> None:
    kind = Kind(path.parent.name)
    theirs = sdk.ask(kind=kind.value, path=str(path))
    assert "refusal" not in theirs, theirs
    assert differences(kind, theirs["body"], ours(kind, path)) == []


def test_every_field_the_sdk_knows_is_read_or_named_in_the_list(sdk: Reader) -> None:
    missing = [
        f"{kind}.{field}"
        for kind, fields in sdk.ask(fields=True).items()
        for field in fields
        if field not in known(Kind(kind)) and field not in FIELDS[kind]
    ]
    assert missing == []


# The same examples every time, so that the same code gets the same answer; to look further, raise the number and leave derandomize out.
# Nothing is shrunk: each example asks another process, and the documents are small as they are.
QUICKLY = settings(
    max_examples=25,
    derandomize=True,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture
def beside(tmp_path: Path) -> Path:
    """A folder with what generated documents name by a path."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_documents_of_every_kind_are_generated() -> None:
    assert {kind for kind, _ in EVERY.values()} == set(Kind)


@pytest.mark.parametrize("made", EVERY)
@given(data=st.data())
@QUICKLY
def test_generated_documents_mean_what_they_mean_to_the_sdk(sdk: Reader, beside: Path, made: str, data: st.DataObject) -> None:
    kind, documents = EVERY[made]
    path = written(beside, data.draw(documents))
    theirs = sdk.ask(kind=kind.value, path=str(path))
    assert "refusal" not in theirs, theirs
    assert differences(kind, theirs["body"], ours(kind, path)) == []


# Not numbers in place of text, nor nothing at all: `version: 1.10` is read as it was written, and an empty field as one that was left out.
WRONG = st.sampled_from([[1], {"a": {"b": 1}}, "no such choice"])


@pytest.mark.parametrize("made", EVERY)
@given(data=st.data(), value=WRONG)
@QUICKLY
def test_what_the_sdk_refuses_we_refuse(sdk: Reader, beside: Path, made: str, data: st.DataObject, value: object) -> None:
    kind, documents = EVERY[made]
    document = data.draw(documents)
    place = data.draw(st.sampled_from(sorted(set(document) - {"type"})))
    inner = document[place]
    if isinstance(inner, dict) and inner and data.draw(st.booleans()):
        document = {**document, place: {**inner, data.draw(st.sampled_from(sorted(inner))): value}}
    else:
        document = {**document, place: value}
    path = written(beside, document)
    if "refusal" not in sdk.ask(kind=kind.value, path=str(path)):
        return
    with pytest.raises(Invalid, match=re.escape(str(path))):
        ours(kind, path)


def written(folder: Path, document: Manifest) -> Path:
    path = folder / "document.yml"
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    return path


@pytest.mark.parametrize("path", CORPUS, ids=[f"{path.parent.name}-{path.stem}" for path in CORPUS])
def test_a_field_more_that_the_sdk_refuses_is_refused(sdk: Reader, path: Path, tmp_path: Path) -> None:
    """In every mapping of the document; the SDK passes over a few that we refuse."""
    folder = Path(shutil.copytree(path.parent, tmp_path / path.parent.name))
    document, accepted = yaml.safe_load(path.read_text(encoding="utf-8")), []
    for number, place in enumerate(mappings(document)):
        changed = folder / f"changed-{number}.yml"
        changed.write_text(yaml.safe_dump(with_field(document, place, "zzz_zzz", "1"), sort_keys=False), encoding="utf-8")
        if "refusal" in sdk.ask(kind=path.parent.name, path=str(changed)):
            try:
                ours(Kind(path.parent.name), changed)
                accepted.append(dotted(place))
            except Invalid:
                pass
    assert accepted == []
