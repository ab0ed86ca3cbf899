"""Azure Blob REST beyond what the SDK needs: block lists, copies, properties, conditions, containers, and what is refused."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
from collections.abc import AsyncIterator, Awaitable
from datetime import timedelta
from pathlib import Path
from urllib.parse import quote
from xml.etree import ElementTree

import httpx2
import pytest
from tests.fixtures.blobs import Container
from tests.fixtures.bucket import place, places
from tests.fixtures.served import BASE, Served

from moorage.errors import Conflict, MoorageError
from moorage.identity import links
from moorage.identity.roles import Role
from moorage.ids import Workspace
from moorage.server.checksums import crc64
from moorage.server.containers import artifact_container, blob_container, code_container
from moorage.server.founding import ensure_workspace
from moorage.server.upkeep import tidy
from moorage.store import Blob, Transaction

pytest_plugins = ["tests.fixtures.service", "tests.fixtures.buckets"]


# Slow on a bucket: every test starts a service, whose requests go to a server of another process.
@pytest.fixture(params=places(slow=True))
def artifacts_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return place(request, tmp_path / "artifacts")


@pytest.fixture
def container(served: Served) -> Container:
    return Container(served, "rlwd")


def block(number: int) -> str:
    return base64.b64encode(f"{number:06d}".encode()).decode()


def listed(*ids: str, tag: str = "Latest") -> bytes:
    return f"<BlockList>{''.join(f'<{tag}>{each}</{tag}>' for each in ids)}</BlockList>".encode()


async def stage(container: Container, name: str, number: int, content: bytes) -> None:
    answer = await container.send("PUT", name, query=f"comp=block&blockid={quote(block(number), safe='')}", content=content)
    assert answer.status_code == 201, answer.text


async def commit(container: Container, name: str, text: bytes, **headers: str) -> httpx2.Response:
    return await container.send("PUT", name, query="comp=blocklist", content=text, **headers)


async def blocks(container: Container, name: str, kind: str) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    answer = await container.send("GET", name, query=f"comp=blocklist&blocklisttype={kind}")
    assert answer.status_code == 200, answer.text
    root = ElementTree.fromstring(answer.content)

    def pairs(tag: str) -> list[tuple[str, str]]:
        return [(each.findtext("Name") or "", each.findtext("Size") or "") for each in root.iterfind(f"{tag}/Block")]

    return pairs("CommittedBlocks"), pairs("UncommittedBlocks")


async def test_blocks_are_listed_and_committed_ones_can_be_used_again(container: Container) -> None:
    for number, content in ((2, b"two"), (1, b"1"), (3, b"three")):
        await stage(container, "/b", number, content)
    assert await blocks(container, "/b", "all") == ([], [(block(1), "1"), (block(2), "3"), (block(3), "5")])
    assert (await container.send("GET", "/b")).status_code == 404
    assert (await commit(container, "/b", listed(block(3), block(1)))).status_code == 201
    assert (await container.send("GET", "/b")).content == b"three1"
    assert await blocks(container, "/b", "all") == ([(block(3), "5"), (block(1), "1")], [])
    await stage(container, "/b", 1, b"ONE")
    await stage(container, "/b", 4, b"4")
    assert await blocks(container, "/b", "uncommitted") == ([], sorted([(block(1), "3"), (block(4), "1")]))
    both = f"<BlockList><Committed>{block(1)}</Committed><Uncommitted>{block(4)}</Uncommitted><Latest>{block(3)}</Latest></BlockList>"
    assert (await commit(container, "/b", both.encode())).status_code == 201
    assert (await container.send("GET", "/b")).content == b"14three"
    assert (await commit(container, "/b", listed(block(4), tag="Uncommitted"))).headers["x-ms-error-code"] == "InvalidBlockList"
    assert (await commit(container, "/b", listed(block(3), block(3)))).headers["x-ms-error-code"] == "InvalidBlockList"
    assert (await commit(container, "/b", listed())).status_code == 201
    assert (await container.send("GET", "/b")).content == b""


@pytest.mark.parametrize(
    ("id", "code"),
    [
        ("", "InvalidQueryParameterValue"),
        ("not base64!", "InvalidQueryParameterValue"),
        (base64.b64encode(bytes(65)).decode(), "InvalidQueryParameterValue"),
        (base64.b64encode(b"a longer one").decode(), "InvalidBlobOrBlock"),
    ],
)
async def test_ids_of_blocks_have_a_form_and_one_length(container: Container, id: str, code: str) -> None:
    await stage(container, "/b", 1, b"x")
    answer = await container.send("PUT", "/b", query=f"comp=block&blockid={quote(id, safe='')}", content=b"y")
    assert (answer.status_code, answer.headers["x-ms-error-code"]) == (400, code)
    assert await blocks(container, "/b", "all") == ([], [(block(1), "1")])


async def test_fifty_thousand_blocks_are_a_blob_and_one_more_is_not(served: Served, container: Container) -> None:
    blobs = served.services.blobs
    written = await blobs.write(container.name, b"x")
    await blobs.discard(written.parts)
    ids = [block(number) for number in range(50_001)]
    too_long = await commit(container, "/b", listed(*ids))
    assert (too_long.status_code, too_long.headers["x-ms-error-code"]) == (400, "BlockListTooLong")
    never_put = await commit(container, "/b", listed(*ids[1:]))
    assert never_put.headers["x-ms-error-code"] == "InvalidBlockList"


async def test_the_blocks_of_a_long_upload_live_as_long_as_the_last_of_them(served: Served, container: Container, tmp_path: Path) -> None:
    blobs = served.services.blobs

    async def put(number: int) -> None:
        await blobs.put_block(container.name, "long", block(number), _chunks(b"%d" % number))

    for number in range(3):
        await put(number)
        served.clock.time += timedelta(hours=20)
        await tidy(served.services)
    staged = await served.services.store.read(lambda tx: tx.blobs.blocks(container.name, "long"))
    assert list(staged) == [block(number) for number in range(3)]
    served.clock.time += timedelta(hours=20)
    await tidy(served.services)
    assert await served.services.store.read(lambda tx: tx.blobs.blocks(container.name, "long")) == {}
    assert [path for path in (tmp_path / "home/server/artifacts").rglob("*") if path.is_file()] == []


async def _chunks(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


async def test_what_the_sweep_took_cannot_become_a_blob(served: Served, container: Container) -> None:
    blobs, store = served.services.blobs, served.services.store
    written = await blobs.write(container.name, b"slow")
    served.clock.time += timedelta(days=2)
    assert written.parts[0].object in await store.write(lambda tx: tx.blobs.claim_expired())
    refused = await _refused(store.write(lambda tx: tx.blobs.commit(container.name, "x", written.parts)))
    assert refused == "ServerBusy"
    assert await blobs.sweep() > 0
    # The reservations of before are gone as well; what is sent now is kept, at the second attempt at the latest.
    codes = [await _refused(blobs.put(container.name, "x", b"new")) for _ in range(2)]
    assert codes[-1] == "" and await blobs.read(container.name, "x") == b"new"


async def _refused(work: Awaitable[object]) -> str:
    try:
        await work
    except MoorageError as error:
        return error.code
    return ""


async def test_a_copy_stays_within_the_service_and_needs_the_right_to_its_source(served: Served, container: Container) -> None:
    await container.put("/from", b"abcdef", x_ms_meta_a="1", x_ms_blob_content_type="text/x", x_ms_blob_cache_control="no-store")
    source = f"{BASE}/blobstore/{container.name}/from"
    link = served.services.links.blob(container.name, "from", links.READ, timedelta(hours=1))
    copied = await container.send("PUT", "/to", x_ms_copy_source=f"{source}?{link}")
    assert (copied.status_code, copied.headers["x-ms-copy-status"]) == (202, "success") and copied.headers["x-ms-copy-id"]
    head = await container.send("HEAD", "/to")
    assert (head.headers["content-type"], head.headers["x-ms-meta-a"], head.headers["cache-control"]) == ("text/x", "1", "no-store")
    assert (await container.send("GET", "/to")).content == b"abcdef"
    part = await container.send(
        "PUT", "/p", query=f"comp=block&blockid={block(1)}", x_ms_copy_source=f"{source}?{link}", x_ms_source_range="bytes=2-3"
    )
    assert part.status_code == 201 and (await commit(container, "/p", listed(block(1)))).status_code == 201
    assert (await container.send("GET", "/p")).content == b"cd"
    stale = await container.send("PUT", "/to", x_ms_copy_source=f"{source}?{link}", x_ms_source_if_match='"0x0"')
    assert stale.status_code == 412
    bearer = {"Authorization": f"Bearer {served.token(Role.OWNER, served.workspace.id)}"}
    assert (
        await container.send("PUT", "/to2", x_ms_copy_source=source, x_ms_copy_source_authorization=bearer["Authorization"])
    ).status_code == 202
    for url, status in (
        (source, 403),
        (f"{source}?{link.replace('sp=r', 'sp=rw')}", 403),
        (f"{BASE}/blobstore/{container.name}/other?{link}", 403),
        ("https://elsewhere.example/blobstore/x/y", 400),
        ("file:///etc/passwd", 400),
        ("https://[elsewhere/x", 400),
        (f"{BASE}/healthz", 400),
    ):
        answer = await container.send("PUT", "/stolen", x_ms_copy_source=url)
        assert answer.status_code == status, (url, answer.text)
    assert (await container.send("HEAD", "/stolen")).status_code == 404


async def test_headers_of_a_blob_are_kept_replaced_and_cleared(container: Container) -> None:
    said = {"x_ms_blob_content_encoding": "gzip", "x_ms_blob_content_language": "de", "x_ms_blob_content_disposition": "inline"}
    await container.put("/x", b"1", Content_Type="text/plain", **said)
    head = (await container.send("HEAD", "/x")).headers
    assert [head[name] for name in ("content-encoding", "content-language", "content-disposition")] == ["gzip", "de", "inline"]
    changed = await container.send("PUT", "/x", query="comp=properties", x_ms_blob_content_type="text/html")
    assert changed.status_code == 200 and changed.headers["etag"] != head["etag"]
    head = (await container.send("HEAD", "/x")).headers
    assert head["content-type"] == "text/html" and "content-encoding" not in head and "content-md5" not in head
    assert (await container.send("PUT", "/none", query="comp=properties")).status_code == 404
    large = await container.send("PUT", "/x", query="comp=metadata", **{"x-ms-meta-a": "x" * 9000})
    assert (large.status_code, large.headers["x-ms-error-code"]) == (400, "MetadataTooLarge")


async def test_dates_are_conditions_too(served: Served, container: Container) -> None:
    await container.put("/x", b"1")
    now = served.clock.time.strftime("%a, %d %b %Y %H:%M:%S GMT")
    before = (served.clock.time - timedelta(hours=1)).strftime("%a, %d %b %Y %H:%M:%S GMT")
    for method, headers, status in (
        ("GET", {"If_Modified_Since": now}, 304),
        ("GET", {"If_Modified_Since": before}, 200),
        ("GET", {"If_Unmodified_Since": before}, 412),
        ("GET", {"If_Unmodified_Since": now}, 200),
        ("GET", {"If_Modified_Since": "soon"}, 400),
        ("PUT", {"If_Unmodified_Since": before}, 412),
        ("PUT", {"If_Modified_Since": now}, 412),
        ("PUT", {"If_None_Match": '"0xOTHER"'}, 201),
        ("DELETE", {"If_Match": '"0xOTHER"'}, 412),
        ("DELETE", {"If_Unmodified_Since": now}, 202),
    ):
        send = container.put if method == "PUT" else None
        answer = await (send("/x", b"1", **headers) if send else container.send(method, "/x", **headers))
        assert answer.status_code == status, (method, headers, answer.text)
    etag = (await container.put("/x", b"2")).headers["etag"]
    assert (await container.put("/x", b"3", If_None_Match=etag)).status_code == 412


async def test_checksums_guard_puts_blocks_and_ranges(container: Container) -> None:
    data = os.urandom(100_000)
    right, wrong = base64.b64encode(crc64(data).to_bytes(8, "little")).decode(), base64.b64encode(bytes(8)).decode()
    made = await container.put("/x", data, x_ms_content_crc64=right)
    assert (made.status_code, made.headers["x-ms-content-crc64"]) == (201, right)
    for query, headers, code in (
        ("", {"x_ms_content_crc64": wrong}, "Crc64Mismatch"),
        ("", {"Content_MD5": "x"}, "InvalidMd5"),
        (f"comp=block&blockid={block(1)}", {"x_ms_content_crc64": wrong}, "Crc64Mismatch"),
        (f"comp=block&blockid={block(1)}", {"Content_MD5": base64.b64encode(bytes(16)).decode()}, "Md5Mismatch"),
    ):
        answer = await container.send("PUT", "/y", query=query, content=data, **headers)
        assert (answer.status_code, answer.headers["x-ms-error-code"]) == (400, code)
    assert (await container.send("GET", "/y", query="comp=blocklist&blocklisttype=all")).status_code == 404
    part = await container.send("GET", "/x", x_ms_range="bytes=5-99", x_ms_range_get_content_md5="true")
    assert part.headers["content-md5"] == base64.b64encode(hashlib.md5(data[5:100]).digest()).decode()


async def test_delete_knows_that_there_are_no_snapshots(container: Container) -> None:
    await container.put("/x", b"1")
    assert (await container.send("DELETE", "/x", x_ms_delete_snapshots="only")).status_code == 202
    assert (await container.send("HEAD", "/x")).status_code == 200
    assert (await container.send("GET", "/x", query="snapshot=2026-01-01T00:00:00.0000000Z")).status_code == 404
    assert (await container.send("DELETE", "/x", x_ms_delete_snapshots="include")).status_code == 202
    gone = await container.send("DELETE", "/x")
    assert (gone.status_code, gone.headers["x-ms-error-code"]) == (404, "BlobNotFound")


@pytest.mark.parametrize(
    ("method", "query", "headers", "status", "code"),
    [
        ("PUT", "", {"x_ms_blob_type": "AppendBlob"}, 409, "InvalidBlobType"),
        ("PUT", "", {"x_ms_blob_type": "PageBlob"}, 409, "InvalidBlobType"),
        ("PUT", "comp=appendblock", {}, 400, "UnsupportedQueryParameter"),
        ("PUT", "comp=page", {}, 400, "UnsupportedQueryParameter"),
        ("PUT", "comp=lease", {}, 400, "UnsupportedQueryParameter"),
        ("PUT", "comp=snapshot", {}, 400, "UnsupportedQueryParameter"),
        ("PUT", "comp=tier", {}, 400, "UnsupportedQueryParameter"),
        ("PUT", "comp=tags", {}, 400, "UnsupportedQueryParameter"),
        ("GET", "comp=tags", {}, 400, "UnsupportedQueryParameter"),
        ("PUT", "comp=copy&copyid=x", {}, 409, "NoPendingCopyOperation"),
        ("PUT", "", {"x_ms_structured_body": "XSM/1.0; properties=crc64"}, 400, "UnsupportedHeader"),
        ("PUT", "", {"x_ms_tags": "a=b"}, 400, "UnsupportedHeader"),
        ("PUT", "", {"x_ms_encryption_key": "k"}, 400, "UnsupportedHeader"),
        ("PUT", "", {"x_ms_access_tier": "Archive"}, 400, "BlobAccessTierNotSupportedForAccountType"),
        ("PUT", "", {"x_ms_lease_id": "l"}, 412, "LeaseNotPresentWithBlobOperation"),
    ],
)
async def test_what_is_not_kept_is_refused_and_changes_nothing(
    container: Container, method: str, query: str, headers: dict[str, str], status: int, code: str
) -> None:
    await container.put("/x", b"as it was")
    answer = await container.send(method, "/x", query=query, content=b"" if method == "GET" else b"new", **headers)
    assert (answer.status_code, answer.headers["x-ms-error-code"]) == (status, code)
    found = ElementTree.fromstring(answer.content)
    assert (found.tag, found.findtext("Code")) == ("Error", code) and found.findtext("Message")
    assert (await container.send("GET", "/x")).content == b"as it was"


async def test_every_answer_says_version_and_ids(container: Container) -> None:
    await container.put("/x", b"1")
    for name in ("/x", "/none"):
        answer = await container.send("GET", name, x_ms_version="2021-12-02", x_ms_client_request_id="mine")
        assert [answer.headers[each] for each in ("x-ms-version", "x-ms-client-request-id")] == ["2021-12-02", "mine"]
        assert answer.headers["x-ms-request-id"]
    assert (await container.send("HEAD", "/none")).headers["x-ms-error-code"] == "BlobNotFound"


async def test_names_that_xml_or_utf8_make_hard_are_listed_as_they_are(container: Container) -> None:
    names = ["a&b<c>\"d'.txt", "]]>", "日本語/ファイル", "emoji-🛶", "tab-less  two", "é", "e\u0301", "%41", "x+y=z;w,v"]
    for name in names:
        assert (await container.put(f"/n/{quote(name)}", b"x")).status_code == 201
    found, marker = [], ""
    while True:
        page, folders, marker = await container.names(f"prefix=n/&maxresults=2&marker={quote(marker, safe='')}")
        found += page
        assert len(page) <= 2 and not folders
        if not marker:
            break
    assert found == sorted((f"n/{name}" for name in names), key=str.encode)
    assert (await container.put("/%FF", b"x")).status_code == 400


async def test_many_folders_are_folded_page_by_page(container: Container, served: Served) -> None:
    def fill(tx: Transaction) -> None:
        for folder in range(120):
            for number in range(3):
                tx.blobs.commit(container.name, f"t/{folder:03d}/{number}", ())
        tx.blobs.commit(container.name, "t/zz", ())

    await served.services.store.write(fill)
    seen, marker = [], ""
    while True:
        names, folders, marker = await container.names(f"prefix=t/&delimiter=/&maxresults=50&marker={quote(marker, safe='')}")
        seen += folders + names
        if not marker:
            break
    assert seen == [f"t/{folder:03d}/" for folder in range(120)] + ["t/zz"]


async def test_containers_come_with_workspaces_and_are_neither_made_nor_deleted(served: Served) -> None:
    other = Workspace("s2", "rg2", "other")
    await served.services.store.write(lambda tx: ensure_workspace(tx, other, {"properties": {}}))
    own, artifacts = blob_container(served.workspace), artifact_container(served.workspace)
    code = code_container(served.workspace, "c1")
    await served.services.blobs.put(code, "f.py", b"1")

    async def ask(method: str, path: str, query: str, scope: str = "/") -> httpx2.Response:
        headers = {"Authorization": f"Bearer {served.token(Role.OWNER, scope)}"}
        return await served.http.request(method, f"{BASE}/blobstore/{path}?{query}", headers=headers)

    async def names(query: str, scope: str) -> tuple[list[str], str]:
        root = ElementTree.fromstring((await ask("GET", "", f"comp=list{query}", scope)).content)
        return [each.findtext("Name") or "" for each in root.iter("Container")], root.findtext("NextMarker") or ""

    assert await names("", served.workspace.id) == (sorted([own, artifacts, code]), "")
    assert len((await names("", "/"))[0]) == 5
    first, marker = await names("&maxresults=2", served.workspace.id)
    assert first == sorted([own, artifacts, code])[:2]
    assert await names(f"&maxresults=2&marker={marker}", served.workspace.id) == (sorted([own, artifacts, code])[2:], "")
    shown = await ask("HEAD", own, "restype=container")
    assert shown.status_code == 200 and shown.headers["etag"] and shown.headers["last-modified"]
    for method, path, query, status, code in (
        ("HEAD", "nosuch", "restype=container", 404, "ContainerNotFound"),
        ("PUT", "nosuch/x", "", 404, "ContainerNotFound"),
        ("PUT", own, "restype=container", 409, "ContainerAlreadyExists"),
        ("PUT", "mine", "restype=container", 403, "InsufficientAccountPermissions"),
        ("DELETE", own, "restype=container", 403, "InsufficientAccountPermissions"),
        ("PUT", own, "restype=container&comp=lease", 400, "UnsupportedQueryParameter"),
        ("GET", "", "comp=properties&restype=service", 400, "UnsupportedQueryParameter"),
    ):
        answer = await ask(method, path, query)
        assert (answer.status_code, answer.headers["x-ms-error-code"]) == (status, code), (method, path, query)
    assert (await ask("HEAD", "", "restype=account&comp=properties")).headers["x-ms-account-kind"] == "BlockBlobStorage"


ROUTES = [
    ("GET", "", "comp=list"),
    ("GET", "", "restype=account&comp=properties"),
    ("GET", "C", "restype=container"),
    ("HEAD", "C", "restype=container"),
    ("GET", "C", "restype=container&comp=list"),
    ("GET", "C", "restype=container&comp=list&include=metadata"),
    ("GET", "C", "restype=container&comp=acl"),
    ("PUT", "C", "restype=container"),
    ("DELETE", "C", "restype=container"),
    ("GET", "C/x", ""),
    ("HEAD", "C/x", ""),
    ("GET", "C/x", "comp=metadata"),
    ("GET", "C/x", "comp=blocklist"),
    ("GET", "C/x", "comp=tags"),
    ("PUT", "C/x", ""),
    ("PUT", "C/x", "comp=block&blockid=YQ=="),
    ("PUT", "C/x", "comp=blocklist"),
    ("PUT", "C/x", "comp=metadata"),
    ("PUT", "C/x", "comp=properties"),
    ("PUT", "C/x", "comp=copy"),
    ("PUT", "C/x", "comp=lease"),
    ("POST", "C/x", "comp=query"),
    ("POST", "C", "restype=container&comp=batch"),
    ("DELETE", "C/x", ""),
    ("OPTIONS", "C/x", ""),
]


@pytest.mark.parametrize(("method", "path", "query"), ROUTES)
async def test_no_route_answers_without_the_right_to_it(served: Served, container: Container, method: str, path: str, query: str) -> None:
    await container.put("/x", b"secret", x_ms_meta_word="secret")
    other = Workspace("s2", "rg2", "other")
    await served.services.store.write(lambda tx: ensure_workspace(tx, other, {"properties": {}}))
    sign, tokens = served.services.links, served.services.tokens
    hour = timedelta(hours=1)
    ended = sign.container(container.name, "rlwd", -hour)
    later = sign.container(container.name, "rlwd", hour, start=served.clock.time + hour)
    foreign = sign.container(blob_container(other), "rlwd", hour)
    nothing = sign.container(container.name, "", hour)
    pod, _ = tokens.issue_workload("jobs/j", read=[f"{container.name}/y"], write=[f"{container.name}/y"], lifetime=hour)
    elsewhere = served.token(Role.OWNER, other.id)
    expired = tokens.issue_user("ann", {"/": Role.OWNER}, -hour)
    tried: list[tuple[str, str]] = [("", ""), ("", "Basic YTpi"), ("", "Bearer x"), ("", f"Bearer {expired}"), ("", f"Bearer {pod}")]
    tried += [(link, "") for link in (ended, later, foreign, nothing, later.replace("st=", "xx="), nothing.replace("sp=", "sp=rlwd"))]
    if path:
        tried.append(("", f"Bearer {elsewhere}"))
    for link, authorization in tried:
        url = f"{BASE}/blobstore/{path.replace('C', container.name)}?{query}&{link}"
        headers = {"Authorization": authorization, "x-ms-blob-type": "BlockBlob"}
        answer = await served.http.request(method, url, headers=headers, content=b"" if method in ("GET", "HEAD") else b"new")
        assert answer.status_code in (401, 403), (link, authorization, answer.text)
        assert "secret" not in answer.text and "secret" not in str(answer.headers)
    assert (await container.send("GET", "/x")).content == b"secret"


async def test_two_writers_of_a_blob_leave_one_whole(container: Container) -> None:
    contents = [bytes([number]) * 300_000 for number in range(6)]
    await asyncio.gather(*(container.put("/x", content) for content in contents))
    assert (await container.send("GET", "/x")).content in contents


async def test_commits_that_go_together_fail_alone(served: Served, container: Container) -> None:
    blobs = served.services.blobs
    await blobs.put(container.name, "taken", b"first")

    def only_new(current: Blob | None) -> None:
        if current is not None:
            raise Conflict("it is there", code="Taken")

    async def put(number: int) -> str:
        name = "taken" if number % 3 == 0 else f"n{number}"
        return await _refused(blobs.put(container.name, name, b"%d" % number, guard=only_new))

    codes = await asyncio.gather(*(put(number) for number in range(30)))
    assert codes == ["Taken" if number % 3 == 0 else "" for number in range(30)]
    assert await blobs.read(container.name, "taken") == b"first"
    assert [await blobs.read(container.name, f"n{number}") for number in (1, 29)] == [b"1", b"29"]
