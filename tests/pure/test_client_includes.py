"""Code with `additional_includes`, without the SDK (tests/sdk/test_yaml_includes.py has the same cases with it): what is put together, and what is refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.fixtures.includes import CASES, TREE, ours, written

from moorage.client.includes import merged
from moorage.client.snapshot import Limits
from moorage.errors import Invalid
from moorage.wire.documents.document import Kind, load


@pytest.mark.parametrize("case", CASES)
def test_what_is_included_lies_beside_the_code(case: str, tmp_path: Path) -> None:
    files, code, includes, expected = CASES[case]
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    assert set(ours(written(tmp_path / "tree", files, code, includes), scratch)["files"]) == expected


def test_an_archive_is_the_same_each_time_and_holds_the_folder_by_its_name(tmp_path: Path) -> None:
    path = written(tmp_path, TREE | {"lib/.amlignore": "*.log\n"}, None, ["../lib.zip"])
    made = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        made.append(ours(path, tmp_path / name))
        os.utime(tmp_path / "lib" / "a.py", (0, 10**9))
    assert made[0] == made[1], "the same content is sent once"
    assert [name for name, _ in made[0]["files"]["lib.zip"]] == ["lib/", "lib/.amlignore", "lib/a.py", "lib/deep/b.py"]


@pytest.mark.parametrize(
    ("includes", "says", "code"),
    [
        (["../nowhere"], "'../nowhere' does not exist", "PathNotFound"),
        (["../train.zip"], "'../train.zip' does not exist", "PathNotFound"),
        (["../more/train.py"], "'../more/train.py': the code has a 'train.py' already; rename one of them.", "IncludeExists"),
        (["/"], "'/' is the root of the file system", "PathNotFound"),
        (["../linked"], "is a link out of the folder", "BadLink"),
        (["../dead"], "leads nowhere", "BadLink"),
    ],
)
def test_what_cannot_be_included_is_refused(includes: list[str], says: str, code: str, tmp_path: Path) -> None:
    path = written(tmp_path, TREE | {"more/train.py": "other", "linked/x": "x", "dead/x": "x"}, "./src", includes)
    (tmp_path / "linked" / "out").symlink_to(tmp_path / "one.txt")
    (tmp_path / "dead" / "end").symlink_to(tmp_path / "nowhere")
    with pytest.raises(Invalid, match=says.replace("(", r"\(")) as refused:
        ours(path, tmp_path)
    assert refused.value.code == code


def test_links_inside_are_followed_and_a_circle_ends(tmp_path: Path) -> None:
    path = written(tmp_path, TREE, "./src", ["../lib"])
    (tmp_path / "lib" / "again").symlink_to(tmp_path / "lib")
    (tmp_path / "lib" / "other").symlink_to(tmp_path / "lib" / "deep")
    (tmp_path / "doc" / "src" / "lib").symlink_to(tmp_path / "lib")
    names = set(ours(path, tmp_path)["files"])
    assert {"lib/a.py", "lib/other/b.py"} <= names and not any(name.startswith("lib/again/") for name in names)


def test_limits_count_what_is_included(tmp_path: Path) -> None:
    path = written(tmp_path, TREE, "./src", ["../lib"])
    with pytest.raises(Invalid, match="holds 6 files \\(the limit is 5\\)"):
        merged(path.parent / "src", ["../lib"], path.parent, tmp_path, limits=Limits(None, 5))


def test_what_is_no_path_or_has_no_local_code_is_refused_with_its_line() -> None:
    text = "command: c\nenvironment: azureml:e:1\n"
    for line, says in (
        ("additional_includes: [azureml:x:1]", "additional_includes.0: 'azureml:x:1' is no local path"),
        ("code: azureml:c:1\nadditional_includes: [a]", "additional_includes: files are put beside local code, and 'azureml:c:1' is none"),
        ("additional_includes: a", "additional_includes: expected a list"),
        ("additional_includes: [{type: artifact, feed: f}]", "additional_includes.0: expected text, found a mapping."),
    ):
        with pytest.raises(Invalid) as refused:
            load(Kind.COMPONENT, text + line, name="c.yml", folder=Path())
        assert says in refused.value.message
