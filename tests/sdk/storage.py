"""What users do with the unmodified azure-storage-blob: run by `.venv-sdk`, which has it. Prints, as one JSON object, how each flow ended."""

from __future__ import annotations

import hashlib
import io
import json
import os
import sys
import time
import traceback
import warnings
from pathlib import Path

from azure.core.credentials import AccessToken
from azure.core.exceptions import (
    ClientAuthenticationError,
    HttpResponseError,
    ResourceExistsError,
    ResourceModifiedError,
    ResourceNotFoundError,
)
from azure.storage.blob import BlobBlock, BlobClient, BlobServiceClient, ContainerClient, ContentSettings

LARGE = bytes(range(256)) * (70 << 12)


class Place:
    """Clients in the two ways that there are: with a signed link and with a token."""

    def __init__(self, settings):
        self.url, self.name, self.link = settings["url"], settings["container"], settings["link"]
        self.folder = Path(settings["folder"])
        token = settings["token"]

        class Credential:
            def get_token(self, *scopes, **options):
                return AccessToken(token, int(time.time()) + 3000)

        self.credential = Credential()
        self.container = ContainerClient(self.url, self.name, credential=self.link)
        self.service = BlobServiceClient(self.url, credential=self.credential)


def raises(kind, code, call, *arguments, **named):
    try:
        call(*arguments, **named)
    except kind as error:
        assert error.error_code == code, (error.error_code, str(error))
        return error
    raise AssertionError(f"no {kind.__name__}")


def a_small_blob_is_kept_with_what_is_said_of_it(place):
    blob = place.container.get_blob_client("small/a b&c.txt")
    assert not blob.exists()
    said = ContentSettings(content_type="text/plain", content_encoding="identity", cache_control="no-store")
    blob.upload_blob(b"hello", metadata={"one": "1"}, content_settings=said, validate_content=True)
    raises(ResourceExistsError, "BlobAlreadyExists", blob.upload_blob, b"again")
    shown = blob.get_blob_properties()
    assert (shown.size, shown.metadata, shown.content_settings.content_type) == (5, {"one": "1"}, "text/plain")
    assert shown.content_settings.cache_control == "no-store" and shown.content_settings.content_md5 == bytearray(
        hashlib.md5(b"hello").digest()
    )
    assert (shown.blob_type, str(shown.blob_tier), shown.lease.status) == ("BlockBlob", "Hot", "unlocked")
    assert blob.download_blob(validate_content=True).readall() == b"hello"
    assert blob.download_blob(offset=1, length=3).readall() == b"ell"
    blob.set_blob_metadata({"two": "2"})
    blob.set_http_headers(ContentSettings(content_type="text/html"))
    shown = blob.get_blob_properties()
    assert (shown.metadata, shown.content_settings.content_type) == ({"two": "2"}, "text/html")
    blob.delete_blob(delete_snapshots="include")
    assert not blob.exists()
    raises(ResourceNotFoundError, "BlobNotFound", blob.download_blob)


def a_large_blob_goes_up_in_blocks_and_down_in_ranges_at_once(place):
    blob = place.service.get_blob_client(place.name, "large/70MiB")
    blob.upload_blob(io.BytesIO(LARGE), length=len(LARGE), max_concurrency=4, overwrite=True)
    committed, left = blob.get_block_list("all")
    assert len(committed) == 18 and sum(each.size for each in committed) == len(LARGE) and left == []
    assert blob.download_blob(max_concurrency=4).readall() == LARGE
    target = io.BytesIO()
    assert blob.download_blob(offset=5, length=40 << 20, max_concurrency=4).readinto(target) == 40 << 20
    assert target.getvalue() == LARGE[5 : 5 + (40 << 20)]


def an_empty_blob_is_one(place):
    blob = place.container.get_blob_client("empty")
    blob.upload_blob(b"")
    assert blob.get_blob_properties().size == 0 and blob.download_blob().readall() == b""


def blocks_are_staged_listed_and_committed(place):
    blob = place.container.get_blob_client("blocks")
    for number in (2, 0, 1):
        blob.stage_block(f"{number:04d}", bytes([65 + number]) * 3, validate_content=True)
    committed, staged = blob.get_block_list("all")
    assert committed == [] and [(each.id, each.size) for each in staged] == [("0000", 3), ("0001", 3), ("0002", 3)]
    blob.commit_block_list([BlobBlock("0002"), BlobBlock("0000")], metadata={"a": "b"})
    assert blob.download_blob().readall() == b"CCCAAA"
    blob.stage_block("0003", b"new")
    blob.commit_block_list([BlobBlock("0003"), BlobBlock("0000")])
    assert blob.download_blob().readall() == b"newAAA"
    raises(HttpResponseError, "InvalidBlockList", blob.commit_block_list, [BlobBlock("0001")])
    raises(HttpResponseError, "InvalidBlobOrBlock", _with_longer_id, blob)


def _with_longer_id(blob):
    blob.stage_block("0004", b"x")
    blob.stage_block("a longer one", b"x")


def blobs_are_listed_page_by_page_and_walked(place):
    names = ["w/a/1", "w/a/2", "w/b/1", "w/é<&>\"'", "w/日本"]
    for name in names:
        place.container.upload_blob(name, b"x", metadata={"n": "v"})
    assert sorted(each.name for each in place.container.list_blobs("w/", results_per_page=2)) == sorted(names)
    assert all(each.metadata == {"n": "v"} and each.size == 1 for each in place.container.list_blobs("w/", include=["metadata"]))
    assert {each.name for each in place.container.walk_blobs("w/", delimiter="/")} == {"w/a/", "w/b/", *names[3:]}
    pages = place.container.list_blobs("w/", results_per_page=2).by_page()
    first = [each.name for each in next(pages)]
    rest = place.container.list_blobs("w/", results_per_page=2).by_page(pages.continuation_token)
    assert len(first) == 2 and not set(first) & {each.name for page in rest for each in page}


def a_copy_is_done_when_it_is_answered(place):
    source = place.container.upload_blob("copy/from", b"copied", metadata={"m": "1"})
    started = place.container.get_blob_client("copy/to").start_copy_from_url(source.url)
    assert started["copy_status"] == "success" and started["copy_id"]
    synchronous = place.container.get_blob_client("copy/sync")
    assert synchronous.start_copy_from_url(source.url, requires_sync=True)["copy_status"] == "success"
    uploaded = place.service.get_blob_client(place.name, "copy/url")
    uploaded.upload_blob_from_url(source.url)
    uploaded.stage_block_from_url("0001", source.url, source_offset=1, source_length=3)
    assert uploaded.download_blob().readall() == b"copied"
    uploaded.commit_block_list([BlobBlock("0001")])
    assert uploaded.download_blob().readall() == b"opi"
    assert synchronous.download_blob().readall() == b"copied" and synchronous.get_blob_properties().metadata == {"m": "1"}
    raises(HttpResponseError, "CannotVerifyCopySource", synchronous.start_copy_from_url, "https://elsewhere.example/c/b")
    raises(HttpResponseError, "NoPendingCopyOperation", synchronous.abort_copy, started["copy_id"])


def conditions_hold(place):
    blob = place.container.upload_blob("etag", b"1")
    etag = blob.get_blob_properties().etag
    blob.upload_blob(b"2", overwrite=True, etag=etag, match_condition=_if_not_modified())
    raises(ResourceModifiedError, "ConditionNotMet", blob.upload_blob, b"3", overwrite=True, etag=etag, match_condition=_if_not_modified())
    raises(ResourceModifiedError, "ConditionNotMet", blob.delete_blob, etag=etag, match_condition=_if_not_modified())


def _if_not_modified():
    from azure.core import MatchConditions

    return MatchConditions.IfNotModified


def containers_are_shown_and_not_made(place):
    assert place.container.exists() and place.service.get_container_client(place.name).exists()
    shown = place.container.get_container_properties()
    assert shown.name == place.name and shown.etag and shown.last_modified
    assert place.name in {each.name for each in place.service.list_containers()}
    assert not place.service.get_container_client("nosuch").exists()
    raises(ResourceExistsError, "ContainerAlreadyExists", place.service.create_container, place.name)
    raises(HttpResponseError, "InsufficientAccountPermissions", place.service.create_container, "mine")
    raises(HttpResponseError, "InsufficientAccountPermissions", place.service.delete_container, place.name)
    assert place.service.get_account_information()["account_kind"] == "BlockBlobStorage"


def what_is_not_kept_is_refused(place):
    blob = place.container.get_blob_client("other")
    raises(HttpResponseError, "InvalidBlobType", blob.create_append_blob)
    raises(HttpResponseError, "InvalidBlobType", blob.create_page_blob, 512)
    blob.upload_blob(b"x")
    raises(HttpResponseError, "UnsupportedQueryParameter", blob.acquire_lease)
    raises(HttpResponseError, "UnsupportedQueryParameter", blob.create_snapshot)
    raises(HttpResponseError, "BlobAccessTierNotSupportedForAccountType", blob.set_standard_blob_tier, "Cool")
    raises(HttpResponseError, "UnsupportedHeader", blob.upload_blob, b"y", overwrite=True, tags={"a": "b"})


def nothing_is_open_without_a_credential(place):
    raises(ClientAuthenticationError, "NoAuthenticationInformation", BlobClient(place.url, place.name, "small").download_blob)
    raises(ClientAuthenticationError, "AuthenticationFailed", _with_forged_link(place).download_blob)
    raises(HttpResponseError, "AuthorizationPermissionMismatch", _with_pods_reach(place).upload_blob, b"x")


def _with_forged_link(place):
    return BlobClient(place.url, place.name, "small", credential=place.link.replace("rlwd", "rlwdx"))


def _with_pods_reach(place):
    return BlobClient(place.url, place.name, "elsewhere", credential=json.loads(os.environ["MOORAGE_TEST_STORAGE"])["reading"])


def a_stream_of_unknown_length_goes_up(place):
    def pieces():
        for number in range(40):
            yield bytes([number]) * 1_000_000

    blob = place.container.get_blob_client("stream")
    blob.upload_blob(pieces(), overwrite=True)
    assert blob.get_blob_properties().size == 40_000_000
    assert blob.download_blob(offset=39_999_999).readall() == b"\x27"


def main():
    warnings.simplefilter("ignore")
    settings = json.loads(os.environ["MOORAGE_TEST_STORAGE"])
    ended = {}
    for name, flow in list(globals().items()):
        if getattr(flow, "__code__", None) is not None and flow.__code__.co_varnames[:1] == ("place",) and not name.startswith("_"):
            try:
                flow(Place(settings))
                ended[name] = ""
            except BaseException:  # noqa: BLE001 - whatever a flow ends with is what its test is told
                ended[name] = traceback.format_exc()
    json.dump(ended, sys.stdout)


if __name__ == "__main__":
    main()
