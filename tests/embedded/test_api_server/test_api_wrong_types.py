"""Bodies and queries of the wrong type: whatever is sent, the answer says what is wrong, and never that the server is."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

POD = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
PODS = "/api/v1/namespaces/default/pods"
ACCOUNT = "/api/v1/namespaces/default/serviceaccounts/default"
REVIEWS = "/apis/authorization.k8s.io/v1"
ATTRIBUTES = {"verb": "get", "resource": "pods", "namespace": "default"}
WRONG = (1e300, 2**70, -1, "\u00b2", "x", True, [], [1], {}, {"x": 1}, [None])

BODIES: dict[str, dict[str, Any]] = {
    f"{ACCOUNT}/token": {
        "spec": {
            "audiences": ["a"],
            "expirationSeconds": 3600,
            "boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "none", "uid": "u"},
        }
    },
    "/apis/authentication.k8s.io/v1/tokenreviews": {"spec": {"token": "t", "audiences": ["a"]}},
    "/apis/authentication.k8s.io/v1/selfsubjectreviews": {"metadata": {}},
    f"{REVIEWS}/subjectaccessreviews": {
        "spec": {"user": "u", "groups": ["g"], "uid": "1", "extra": {"k": ["v"]}, "resourceAttributes": ATTRIBUTES}
    },
    f"{REVIEWS}/selfsubjectaccessreviews": {"spec": {"nonResourceAttributes": {"verb": "get", "path": "/healthz"}}},
    f"{REVIEWS}/selfsubjectrulesreviews": {"spec": {"namespace": "default"}},
    f"{REVIEWS}/namespaces/default/localsubjectaccessreviews": {"spec": {"user": "u", "resourceAttributes": ATTRIBUTES}},
    f"{PODS}/p/eviction": {
        "metadata": {"name": "p"},
        "deleteOptions": {"gracePeriodSeconds": 1, "preconditions": {"uid": "u"}, "dryRun": ["All"]},
    },
}


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where something stands in a body, from the outside in."""
    if path:
        yield path
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in entries:
        yield from places(inner, (*path, key))


def replaced(body: Any, path: tuple[Any, ...], value: Any) -> Any:
    changed = copy.deepcopy(body)
    place = changed
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return changed


@pytest.mark.parametrize("path", BODIES, ids=lambda path: path.rpartition("/")[2])
async def test_a_wrong_value_anywhere_in_a_body_is_the_callers_mistake(http: httpx2.AsyncClient, path: str) -> None:
    assert (await http.post(PODS, json=POD)).status_code in (201, 409)
    for place in places(BODIES[path]):
        for wrong in WRONG:
            answer = await http.post(path, json=replaced(BODIES[path], place, wrong))
            assert answer.status_code < 500, (place, wrong, answer.text)


@pytest.mark.parametrize("option", ["gracePeriodSeconds", "preconditions", "orphanDependents", "propagationPolicy", "dryRun"])
async def test_wrong_options_of_a_deletion_delete_nothing(http: httpx2.AsyncClient, option: str) -> None:
    assert (await http.post(PODS, json=POD)).status_code in (201, 409)
    for wrong in (1e300, 2**70, "\u00b2", [1], {"x": 1.5}):
        options = {option: wrong, "apiVersion": "v1", "kind": "DeleteOptions"}
        answer = await http.request("DELETE", f"{PODS}/nobody", json=options)
        assert 400 <= answer.status_code < 500, (wrong, answer.text)


async def test_the_longest_grace_is_kept_as_the_longest_date(http: httpx2.AsyncClient) -> None:
    assert (await http.post(PODS, json=POD | {"metadata": {"name": "long", "finalizers": ["example.org/hold"]}})).status_code == 201
    answer = await http.request("DELETE", f"{PODS}/long", json={"gracePeriodSeconds": 2**63 - 1})
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("query", ["limit=\u00b2", "limit=1e9", "limit=99999999999999999999", "limit=--1"])
async def test_numbers_of_a_query_are_ascii_and_bounded(http: httpx2.AsyncClient, query: str) -> None:
    answer = await http.get(f"{PODS}?{query}")
    assert (answer.status_code, "strconv.ParseInt" in answer.json()["message"]) == (400, True), answer.text


@pytest.mark.parametrize("amount", ["1e1000000", "1e-1000000", "16Ei", "1" * 60, 1e300])
async def test_amounts_beyond_all_bounds_are_cut_to_the_largest(http: httpx2.AsyncClient, amount: Any) -> None:
    pod = replaced(POD, ("spec", "containers", 0, "resources"), {"limits": {"memory": amount}})
    answer = await http.post(PODS, json=pod | {"metadata": {"generateName": "big-"}})
    assert answer.status_code in (201, 422, 400, 403), answer.text
