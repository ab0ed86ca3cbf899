"""fetch and upload against a blob facade that misbehaves, over real sockets."""

from __future__ import annotations

import json
import mmap
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from moorage.errors import Forbidden, Invalid, MoorageError, NotFound, Unavailable
from moorage.podside import blobs
from moorage.podside.access import Access
from moorage.podside.fetch import fetch
from moorage.podside.patience import Patience
from moorage.podside.upload import Found, Ledger, Signature, store_all
from moorage.specs.manifest import Manifest

from .podside_blobs import TOKEN, Store, facade

BRIEF = timedelta(seconds=0.5)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[tuple[Store, Access]]:
    with facade(tmp_path / "access") as found:
        yield found


def download(uri: str, to: Path, kind: str = "any", **more: object) -> Manifest:
    return {"downloads": [{"uri": uri, "kind": kind, "to": str(to), **more}]}


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_folder_arrives_whole_over_several_pages(service: tuple[Store, Access], tmp_path: Path) -> None:
    store, access = service
    expected = {f"d{n % 3}/f é#{n}%.txt": bytes([n]) * n for n in range(11)}
    store.blobs = {f"c/code/{name}": content for name, content in expected.items()} | {"c/code2/other": b"x", "c/code/dir/": b""}
    fetch(download("c/code", tmp_path / "to", "folder"), access, patience=BRIEF)
    assert files(tmp_path / "to") == expected


def test_a_file_lands_in_its_folder_under_its_own_name(service: tuple[Store, Access], tmp_path: Path) -> None:
    store, access = service
    store.blobs = {"c/up/data": b"1,2"}
    fetch(download("c/up/data", tmp_path / "data", "file"), access, patience=BRIEF)
    fetch(download("c/up/data", tmp_path / "any"), access, patience=BRIEF)
    assert files(tmp_path / "data") == files(tmp_path / "any") == {"data": b"1,2"}


def test_a_models_folder_keeps_its_name_and_its_entries_are_found_above_it(service: tuple[Store, Access], tmp_path: Path) -> None:
    store, access = service
    store.blobs = {"c/jobs/j/model/m.pkl": b"m", "c/jobs/j/model/sub/n": b"n"}
    for _ in range(2):
        fetch(download("c/jobs/j/model", tmp_path / "m" / "1", "folder", named=True), access, patience=BRIEF)
    assert (tmp_path / "m/1/model/sub/n").read_bytes() == (tmp_path / "m/1/sub/n").read_bytes() == b"n"
    assert (tmp_path / "m/1/m.pkl").read_bytes() == b"m"


def test_folders_for_outputs_are_made(service: tuple[Store, Access], tmp_path: Path) -> None:
    uploads = [
        {"from": str(tmp_path / "o/a"), "to": "c/a", "kind": "folder"},
        {"from": str(tmp_path / "f/b.csv"), "to": "c/b", "kind": "file"},
    ]
    fetch({"folders": [str(tmp_path / "code")], "uploads": uploads}, service[1], patience=BRIEF)
    assert (tmp_path / "code").is_dir()
    assert (tmp_path / "o/a").is_dir()
    assert (tmp_path / "f").is_dir()
    assert not (tmp_path / "f/b.csv").exists()


@pytest.mark.slow  # it waits as pods do
def test_passing_faults_are_waited_out(service: tuple[Store, Access], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store, access = service
    store.blobs = {"c/a": b"content"}
    store.faults = [503, 0, 401, 429]
    fetch(download("c/a", tmp_path / "to"), access, patience=timedelta(seconds=30))
    assert files(tmp_path / "to") == {"a": b"content"}
    assert "Trying again" in capsys.readouterr().out


def test_a_broken_download_goes_on_where_it_stopped(service: tuple[Store, Access], tmp_path: Path) -> None:
    store, access = service
    content = os.urandom(300_000)
    store.blobs, store.cut = {"c/a": content}, 100_000
    fetch(download("c/a", tmp_path / "to"), access, patience=timedelta(seconds=30))
    assert files(tmp_path / "to") == {"a": content}
    assert sum("GET" in line for line in store.log) == 2


def test_a_file_is_never_put_together_from_two_versions_of_a_blob(service: tuple[Store, Access], tmp_path: Path) -> None:
    store, access = service
    first, second = os.urandom(300_000), os.urandom(300_000)
    store.blobs, store.cut, store.replaced = {"c/a": first}, 100_000, {"c/a": second}
    fetch(download("c/a", tmp_path / "to"), access, patience=timedelta(seconds=60))
    assert files(tmp_path / "to") == {"a": second}


@pytest.mark.slow  # it waits as pods do
def test_a_blob_that_is_replaced_by_one_of_another_size_is_refused(service: tuple[Store, Access], tmp_path: Path) -> None:
    store, access = service
    store.blobs, store.cut, store.replaced = {"c/a": b"x" * 300_000}, 100_000, {"c/a": b"y" * 300_001}
    with pytest.raises(Invalid, match="changed meanwhile"):
        fetch(download("c/a", tmp_path / "to"), access, patience=timedelta(seconds=60))


def test_a_service_that_stays_away_is_given_up_with_its_address(tmp_path: Path) -> None:
    folder = tmp_path / "access"
    with facade(folder) as (_, access):
        pass
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:\d+ cannot be reached: Connection refused"):
        fetch(download("c/a", tmp_path / "to"), access, patience=BRIEF)
    assert files(tmp_path / "to") == {}


@pytest.mark.parametrize(
    ("uri", "kind", "error", "words"),
    [
        ("c/none", "any", NotFound, "nothing at 'c/none'"),
        ("c/none", "file", NotFound, "no file 'c/none'"),
        ("c/evil", "folder", Invalid, "no path below"),
    ],
)
def test_what_is_not_there_or_would_leave_the_folder_is_refused_at_once(
    service: tuple[Store, Access], tmp_path: Path, uri: str, kind: str, error: type[MoorageError], words: str
) -> None:
    store, access = service
    store.blobs = {"c/evil/../../x": b"x", "c/evil/ok": b"y"}
    with pytest.raises(error, match=words):
        fetch(download(uri, tmp_path / "to", kind), access, patience=timedelta(minutes=1))
    assert files(tmp_path / "to") == {}


def test_a_token_that_does_not_cover_a_blob_is_no_reason_to_wait(service: tuple[Store, Access], tmp_path: Path) -> None:
    service[0].faults = [403]
    with pytest.raises(Forbidden, match="does not cover"):
        fetch(download("c/a", tmp_path / "to"), service[1], patience=timedelta(minutes=1))


@contextmanager
def sidecar(
    access: Access, uploads: Sequence[Manifest], folder: Path, *, grace: float = 60, within: Path | None = None
) -> Iterator[subprocess.Popen[str]]:
    """The upload container's process, once it understands SIGTERM."""
    plan, ready = folder / "plan.json", folder / "ready"
    plan.write_text(json.dumps({"uploads": list(uploads)}))
    command = [sys.executable, "-m", "moorage.podside", "upload", "--plan", str(plan), "--access", str(access.folder)]
    command += ["--grace", str(grace), "--ready", str(ready), *(["--within", str(within)] if within else [])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            while not ready.exists() and process.poll() is None:
                threading.Event().wait(0.02)
            yield process
        finally:
            process.kill()


def stop(process: subprocess.Popen[str]) -> str:
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=90)
    return output


@pytest.mark.slow  # it waits until a file is quiet
def test_quiet_files_are_stored_as_the_command_runs_and_the_rest_at_its_end(service: tuple[Store, Access], tmp_path: Path) -> None:
    store, access = service
    out = tmp_path / "out"
    (out / "deep").mkdir(parents=True)
    (out / "deep/old é.bin").write_bytes(b"old")
    os.utime(out / "deep/old é.bin", (1, 1))
    single = tmp_path / "single.csv"
    with sidecar(
        access,
        [{"from": str(out), "to": "c/out", "kind": "folder"}, {"from": str(single), "to": "c/x/single.csv", "kind": "file"}],
        tmp_path,
    ) as process:
        assert store.wait_for("c/out/deep/old é.bin", b"old")
        (out / "late.txt").write_bytes(b"late")
        (out / "empty").touch()
        single.write_bytes(b"1")
        assert "c/out/late.txt" not in store.blobs, "it has not been left alone long enough"
        store.faults = [503, 0]
        output = stop(process)
    assert process.returncode == 0, output
    assert store.blobs == {"c/out/deep/old é.bin": b"old", "c/out/late.txt": b"late", "c/out/empty": b"", "c/x/single.csv": b"1"}


@pytest.mark.slow  # it waits until a file is quiet
@pytest.mark.parametrize("disk", [True, False])
def test_a_file_that_is_written_through_mapped_memory_is_stored_as_it_was_at_the_end(
    service: tuple[Store, Access], tmp_path: Path, request: pytest.FixtureRequest, disk: bool
) -> None:
    """The first change sets the file's time; the second, to the same page, does not until that page is on the disk, which in memory it never is."""
    store, access = service
    out = tmp_path / "out"
    if not disk:
        if not Path("/dev/shm").is_dir():
            pytest.skip("there is no folder in memory here")
        out = Path(tempfile.mkdtemp(dir="/dev/shm"))
        request.addfinalizer(lambda: shutil.rmtree(out))
    out.mkdir(exist_ok=True)
    with (out / "array").open("w+b") as file:
        file.truncate(mmap.PAGESIZE)
        with mmap.mmap(file.fileno(), mmap.PAGESIZE) as memory:
            memory[:5] = b"first"
            os.fdatasync(file.fileno())
            os.utime(out / "array", (1, 1))
            memory[:5] = b"first"
            os.utime(out / "array", (1, 1))
            with sidecar(access, [{"from": str(out), "to": "c/out", "kind": "folder"}], tmp_path) as process:
                assert store.wait_for("c/out/array", b"first".ljust(mmap.PAGESIZE, b"\0"))
                memory[:5] = b"final"
                output = stop(process)
    assert process.returncode == 0, output
    assert store.blobs["c/out/array"][:5] == b"final"


@pytest.mark.slow  # it waits until a file is stored as the command runs
def test_a_file_whose_change_keeps_size_time_and_inode_is_stored_as_it_was_at_the_end(
    service: tuple[Store, Access], tmp_path: Path
) -> None:
    """As `cp -p` and archives with fixed times leave it."""
    store, access = service
    out = tmp_path / "out"
    out.mkdir()
    (out / "model").write_bytes(b"first")
    os.utime(out / "model", (1, 1))
    before = (out / "model").stat()
    with sidecar(access, [{"from": str(out), "to": "c/out", "kind": "folder"}], tmp_path) as process:
        assert store.wait_for("c/out/model", b"first")
        (out / "model").write_bytes(b"final")
        os.utime(out / "model", (1, 1))
        after = (out / "model").stat()
        assert (after.st_size, after.st_mtime_ns, after.st_ino) == (before.st_size, before.st_mtime_ns, before.st_ino)
        output = stop(process)
    assert process.returncode == 0, output
    assert store.blobs == {"c/out/model": b"final"}


def test_links_out_of_the_folder_are_not_followed(service: tuple[Store, Access], tmp_path: Path) -> None:
    store, access = service
    out = tmp_path / "out"
    out.mkdir()
    (out / "real").write_bytes(b"r")
    (out / "inside").symlink_to("real")
    (out / "token").symlink_to(access.folder / "token")
    (out / "nowhere").symlink_to("absent")
    (out / "elsewhere").symlink_to("/nowhere/else")  # perhaps a folder of the image, which only the user's container has
    os.mkfifo(out / "pipe")
    with sidecar(access, [{"from": str(out), "to": "c/out", "kind": "folder"}], tmp_path) as process:
        output = stop(process)
    assert process.returncode == 0, output
    assert store.blobs == {"c/out/real": b"r", "c/out/inside": b"r"}
    assert TOKEN.encode() not in store.blobs.values()
    warning = output.splitlines()[-1]
    assert warning.startswith("Warning: Links that lead outside of their output are not stored, nor what they lead to: ")
    for name, target in (("elsewhere", "/nowhere/else"), ("token", access.folder / "token")):
        assert f"'{out}/{name}' (to '{target}')" in warning
    assert "nowhere'" not in warning
    assert "inside" not in warning


def test_a_sidecar_that_starts_again_follows_no_link_that_took_the_place_of_an_output(
    service: tuple[Store, Access], tmp_path: Path
) -> None:
    """The user's code is running by then, and what this container may read is not the user's: the pod's token, say."""
    store, access = service
    work = tmp_path / "work"
    (work / "outputs").mkdir(parents=True)
    (work / "outputs/folder").symlink_to(access.folder)
    (work / "elsewhere").symlink_to(access.folder)
    (work / "outputs/kept").mkdir()
    (work / "outputs/kept/file").write_bytes(b"kept")
    uploads = [
        {"from": str(work / "outputs/folder"), "to": "c/folder", "kind": "folder"},
        {"from": str(work / "elsewhere/token"), "to": "c/token", "kind": "file"},
        {"from": str(work / "outputs/kept"), "to": "c/kept", "kind": "folder"},
    ]
    with sidecar(access, uploads, tmp_path, within=work) as process:
        output = stop(process)
    assert process.returncode == 0, output
    assert store.blobs == {"c/kept/file": b"kept"}
    for name, target in (("outputs/folder", access.folder), ("elsewhere", access.folder)):
        assert f"'{work / name}' (to '{target}')" in output.splitlines()[-1]


def test_a_name_that_is_no_text_is_stored_under_one_that_is(service: tuple[Store, Access], tmp_path: Path) -> None:
    store, access = service
    out = tmp_path / "out"
    out.mkdir()
    (out / "plain").write_bytes(b"p")
    try:
        Path(os.fsdecode(os.fsencode(out) + b"/caf\xe9")).write_bytes(b"latin")
    except OSError:
        pytest.skip("this file system takes no such names")
    with sidecar(access, [{"from": str(out), "to": "c/out", "kind": "folder"}], tmp_path) as process:
        output = stop(process)
    assert process.returncode == 0, output
    assert store.blobs == {"c/out/plain": b"p", "c/out/caf%E9": b"latin"}


def test_what_is_remembered_of_a_file_is_small() -> None:
    """A job may write hundreds of thousands of files, and the sidecar's memory is limited."""
    ledger = Ledger()
    root = Path("/mnt/azureml/outputs/images")
    for number in range(5000):
        ledger.store(Found(root / f"{number}.png", root, f"c/out/images/{number}.png", Signature(number, number, number, number)))
    held = sys.getsizeof(ledger.stored) + sum(sys.getsizeof(key) + sys.getsizeof(record) for key, record in ledger.stored.items())
    assert held / 5000 < 300, "bytes a file"


def test_outputs_that_cannot_be_stored_fail_with_one_json_object(service: tuple[Store, Access], tmp_path: Path) -> None:
    store, access = service
    out = tmp_path / "out"
    out.mkdir()
    (out / "a").write_bytes(b"a")
    with sidecar(access, [{"from": str(out), "to": "c/out", "kind": "folder"}], tmp_path, grace=1) as process:
        store.faults = [503] * 50
        output = stop(process)
    assert process.returncode == 1
    failure = json.loads(output.splitlines()[-1])
    assert failure["code"] == "UploadFailed"
    assert "out/a' could not be stored" in failure["message"]


def test_an_output_that_cannot_be_read_is_no_success(service: tuple[Store, Access], tmp_path: Path) -> None:
    """A folder whose path has become longer than the system takes: also the superuser, as whom tests may run, cannot list it."""
    store, access = service
    out = tmp_path / "out"
    out.mkdir()
    (out / "a").write_bytes(b"a")
    where = os.open(out, os.O_RDONLY)
    for _ in range(20):
        os.mkdir("d" * 250, dir_fd=where)
        below = os.open("d" * 250, os.O_RDONLY, dir_fd=where)
        os.close(where)
        where = below
    os.close(os.open("lost", os.O_CREAT | os.O_WRONLY, dir_fd=where))
    os.close(where)
    with sidecar(access, [{"from": str(out), "to": "c/out", "kind": "folder"}], tmp_path) as process:
        output = stop(process)
    subprocess.run(["rm", "-rf", str(out)], check=True)  # deeper than shutil can go
    assert process.returncode == 1, output
    assert store.blobs == {"c/out/a": b"a"}, "what can be read is stored all the same"
    assert "cannot be read (File name too long)" in json.loads(output.splitlines()[-1])["message"]


def test_a_file_that_is_away_when_its_turn_comes_is_stored_once_it_is_back(service: tuple[Store, Access], tmp_path: Path) -> None:
    store, access = service
    out, away = tmp_path / "out", tmp_path / "away"
    out.mkdir()
    (out / "model").write_bytes(b"m")
    found = Found(out / "model", out, "c/out/model", Signature(1, (out / "model").stat().st_mtime_ns, (out / "model").stat().st_ino))
    ledger, client = Ledger(), blobs.BlobStore(access)
    (out / "model").rename(away)
    assert store_all(client, [found], ledger, Patience(BRIEF)).count == 0
    away.rename(out / "model")
    assert ledger.due(found, found.signature.changed / 1e9 + 60), "its name, size, time and inode are as before, but it was never stored"
    assert store_all(client, [found], ledger, Patience(BRIEF)).count == 0
    client.close()
    assert store.blobs == {"c/out/model": b"m"}


def test_a_large_file_goes_up_in_blocks(service: tuple[Store, Access], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, access = service
    monkeypatch.setattr(blobs, "SINGLE_PUT_LIMIT", 1000)
    monkeypatch.setattr(blobs, "BLOCK_SIZE", 700)
    content = os.urandom(2500)
    path = tmp_path / "big"
    path.write_bytes(content)
    client = blobs.BlobStore(access)
    with path.open("rb") as file:
        client.write("c/big", file, len(content))
    client.close()
    assert store.blobs == {"c/big": content}
    assert sum("comp=block&" in line for line in store.log) == 4


def test_a_file_that_keeps_changing_is_stored_less_and_less_often(tmp_path: Path) -> None:
    ledger = Ledger()
    first = Found(tmp_path, tmp_path, "b", Signature(1, 0, 1))
    assert not ledger.due(first, 9)
    assert ledger.due(first, 11)
    ledger.store(first)
    assert not ledger.due(first, 1000)
    second = Found(tmp_path, tmp_path, "b", Signature(2, 0, 1))
    assert not ledger.due(second, 11)
    assert ledger.due(second, 21)


def test_a_command_line_that_fails_ends_its_log_with_the_reason(service: tuple[Store, Access], tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps(download("c/none", tmp_path / "to")))
    command = [sys.executable, "-m", "moorage.podside", "fetch", "--plan", str(plan), "--access", str(service[1].folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert json.loads(done.stderr.splitlines()[-1]) == {
        "code": "BlobNotFound",
        "message": "There is nothing at 'c/none' in the workspace's store.",
    }
