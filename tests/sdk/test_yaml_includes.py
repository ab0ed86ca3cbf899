"""Code with `additional_includes` as the real SDK puts it together. Slow: the SDK takes seconds to start."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from moorage.errors import Invalid
from tests.fixtures.includes import CASES, TREE, ours, written
from tests.sdk.yaml_compare import Reader, reading

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def sdk(sdk_python: Path) -> Iterator[Reader]:
    with reading(sdk_python) as reader:
        yield reader


def same(sdk: Reader, path: Path, scratch: Path) -> dict[str, Any]:
    theirs, own = sdk.ask(kind="component", path=str(path), code=True), ours(path, scratch)
    assert own["files"] == theirs.get("files"), theirs
    if not any(name.endswith(".zip") for name in own["files"]):
        assert own["hash"] == theirs["hash"], "the service takes both for the same code"
    files: dict[str, Any] = own["files"]
    return files


@pytest.mark.parametrize("case", CASES)
def test_code_is_put_together_as_the_sdk_does(sdk: Reader, case: str, tmp_path: Path) -> None:
    files, code, includes, expected = CASES[case]
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    assert set(same(sdk, written(tmp_path / "tree", files, code, includes), scratch)) == expected


@pytest.mark.parametrize(
    ("includes", "says"),
    [
        (["../nowhere"], "'../nowhere' does not exist"),
        (["../nowhere.zip"], "'../nowhere.zip' does not exist"),
        (["../more/train.py"], "the code has a 'train.py' already"),
        (["/"], "cannot be included"),
    ],
)
def test_what_the_sdk_refuses_to_put_together_is_refused(sdk: Reader, includes: list[str], says: str, tmp_path: Path) -> None:
    path = written(tmp_path, TREE | {"more/train.py": "other"}, "./src", includes)
    assert "refusal" in sdk.ask(kind="component", path=str(path), code=True)
    with pytest.raises(Invalid, match=says):
        ours(path, tmp_path)


NAMES = st.sampled_from(["a.py", "b.log", "c.txt", "d/a.py", "d/e/b.log", "d/e/c.txt", "f/c.txt"])
RULES = st.lists(
    st.sampled_from(["*.log", "a.py", "/c.txt", "d/", "d/e", "f/*", "!b.log", "# words", "", "**/c.txt", "lib", "lib/d"]), max_size=3
)
FILES = st.dictionaries(NAMES, st.sampled_from(["", "1", "22"]), min_size=1)
FOLDERS = st.tuples(
    FILES, st.dictionaries(st.sampled_from([".amlignore", ".gitignore", "d/.amlignore", "f/.gitignore"]), RULES, max_size=2)
)


def placed(folder: str, held: tuple[dict[str, str], dict[str, list[str]]]) -> dict[str, str]:
    files, rules = held
    return {f"{folder}/{name}": text for name, text in files.items()} | {
        f"{folder}/{name}": "\n".join(lines) for name, lines in rules.items()
    }


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.explicit, Phase.generate])
@given(
    FOLDERS,
    FOLDERS,
    st.sampled_from(["./src", None]),
    st.sampled_from([["../lib"], ["../lib.zip"], ["../lib", "../lib/d.zip"], ["../lib/a.py", "../lib/d"]]),
)
def test_generated_folders_are_put_together_as_the_sdk_does(
    sdk: Reader, code: Any, lib: Any, source: str | None, includes: list[str]
) -> None:
    with TemporaryDirectory() as folder:
        path = written(Path(folder), {**placed("doc/src", code), **placed("lib", lib)}, source, includes)
        scratch = Path(folder) / "scratch"
        scratch.mkdir()
        try:
            own = ours(path, scratch)
        except Invalid:
            # Nothing is left to send, or a name is taken: what the SDK does then is not to be copied.
            theirs = sdk.ask(kind="component", path=str(path), code=True)
            assert "refusal" in theirs or theirs["files"] == {}
            return
        theirs = sdk.ask(kind="component", path=str(path), code=True)
        assert own["files"] == theirs.get("files"), theirs
