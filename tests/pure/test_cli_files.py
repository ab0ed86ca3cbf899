"""What the client reads and writes on this machine: ignore rules, snapshots, the profile, names of fetched files."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import pytest

from moorage.cli.registry import as_typed
from moorage.client import ignore, profile
from moorage.client.assets import Upload
from moorage.client.blobs import inside
from moorage.client.snapshot import Limits, megabytes, take
from moorage.errors import Invalid


@pytest.mark.parametrize(
    ("rules", "path", "folder", "out"),
    [
        ("*.pyc", "a/b.pyc", False, True),
        ("*.pyc", "a/b.py", False, False),
        ("data", "x/data", True, True),
        ("data/", "x/data", True, True),
        ("data/", "x/data", False, False),
        ("/data", "x/data", True, False),
        ("/data", "data", True, True),
        ("a/b", "x/a/b", True, False),
        ("a/**/b", "a/x/y/b", False, True),
        ("a/**/b", "a/b", False, True),
        ("**/logs", "x/y/logs", True, True),
        ("logs/**", "logs/a/b", False, True),
        ("logs/**", "logs", True, False),
        ("*.log\n!keep.log", "keep.log", False, False),
        ("!keep.log\n*.log", "keep.log", False, True),
        ("# comment\n\n", "# comment", False, False),
        ("\\#x", "#x", False, True),
        ("file[0-9].txt", "file7.txt", False, True),
        ("file[!0-9].txt", "file7.txt", False, False),
        ("a?c", "abc", False, True),
        ("a?c", "a/c", False, False),
        ("trailing  ", "trailing", False, True),
        ("a+b(c)", "a+b(c)", False, True),
    ],
)
def test_ignore_rules_follow_git(rules: str, path: str, folder: bool, out: bool) -> None:
    assert ignore.left_out(ignore.parse(rules), path, folder=folder) is out


def test_a_snapshot_leaves_out_what_git_would(tmp_path: Path) -> None:
    rules = "*.log\n!keep.log\n/build/\ntmp*/\n**/cache/*.bin\ndocs/*.md\n"
    for name in (
        "a.log",
        "keep.log",
        "src/b.log",
        "build/x",
        "src/build/y",
        "tmp1/z",
        "q/cache/m.bin",
        "docs/n.md",
        "docs/deep/n.md",
        "main.py",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    (tmp_path / ".gitignore").write_text(rules)
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    listed = subprocess.run(
        ["git", "ls-files", "--others", "--exclude-standard"], cwd=tmp_path, check=True, capture_output=True, text=True
    ).stdout.split()
    assert sorted(file.name for file in take(tmp_path).files) == sorted(listed)


def test_amlignore_takes_the_place_of_gitignore(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "b.txt").write_text("b")
    (tmp_path / ".gitignore").write_text("a.txt")
    (tmp_path / ".amlignore").write_text("b.txt")
    assert [file.name for file in take(tmp_path).files] == [".amlignore", ".gitignore", "a.txt"]


def test_the_hash_is_the_one_that_the_sdk_makes_of_the_same_folder(tmp_path: Path) -> None:
    files = {
        "train.py": "print(1)\n",
        ".amlignore": "*.log\nskip/\n",
        "B/Z.txt": "x",
        "a/empty": "",
        "b-1": "b-1",
        "é #1.txt": "é\r\n",
        "_x": "u",
        "a.log": "no",
        "skip/n": "n",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(text.encode())
    # What azure-ai-ml 1.35.2 sends as `hash` with hashVersion 202208.
    assert take(tmp_path).hash() == "a7244d02bdd2083ad7a8985c22cac7360a02f08ceb1cd66140cf74de6aff48df"
    assert take(tmp_path / "train.py").hash() == "7e6aee81e75d7941c8a3ec46da6b49c0905194136af456e2271f263c3bbefefe"


def test_what_is_read_for_the_hash_is_counted_and_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * (3 << 20))
    (tmp_path / "b").write_bytes(b"y")
    snapshot, pieces = take(tmp_path), []
    snapshot.hash(pieces.append)
    assert sum(pieces) == snapshot.size and len(pieces) == 4
    shown: list[tuple[str, int, int]] = []
    snapshot.hash(Upload(lambda *line: shown.append(line)).reader("d", snapshot.size))
    assert shown == [("d is being read", piece << 20, snapshot.size) for piece in (1, 2, 3)], "its end is no news"
    (tmp_path / "b").unlink()
    with pytest.raises(Invalid, match=r"b cannot be read: No such file or directory. Make it readable, or leave it out in .amlignore."):
        snapshot.hash()


def test_the_hash_follows_names_and_contents_and_not_times(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    first = take(tmp_path).hash()
    os.utime(tmp_path / "a", (1, 1))
    assert take(tmp_path).hash() == first
    (tmp_path / "a").write_text("2")
    assert take(tmp_path).hash() != first
    (tmp_path / "a").rename(tmp_path / "b")
    assert take(tmp_path).hash() != first


def test_links_inside_are_followed_and_links_out_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "code"
    (folder / "real").mkdir(parents=True)
    (folder / "real" / "a").write_text("a")
    (folder / "link").symlink_to("real")
    (folder / "real" / "up").symlink_to("..")
    assert [file.name for file in take(folder).files][:2] == ["link/a", "real/a"]
    (tmp_path / "secret").write_text("s")
    (folder / "out").symlink_to(tmp_path / "secret")
    with pytest.raises(Invalid, match="is a link out of the folder"):
        take(folder)
    (folder / "out").unlink()
    (folder / "broken").symlink_to("nowhere")
    with pytest.raises(Invalid, match="leads nowhere"):
        take(folder)


def test_limits_name_the_largest_files_and_the_remedy(tmp_path: Path) -> None:
    for index in range(4):
        (tmp_path / f"f{index}").write_bytes(b"x" * (index * 1000))
    with pytest.raises(Invalid, match=r"4 files \(the limit is 3\).*f3 \(2.9 kB\), f2.*\.amlignore"):
        take(tmp_path, limits=Limits(None, 3), what="the code folder")
    with pytest.raises(Invalid, match="MOORAGE_CODE_LIMIT_MB must be a positive whole number"):
        Limits.of({"MOORAGE_CODE_LIMIT_MB": "big"})


def test_absent_and_empty_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="does not exist or cannot be read"):
        take(tmp_path / "absent", what="the code folder 'absent'")
    with pytest.raises(Invalid, match="holds no files"):
        take(tmp_path)


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc/passwd", "", "a\\..\\..\\x", "a\0b", "link/x"])
def test_a_stored_name_never_leads_out_of_the_folder(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "into"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path)
    with pytest.raises(Invalid):
        inside(folder, name)


def test_ordinary_stored_names_stay_as_they_are(tmp_path: Path) -> None:
    assert inside(tmp_path, "a/b..c/é #1 %.txt") == tmp_path / "a/b..c/é #1 %.txt"


def test_the_profile_is_private_whole_and_overridden_by_the_environment(tmp_path: Path) -> None:
    environ = {"MOORAGE_HOME": str(tmp_path / "home")}
    file = profile.save({"url": "https://h", "token": 'a"b\\c\n', "workspace": "w"}, environ)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    profile.save({"workspace": "x", "url": ""}, environ)
    found = profile.load(environ)
    assert (found.url, found.token, found.workspace) == ("", 'a"b\\c\n', "x")
    found = profile.load({**environ, "MOORAGE_WORKSPACE": "y"})
    assert (found.workspace, found.sources["workspace"]) == ("y", "MOORAGE_WORKSPACE")
    assert 'a"b' not in repr(found)
    assert list(file.parent.iterdir()) == [file]


def test_a_damaged_profile_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("url = ")
    with pytest.raises(Invalid, match=r"config.toml is not valid TOML"):
        profile.load({"MOORAGE_HOME": str(tmp_path)})
    (tmp_path / "config.toml").write_text("url = 3")
    with pytest.raises(Invalid, match="'url' must be text in quotes"):
        profile.load({"MOORAGE_HOME": str(tmp_path)})
    with pytest.raises(Invalid, match="'colour' is no setting"):
        profile.save({"colour": "red"}, {"MOORAGE_HOME": str(tmp_path / "x")})


def test_a_workspace_that_is_not_set_names_its_option() -> None:
    with pytest.raises(Invalid, match=r"no resource group is set\. Give --resource-group, set MOORAGE_RESOURCE_GROUP"):
        profile.Profile(subscription="s", workspace="w").scope()


@pytest.mark.parametrize(("size", "text"), [(0, "0 B"), (312, "312 B"), (4300, "4.2 kB"), (5 << 20, "5.0 MB"), (3 << 40, "3072.0 GB")])
def test_sizes_are_readable(size: int, text: str) -> None:
    assert megabytes(size) == text


def test_a_path_of_the_command_line_is_a_file_here_unless_it_is_a_reference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for reference in ("runs:/j/model", "azureml://jobs/j/outputs/o", "https://example.org/m", "azureml:m:1", "azureml:a:b:c"):
        assert as_typed(reference) == reference
    assert [as_typed(path) for path in ("m", "file:./m", "~/m", "/m")] == [f"{tmp_path}/m", f"{tmp_path}/m", f"{tmp_path}/home/m", "/m"]
