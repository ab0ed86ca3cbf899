"""Merge patches: applying the computed patch to the old document gives the new one."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from moorage.errors import Conflict, Expired, Forbidden, Invalid, NotFound, Throttled, Unauthenticated, Unavailable
from moorage.kube.backoff import Backoff
from moorage.kube.merge import merge_patch, without_nulls
from moorage.kube.status import error_of

LEAVES = st.one_of(st.booleans(), st.integers(-3, 3), st.text("ab", max_size=2), st.lists(st.integers(0, 2), max_size=2))
DOCUMENTS = st.recursive(LEAVES, lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3), max_leaves=8)
OBJECTS = st.dictionaries(st.sampled_from("abc"), DOCUMENTS, max_size=3)


def patched(target: Any, patch: Any) -> Any:
    """RFC 7386, section 2."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = patched(result.get(key), value)
    return result


@given(OBJECTS, OBJECTS)
def test_a_merge_patch_turns_the_old_into_the_new(old: dict[str, Any], new: dict[str, Any]) -> None:
    assert patched(old, merge_patch(old, new)) == new


@given(OBJECTS)
def test_equal_documents_need_no_patch(document: dict[str, Any]) -> None:
    assert merge_patch(document, document) == {}


def test_nulls_mean_absent() -> None:
    assert without_nulls({"a": None, "b": [{"c": None, "d": 1}], "e": {"f": None}}) == {"b": [{"d": 1}], "e": {}}


def test_every_http_status_becomes_what_the_caller_can_do_about_it() -> None:
    cases = {400: Invalid, 401: Unauthenticated, 403: Forbidden, 404: NotFound, 405: Invalid, 409: Conflict, 410: Expired, 422: Invalid}
    for code, error in (cases | {429: Throttled, 500: Unavailable, 503: Unavailable, 302: Unavailable}).items():
        assert type(error_of(code, {"message": "why", "reason": "R"})) is error
        assert str(error_of(code, {"message": "why", "reason": "R"})) == "why"


def test_field_causes_are_kept_and_long_texts_cut() -> None:
    causes = [{"field": "spec.replicas", "message": "must be positive"}, {"field": "spec.x", "message": "unknown"}]
    error = error_of(422, {"message": "m" * 9000, "details": {"name": "web", "causes": causes}})
    assert [(cause.target, cause.message) for cause in error.details] == [("spec.replicas", "must be positive"), ("spec.x", "unknown")]
    assert len(str(error)) < 2100


def test_a_page_of_a_proxy_is_quoted_with_its_status() -> None:
    assert str(error_of(502, "<html>bad gateway</html>")) == "<html>bad gateway</html> (HTTP 502)"
    throttled = error_of(429, "", retry_after=timedelta(seconds=7))
    assert isinstance(throttled, Throttled) and throttled.retry_after == timedelta(seconds=7)


def test_backoff_doubles_to_its_maximum_with_jitter_only_downwards() -> None:
    backoff = Backoff(timedelta(seconds=1), timedelta(seconds=5), jitter=0.5, pick=lambda: 0.0)
    assert [backoff.next().total_seconds() for _ in range(5)] == [1, 2, 4, 5, 5]
    backoff.pick = lambda: 1.0
    assert backoff.next() == timedelta(seconds=2.5)
    backoff.reset()
    assert backoff.next() == timedelta(seconds=0.5)
