"""The component image: what Docker and `scripts/image` make is described the same, and the writer of archives makes what nodes read."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import re
import shlex
import tarfile
from pathlib import Path
from typing import Any

import pytest
from image.facts import Facts, component
from image.oci import Layer, archive, split

from moorage import __version__
from moorage.extension.manifests import COMPONENT_IMAGE, Connection, render
from moorage.extension.settings import parse_settings

ROOT = Path(__file__).parent.parent.parent
FACTS = Facts("example.test/image", "bookworm", (), user="7:8", entry_point=["run"], environment={"A": "b=c"}, labels={"l": "m"})


def _instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions, continued lines joined."""
    text = (ROOT / "image" / "Dockerfile").read_text()
    lines = re.sub(r"\\\n", " ", "\n".join(line for line in text.splitlines() if not line.startswith("#"))).splitlines()
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in lines if line.strip())]


def _last_stage() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for word, rest in _instructions():
        if word == "FROM":
            found = {}
        found.setdefault(word, []).append(rest)
    return found


def _pairs(words: list[str]) -> dict[str, str]:
    return dict(pair.split("=", 1) for word in words for pair in shlex.split(word))


def test_docker_and_our_own_builder_make_the_same_image() -> None:
    facts, stage = component(), _last_stage()
    assert stage["FROM"] == [f"debian:{facts.suite}-slim"]
    assert stage["USER"] == [facts.user]
    assert stage["WORKDIR"] == [facts.working_folder]
    assert json.loads(stage["ENTRYPOINT"][0]) == facts.entry_point
    assert json.loads(stage["CMD"][0]) == facts.command
    assert _pairs(stage["ENV"]) == facts.environment
    assert _pairs(stage["LABEL"]) == {**facts.labels, "org.opencontainers.image.version": "$VERSION"}
    assert stage["COPY"] == [f"--from=build {facts.prefix} {facts.prefix}"]
    installed = re.search(r"apt-get install (.*?)&&", " ".join(stage["RUN"]))
    assert installed and [word for word in installed[1].split() if not word.startswith("--")] == facts.packages


def test_the_last_stage_has_no_build_tools() -> None:
    assert not {"pip", "hatchling", "python3-venv", "gcc", "uv"} & set(re.findall(r"[\w-]+", " ".join(_last_stage()["RUN"])))


def test_the_image_is_the_one_that_the_extension_asks_for() -> None:
    facts = component()
    assert f"{facts.repository}:{__version__}" == COMPONENT_IMAGE
    settings = parse_settings({"enableTraining": "True"}, {})
    (pod,) = [
        each["spec"]["template"]["spec"] for each in render("m", settings, Connection("", "", "", "")) if each["kind"] == "Deployment"
    ]
    assert str(pod["securityContext"]["runAsUser"]) == facts.user.split(":")[0]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A root file system in no particular order, with a device, a link to a file elsewhere and two names of one file."""
    path = tmp_path / "tree.tar"

    def add(tar: tarfile.TarFile, name: str, kind: bytes = tarfile.REGTYPE, content: bytes = b"", **more: Any) -> None:
        member = tarfile.TarInfo(name)
        member.type, member.size, member.mtime, member.uid, member.uname = kind, len(content), 12345.678, 42, "somebody"
        for key, value in more.items():
            setattr(member, key, value)
        tar.addfile(member, io.BytesIO(content))

    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        add(tar, "./", tarfile.DIRTYPE)
        add(tar, "./z", content=b"two names", mode=0o4755)
        add(tar, "./a", tarfile.LNKTYPE, linkname="./z")
        add(tar, "./dev/null", tarfile.CHRTYPE)
        add(tar, "./opt/", tarfile.DIRTYPE, mode=0o750)
        add(tar, "./opt/app", content=b"application")
        add(tar, "./bin", tarfile.SYMTYPE, linkname="usr/bin")
    return path


def _split(tree: Path, folder: Path, *, compress: bool = False) -> list[Layer]:
    folder.mkdir()
    return split(tree, ["base", "app"], lambda name: int(name.startswith("opt/")), folder, epoch=1000, compress=compress)


def test_layers_hold_each_path_once_sorted_and_without_the_marks_of_their_making(tree: Path, tmp_path: Path) -> None:
    layers = _split(tree, tmp_path / "layers")
    with tarfile.open(layers[0].path) as base, tarfile.open(layers[1].path) as app:
        assert base.getnames() == ["a", "bin", "opt", "z"]
        assert app.getnames() == ["opt/app"]
        assert {each.mtime for each in base} == {1000}
        assert {each.uname for each in base} == {""}
        assert base.getmember("a").uid == 42
        first, second = base.getmember("a"), base.getmember("z")
        assert first.isreg() and second.islnk() and second.linkname == "a"
        content = base.extractfile(first)
        assert content is not None and content.read() == b"two names"
        assert base.getmember("bin").linkname == "usr/bin"
        assert base.getmember("opt").mode == 0o750
    assert [each.unpacked for each in layers] == [9, 11]


def test_a_name_whose_file_lies_in_another_layer_becomes_a_file(tree: Path, tmp_path: Path) -> None:
    folder = tmp_path / "layers"
    folder.mkdir()
    layers = split(tree, ["base", "links"], lambda name: int(name == "a"), folder, epoch=0, compress=False)
    with tarfile.open(layers[1].path) as links:
        content = links.extractfile("a")
        assert links.getmember("a").isreg() and content is not None and content.read() == b"two names"


def test_the_same_tree_gives_the_same_archive(tree: Path, tmp_path: Path) -> None:
    made = []
    for name in ("one", "two"):
        layers = _split(tree, tmp_path / name, compress=True)
        digest = archive(tmp_path / f"{name}.tar", FACTS, "example.test/image:1", layers, architecture="amd64", epoch=1000)
        made.append((digest, (tmp_path / f"{name}.tar").read_bytes()))
    assert made[0] == made[1]


@pytest.mark.parametrize("compress", [False, True])
def test_an_archive_leads_from_its_index_to_the_content_of_its_layers(tree: Path, tmp_path: Path, compress: bool) -> None:
    layers = _split(tree, tmp_path / "layers", compress=compress)
    path = tmp_path / "image.tar"
    digest = archive(path, FACTS, "example.test/image:1", layers, architecture="amd64", epoch=0)
    with tarfile.open(path) as tar:
        files = {each.name: tar.extractfile(each).read() for each in tar if each.isreg()}  # type: ignore[union-attr]

    def blob(descriptor: dict[str, Any]) -> bytes:
        content = files[f"blobs/{descriptor['digest'].replace(':', '/')}"]
        assert f"sha256:{hashlib.sha256(content).hexdigest()}" == descriptor["digest"]
        assert len(content) == descriptor["size"]
        return content

    assert json.loads(files["oci-layout"]) == {"imageLayoutVersion": "1.0.0"}
    (entry,) = json.loads(files["index.json"])["manifests"]
    assert entry["digest"] == digest
    assert entry["annotations"]["io.containerd.image.name"] == "example.test/image:1"
    manifest = json.loads(blob(entry))
    config = json.loads(blob(manifest["config"]))
    assert config["config"] == {"User": "7:8", "Env": ["A=b=c"], "Entrypoint": ["run"], "WorkingDir": "/", "Labels": {"l": "m"}}
    unpacked = [gzip.decompress(blob(each)) if compress else blob(each) for each in manifest["layers"]]
    assert [f"sha256:{hashlib.sha256(each).hexdigest()}" for each in unpacked] == config["rootfs"]["diff_ids"]
    assert {each["mediaType"].endswith("+gzip") for each in manifest["layers"]} == {compress}
    (old,) = json.loads(files["manifest.json"])
    assert old["Config"] in files and set(old["Layers"]) <= set(files)
