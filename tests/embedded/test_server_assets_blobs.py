"""The blob facade: the seven operations as the SDK's storage client sends them, and who may do what."""

from __future__ import annotations

import base64
import hashlib
import os
from datetime import timedelta
from pathlib import Path
from urllib.parse import quote

import pytest
from tests.fixtures.blobs import Container
from tests.fixtures.served import Served

from moorage.identity import links
from moorage.identity.roles import Role
from moorage.ids import Workspace
from moorage.server.founding import ensure_workspace
from moorage.server.upkeep import tidy

pytest_plugins = ["tests.fixtures.service"]

BLOCK = {"x-ms-blob-type": "BlockBlob"}
NEW = {**BLOCK, "If-None-Match": "*"}


@pytest.fixture
def container(served: Served) -> Container:
    return Container(served)


async def test_a_blob_goes_up_and_comes_back_in_ranges(container: Container) -> None:
    data = os.urandom(9 * 1024 * 1024)
    made = await container.put("/LocalUpload/a/big.bin", data, If_None_Match="*", Content_Type="application/x-thing")
    assert made.status_code == 201
    head = await container.send("HEAD", "/LocalUpload/a/big.bin")
    assert (head.status_code, head.headers["content-length"], head.headers["x-ms-blob-type"]) == (200, str(len(data)), "BlockBlob")
    assert head.headers["content-md5"] == base64.b64encode(hashlib.md5(data).digest()).decode()
    first = await container.send("GET", "/LocalUpload/a/big.bin", x_ms_range="bytes=0-4194303")
    rest = await container.send("GET", "/LocalUpload/a/big.bin", x_ms_range="bytes=4194304-99999999", If_Match=first.headers["etag"])
    assert (first.status_code, first.headers["content-range"]) == (206, f"bytes 0-4194303/{len(data)}")
    assert first.content + rest.content == data
    whole = await container.send("GET", "/LocalUpload/a/big.bin")
    assert (whole.status_code, whole.content, whole.headers["content-type"]) == (200, data, "application/x-thing")


async def test_an_empty_blob_has_no_range_and_is_whole_without_one(container: Container) -> None:
    await container.put("/empty", b"")
    ranged = await container.send("GET", "/empty", x_ms_range="bytes=0-33554431")
    assert (ranged.status_code, ranged.headers["x-ms-error-code"], ranged.headers["content-range"]) == (416, "InvalidRange", "bytes */0")
    assert (await container.send("GET", "/empty")).status_code == 200


@pytest.mark.parametrize(
    ("asked", "status", "content"),
    [
        ("bytes=2-", 206, b"cdef"),
        ("bytes=-2", 206, b"ef"),
        ("bytes=0-0", 206, b"a"),
        ("bytes=5-99", 206, b"f"),
        ("bytes=6-7", 416, None),
        ("bytes=3-1", 416, None),
        ("lines=1-2", 200, b"abcdef"),
        ("bytes=-", 200, b"abcdef"),
    ],
)
async def test_ranges_mean_what_http_says(container: Container, asked: str, status: int, content: bytes | None) -> None:
    await container.put("/x", b"abcdef")
    answer = await container.send("GET", "/x", Range=asked)
    assert answer.status_code == status
    assert content is None or answer.content == content


async def test_blocks_become_a_blob_in_the_order_of_the_list(container: Container, served: Served) -> None:
    for block, content in (("YQ==", b"first-"), ("Yg==", b"lost"), ("Yw==", b"third"), ("Yg==", b"second-")):
        assert (await container.send("PUT", "/b", query=f"comp=block&blockid={block}", content=content)).status_code == 201
    listed = b"<?xml version='1.0' encoding='utf-8'?><BlockList><Latest>YQ==</Latest><Latest>Yg==</Latest><Latest>Yw==</Latest></BlockList>"
    assert (await container.send("HEAD", "/b")).status_code == 404
    done = await container.send("PUT", "/b", query="comp=blocklist", content=listed, x_ms_meta_Upload="1")
    assert done.status_code == 201 and done.headers["etag"]
    assert (await container.send("GET", "/b")).content == b"first-second-third"
    # A client whose answer was lost commits again.
    assert (await container.send("PUT", "/b", query="comp=blocklist", content=listed)).status_code == 201
    served.clock.time += timedelta(hours=2)
    assert await tidy(served.services) == 1
    assert (await container.send("GET", "/b")).status_code == 403  # the link has ended by now
    assert await served.services.blobs.read(container.name, "b") == b"first-second-third"


@pytest.mark.parametrize(
    "text", [b"", b"<BlockList><Latest>", b"<Other/>", b"<!DOCTYPE x><BlockList/>", b"<BlockList><Newest>a</Newest></BlockList>"]
)
async def test_a_block_list_that_is_none_is_refused(container: Container, text: bytes) -> None:
    answer = await container.send("PUT", "/b", query="comp=blocklist", content=text)
    assert (answer.status_code, answer.headers["x-ms-error-code"]) == (400, "InvalidXmlDocument")


async def test_metadata_marks_an_upload_as_complete(container: Container) -> None:
    await container.put("/d/f.csv", b"1,2")
    before = (await container.send("HEAD", "/d/f.csv")).headers["etag"]
    upload = {"x-ms-meta-upload_status": "completed", "x-ms-meta-name": "n", "x-ms-meta-version": "1"}
    marked = await container.send("PUT", "/d/f.csv", query="comp=metadata", **upload)
    assert marked.status_code == 200 and marked.headers["last-modified"]
    head = await container.send("HEAD", "/d/f.csv")
    assert {name: head.headers[name] for name in upload} == upload
    assert head.headers["etag"] != before
    listing = (await container.send("GET", "", query="restype=container&comp=list&prefix=d/&include=metadata")).text
    assert "<upload_status>completed</upload_status>" in listing
    assert (await container.send("PUT", "/none", query="comp=metadata")).status_code == 404


async def test_preconditions_guard_what_is_there(container: Container) -> None:
    first = await container.put("/x", b"1", If_None_Match="*")
    again = await container.put("/x", b"2", If_None_Match="*")
    assert (again.status_code, again.headers["x-ms-error-code"]) == (409, "BlobAlreadyExists")
    assert (await container.put("/x", b"2", If_Match='"0xOLD"')).status_code == 412
    assert (await container.put("/x", b"2", If_Match=first.headers["etag"])).status_code == 201
    assert (await container.send("GET", "/x", If_Match=first.headers["etag"])).status_code == 412
    now = (await container.send("HEAD", "/x")).headers["etag"]
    assert (await container.send("GET", "/x", If_None_Match=now)).status_code == 304


async def test_bytes_that_changed_on_the_way_are_refused(container: Container) -> None:
    answer = await container.put("/x", b"abc", Content_MD5=base64.b64encode(hashlib.md5(b"abd").digest()).decode())
    assert (answer.status_code, answer.headers["x-ms-error-code"]) == (400, "Md5Mismatch")
    assert (await container.send("HEAD", "/x")).status_code == 404


async def test_awkward_names_are_kept(container: Container) -> None:
    names = ["a b.txt", "50%.txt", "x#y", "é/ü", "q?v=1", "a&b", "<tag>", "plus+plus", "deep/er/and/deeper"]
    for name in names:
        assert (await container.put(f"/odd/{quote(name)}", b"x")).status_code == 201
    found, _, _ = await container.names("prefix=odd/")
    assert sorted(found) == sorted(f"odd/{name}" for name in names)
    assert (await container.put("/bad%01name", b"x")).status_code == 400
    assert (await container.put("/" + "x" * 1025, b"x")).status_code == 400


async def test_lists_are_paged_and_folded(container: Container) -> None:
    for name in ("a/1", "a/2", "a/b/1", "a/b/2", "a/c/1", "a/z", "ab"):
        await container.put(f"/{name}", b"x")
    assert await container.names("prefix=a/") == (["a/1", "a/2", "a/b/1", "a/b/2", "a/c/1", "a/z"], [], "")
    assert await container.names("prefix=a/&delimiter=/") == (["a/1", "a/2", "a/z"], ["a/b/", "a/c/"], "")
    seen, marker = [], ""
    for _ in range(9):
        names, folders, marker = await container.names(f"prefix=a/&delimiter=/&maxresults=2&marker={quote(marker)}")
        seen += names + folders
        if not marker:
            break
    assert sorted(seen) == ["a/1", "a/2", "a/b/", "a/c/", "a/z"]


async def test_nothing_is_readable_without_a_token(served: Served, container: Container) -> None:
    await container.put("/x", b"secret")
    plain = f"https://service.test:8450/blobstore/{container.name}"
    for path, query, status in (
        ("/x", "", 401),
        ("", "restype=container&comp=list", 401),
        ("/x", "sig=x&sr=c&sp=rlw&se=2099-01-01T00:00:00Z", 403),
    ):
        answer = await served.http.get(f"{plain}{path}?{query}", headers={"Authorization": ""})
        assert answer.status_code == status and "secret" not in answer.text
    assert (await served.http.head(f"{plain}/x", headers={"Authorization": ""})).status_code == 401


async def test_a_link_opens_only_what_it_was_made_for(served: Served, container: Container) -> None:
    await container.put("/x", b"1")
    await container.put("/y", b"2")
    reading = Container(served, links.READ)
    assert (await reading.send("GET", "/x")).status_code == 200
    assert (await reading.put("/x", b"3")).status_code == 403
    assert (await reading.send("GET", "", query="restype=container&comp=list")).status_code == 403
    one = served.services.links.blob(container.name, "x", links.READ, timedelta(hours=1))
    base = f"https://service.test:8450/blobstore/{container.name}"
    assert (await served.http.get(f"{base}/x?{one}", headers={"Authorization": ""})).status_code == 200
    assert (await served.http.get(f"{base}/y?{one}", headers={"Authorization": ""})).status_code == 403
    assert (await served.http.get(f"{base}/y?{one.replace('pth=x', 'pth=y')}", headers={"Authorization": ""})).status_code == 403
    served.clock.time += timedelta(hours=2)
    assert (await reading.send("GET", "/x")).status_code == 403


async def test_a_pods_token_reads_its_inputs_and_writes_its_outputs_and_nothing_else(served: Served, container: Container) -> None:
    for name in ("in/data/1", "in/data2/1", "other/1"):
        await container.put(f"/{name}", b"x")
    token, _ = served.services.tokens.issue_workload(
        "jobs/j1", read=[f"{container.name}/in/data"], write=[f"{container.name}/out"], lifetime=timedelta(hours=1)
    )

    async def send(method: str, path: str, query: str = "") -> int:
        url = f"https://service.test:8450/blobstore/{container.name}{path}?{query}"
        return (await served.http.request(method, url, headers={"Authorization": f"Bearer {token}", **BLOCK})).status_code

    assert await send("GET", "/in/data/1") == 200
    assert await send("GET", "/in/data2/1") == 403
    assert await send("GET", "/other/1") == 403
    assert await send("PUT", "/in/data/1") == 403
    assert await send("PUT", "/out/result") == 201
    assert await send("GET", "/out/result") == 200
    assert await send("GET", "", "restype=container&comp=list&prefix=in/data/") == 200
    assert await send("GET", "", "restype=container&comp=list&prefix=in/") == 403
    answer = await served.http.get(
        f"https://service.test:8450/blobstore/{container.name}?restype=container&comp=list&prefix=in/data",
        headers={"Authorization": f"Bearer {token}"},
    )
    assert "in/data/1" in answer.text and "in/data2" not in answer.text
    assert (await served.call("GET", "", Authorization=f"Bearer {token}")).status_code == 401
    served.clock.time += timedelta(hours=3)
    assert await send("GET", "/in/data/1") == 401


async def test_a_users_token_reaches_the_blobs_of_the_workspaces_it_has_a_role_on(served: Served, container: Container) -> None:
    await container.put("/x", b"1")
    other = Workspace("s2", "rg2", "other")
    await served.services.store.write(lambda tx: ensure_workspace(tx, other, {"properties": {}}))

    async def get(container_name: str, role: Role, scope: str) -> int:
        headers = {"Authorization": f"Bearer {served.token(role, scope)}"}
        return (await served.http.get(f"https://service.test:8450/blobstore/{container_name}/x", headers=headers)).status_code

    assert await get(container.name, Role.READER, served.workspace.id) == 200
    assert await get(container.name, Role.OWNER, other.id) == 403
    assert await get("unowned", Role.OWNER, other.id) == 403
    assert await get("unowned", Role.OWNER, "/") == 404


async def test_an_upload_over_the_limit_leaves_nothing(served: Served, container: Container, tmp_path: Path) -> None:
    answer = await container.put("/big", bytes(65 * 1024 * 1024))
    assert (answer.status_code, answer.headers["x-ms-error-code"]) == (413, "RequestBodyTooLarge")
    await tidy(served.services)
    assert [path for path in (tmp_path / "home/server/artifacts").rglob("*") if path.is_file()] == []


async def test_abandoned_blocks_and_replaced_bytes_are_deleted_in_time(served: Served, container: Container, tmp_path: Path) -> None:
    await container.send("PUT", "/never", query="comp=block&blockid=YQ==", content=b"abandoned")
    await container.put("/x", b"old")
    await container.put("/x", b"new")
    files = lambda: sorted(path.read_bytes() for path in (tmp_path / "home/server/artifacts").rglob("*") if path.is_file())  # noqa: E731
    await tidy(served.services)
    assert files() == [b"abandoned", b"new", b"old"]
    served.clock.time += timedelta(hours=1)
    await tidy(served.services)
    assert files() == [b"abandoned", b"new"]
    served.clock.time += timedelta(days=1)
    await tidy(served.services)
    assert files() == [b"new"]


async def test_a_log_grows_by_what_is_new_and_tells_its_size(served: Served) -> None:
    blobs = served.services.blobs
    assert await blobs.append("c", "log", b"one\n", at=0) == 4
    assert await blobs.append("c", "log", b"e\ntwo\n", at=2) == 8
    assert await blobs.append("c", "log", b"one\n", at=0) == 8
    assert await blobs.append("c", "log", b"far\n", at=100) == 8
    assert await blobs.read("c", "log") == b"one\ntwo\n"
    size = 8
    for _ in range(40):
        size = await blobs.append("c", "log", b"x" * 20_000, at=size)
    blob = await blobs.get("c", "log")
    assert (blob.size, len(blob.parts)) == (800_008, 3)
