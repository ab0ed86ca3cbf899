"""What the service decides without looking anything up: tokens, links, roles, routes, cursors, ranges, the error table."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qsl

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from moorage import errors
from moorage.errors import Forbidden, Invalid, MoorageError, Throttled, Unauthenticated, Unavailable
from moorage.identity.links import Links
from moorage.identity.roles import Action, Role, decide
from moorage.identity.tokens import AUDIENCE, Tokens, User, Workload, digest, new_secret, same
from moorage.ids import Workspace
from moorage.server.containers import blob_container, code_container, foreign
from moorage.server.errors import envelope_of, headers_of, status_of
from moorage.server.paging import decode_cursor, encode_cursor
from moorage.server.ranges import byte_range

NOW = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
W = Workspace("s", "g", "team")


class Clock:
    def __init__(self) -> None:
        self.time = NOW

    def __call__(self) -> datetime:
        return self.time


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_users_token_names_user_and_roles_until_it_ends(clock: Clock) -> None:
    tokens = Tokens(Ed25519PrivateKey.generate(), now=clock)
    token = tokens.issue_user("ann", {"/": Role.OWNER}, HOUR)
    assert tokens.verify_user(token) == User("ann", {"/": Role.OWNER}) == tokens.verify(token)
    assert tokens.verify_user(tokens.issue_user("ann", {}, HOUR, audience=[AUDIENCE, "https://management.azure.com"])).name == "ann"
    clock.time += HOUR + timedelta(minutes=2)
    with pytest.raises(Unauthenticated, match="expired"):
        tokens.verify_user(token)


def test_a_token_of_another_key_kind_or_form_is_refused(clock: Clock) -> None:
    tokens = Tokens(Ed25519PrivateKey.generate(), now=clock)
    others = Tokens(Ed25519PrivateKey.generate(), now=clock).issue_user("ann", {"/": Role.OWNER}, HOUR)
    workload, ends = tokens.issue_workload("jobs/j", read=["c/a"], write=["c/b"], lifetime=HOUR)
    assert ends == NOW + HOUR and tokens.verify(workload) == Workload("jobs/j", ("c/a",), ("c/b",))
    unsigned = "eyJhbGciOiJub25lIn0." + others.split(".")[1] + "."
    foreign_audience = tokens.issue_user("ann", {}, HOUR, audience="https://elsewhere")
    for wrong in (others, workload, unsigned, foreign_audience, "opaque", ""):
        with pytest.raises(Unauthenticated):
            tokens.verify_user(wrong)


@pytest.mark.parametrize(
    ("path", "write", "allowed"),
    [
        ("c/a", False, True),
        ("c/a/x", False, True),
        ("c/ab", False, False),
        ("c/a/../z", False, False),
        ("c", False, False),
        ("c/a", True, False),
        ("c/b/x", True, True),
        ("c/b/x", False, True),
        ("d/a", False, False),
    ],
)
def test_a_workload_reaches_its_prefixes_at_path_boundaries(path: str, write: bool, allowed: bool) -> None:
    assert Workload("j", ("c/a",), ("c/b/",)).covers(path, write=write) is allowed


@given(container=st.text(max_size=20), path=st.text(min_size=1, max_size=30), other=st.text(min_size=1, max_size=30))
def test_a_link_to_one_blob_opens_no_other(container: str, path: str, other: str) -> None:
    links = Links(b"k" * 32, now=Clock())
    query = dict(parse_qsl(links.blob(container, path, "r", HOUR), keep_blank_values=True))
    links.check(query, container, path, "r")
    if other != path:
        with pytest.raises(Forbidden):
            links.check(query, container, other, "r")
        with pytest.raises(Forbidden):
            links.check({**query, "pth": other}, container, other, "r")
    for change in ({"sp": "rw"}, {"se": "2099-01-01T00:00:00Z"}, {"sr": "c"}, {"sig": ""}, {}):
        with pytest.raises(Forbidden):
            links.check({**query, **change}, container + ("" if change else "x"), path, "r")


def test_a_link_ends() -> None:
    clock = Clock()
    links = Links(b"k" * 32, now=clock)
    query = dict(parse_qsl(links.container("c", "rl", HOUR)))
    links.check(query, "c", "anything", "l")
    clock.time += HOUR
    with pytest.raises(Forbidden):
        links.check(query, "c", "anything", "l")


@pytest.mark.parametrize(
    ("roles", "action", "allowed"),
    [
        ({"/": Role.READER}, Action.READ, True),
        ({"/": Role.READER}, Action.WRITE, False),
        ({"/": Role.READER}, Action.SECRETS, False),
        ({"/": Role.CONTRIBUTOR}, Action.SECRETS, True),
        ({"/": Role.CONTRIBUTOR}, Action.MANAGE, False),
        ({"/": Role.OWNER}, Action.MANAGE, True),
        ({"/subscriptions/S": Role.OWNER}, Action.MANAGE, True),
        ({W.id.upper(): Role.READER}, Action.READ, True),
        ({W.id + "x": Role.OWNER}, Action.READ, False),
        ({W.id[:-1]: Role.OWNER}, Action.READ, False),
        ({}, Action.READ, False),
        ({"/": Role.READER, W.id: Role.OWNER}, Action.MANAGE, True),
    ],
)
def test_a_role_counts_on_its_scope_and_below(roles: dict[str, Role], action: Action, allowed: bool) -> None:
    assert decide(roles, action, W.id) is allowed


def test_secrets_differ_and_compare() -> None:
    one, other = new_secret(), new_secret()
    assert one != other and same(one, one) and not same(one, other) and digest(one) != digest(other) and len(digest(one)) == 64


@given(st.integers(min_value=0, max_value=2**62))
def test_a_cursor_comes_back(after: int) -> None:
    assert decode_cursor(encode_cursor(after)) == after


@given(st.text())
def test_any_other_text_is_no_cursor_or_a_number(text: str) -> None:
    try:
        found = decode_cursor(text)
    except Invalid:
        return
    assert found is None if text == "" else isinstance(found, int)


@given(size=st.integers(0, 50), start=st.integers(0, 60), length=st.integers(1, 60))
def test_a_range_lies_within_the_blob(size: int, start: int, length: int) -> None:
    headers = {"x-ms-range": f"bytes={start}-{start + length - 1}"}
    if start >= size:
        with pytest.raises(Invalid):
            byte_range(headers, size)
    else:
        assert byte_range(headers, size) == (start, min(start + length, size))


@given(st.lists(st.text(min_size=1, max_size=8), min_size=3, max_size=3), st.lists(st.text(min_size=1, max_size=8), min_size=3, max_size=3))
def test_no_two_workspaces_share_a_container(one: list[str], other: list[str]) -> None:
    first, second = Workspace(*one), Workspace(*other)
    if first.id.lower() != second.id.lower():
        assert foreign(blob_container(first), second) and foreign(code_container(first, "u"), second)
    assert not foreign(blob_container(first), first) and not foreign("somewhere", first)


def test_every_error_class_has_a_status_and_only_failures_of_ours_are_retried() -> None:
    classes = [
        each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, MoorageError) and each is not MoorageError
    ]
    statuses = {each.__name__: status_of(each("x")) for each in classes}
    assert [name for name, status in statuses.items() if status >= 500] == ["Unavailable"]
    assert statuses == {
        "Invalid": 400,
        "Unauthenticated": 401,
        "Forbidden": 403,
        "NotFound": 404,
        "Conflict": 409,
        "Expired": 410,
        "Throttled": 429,
        "Unavailable": 503,
    }
    assert status_of(Unavailable("full", code="InsufficientStorage")) == 413
    assert headers_of(Throttled("later", retry_after=timedelta(seconds=2.5))) == {"Retry-After": "3"}


def test_an_error_body_has_its_details_and_the_requests_id() -> None:
    body = envelope_of(Invalid("two things", details=(Invalid("a", target="x"),), target="properties"), "r1")["error"]
    assert (body["code"], body["target"], body["details"]) == (
        "UserError",
        "properties",
        [{"code": "UserError", "message": "a", "details": [], "target": "x"}],
    )
    assert body["additionalInfo"][0]["info"] == {"value": "r1"}
