"""The routing table as a function of the cluster's objects."""

from __future__ import annotations

import hashlib
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moorage.router.balance import WeightedRotation, least_busy
from moorage.routing.render import render
from moorage.specs.manifest import Manifest
from moorage.specs.routing import TokenTerms

DIGEST = hashlib.sha256(b"key").hexdigest()


def endpoint(name: str = "digits", *, created: str = "2026-01-01T00:00:00Z", workspace: str = "w", **spec: object) -> Manifest:
    body = {
        "workspace": workspace,
        "resourceGroup": "g",
        "compute": "c",
        "endpoint": name,
        "authMode": "Key",
        "keySha256": [DIGEST],
        **spec,
    }
    return {"metadata": {"name": f"{name}-{workspace}", "namespace": "ns", "creationTimestamp": created}, "spec": body}


def deployment(name: str, *, of: str = "digits", workspace: str = "w", **spec: object) -> Manifest:
    body = {"workspace": workspace, "resourceGroup": "g", "compute": "c", "endpoint": of, "deployment": name, **spec}
    return {"metadata": {"name": f"{of}-{name}-{workspace}", "namespace": "ns", "creationTimestamp": "2026-01-01T00:00:00Z"}, "spec": body}


def endpoint_slice(service: str, *addresses: str, ready: bool | None = True) -> Manifest:
    conditions = {} if ready is None else {"ready": ready}
    return {
        "metadata": {"name": f"{service}-x", "namespace": "ns", "labels": {"kubernetes.io/service-name": service}},
        "ports": [{"port": 5001}],
        "endpoints": [{"addresses": [address], "conditions": conditions} for address in addresses],
    }


def test_an_endpoint_has_its_deployments_with_their_ready_replicas_and_limits() -> None:
    limits = {"timeoutMilliseconds": 3000, "queueWaitMilliseconds": 100, "concurrencyPerInstance": 4}
    table = render(
        [endpoint(traffic={"blue": 90, "green": 10})],
        [deployment("blue", requests=limits), deployment("green")],
        [endpoint_slice("digits-blue-w", "127.16.0.3", "127.16.0.2"), endpoint_slice("digits-green-w", "127.16.0.9", ready=False)],
    )
    route = table.endpoints["digits"]
    assert route.key_digests == (bytes.fromhex(DIGEST),)
    assert route.traffic == {"blue": 90, "green": 10}
    assert route.deployments["blue"].replicas == (("127.16.0.2", 5001), ("127.16.0.3", 5001))
    assert route.deployments["blue"].concurrency == 4
    assert route.deployments["blue"].timeout == timedelta(seconds=3)
    assert route.deployments["green"].replicas == ()
    assert route.deployments["green"].queue_wait == timedelta(milliseconds=500)


def test_an_address_without_a_ready_condition_counts_as_ready() -> None:
    table = render([endpoint()], [deployment("blue")], [endpoint_slice("digits-blue-w", "127.16.0.2", ready=None)])
    assert table.endpoints["digits"].deployments["blue"].replicas == (("127.16.0.2", 5001),)


def test_traffic_to_a_deployment_that_does_not_exist_is_left_out() -> None:
    assert render([endpoint(traffic={"blue": 50, "ghost": 50})], [deployment("blue")], []).endpoints["digits"].traffic == {"blue": 50}


@pytest.mark.parametrize(
    ("mirror", "kept"),
    [
        ({"Green": 10}, {"green": 10}),
        ({"green": 10, "old": 0}, {"green": 10}),
        ({"green": 0}, {}),
        ({"ghost": 10}, {}),
        ({"blue": 10}, {}),
        ({"green": 90}, {"green": 50}),
        ({"red": 10, "green": 20}, {"green": 20}),
        (None, {}),
    ],
)
def test_copies_go_to_one_deployment_that_exists_and_has_no_traffic(mirror: dict[str, int] | None, kept: dict[str, int]) -> None:
    deployments = [deployment(name) for name in ("blue", "Green", "red")]
    assert render([endpoint(traffic={"blue": 100}, mirrorTraffic=mirror)], deployments, []).endpoints["digits"].mirror == kept


def test_of_two_endpoints_of_one_name_the_older_is_served() -> None:
    younger = endpoint(workspace="a", created="2026-02-01T00:00:00Z")
    table = render([younger, endpoint(workspace="z")], [deployment("blue", workspace="z"), deployment("red", workspace="a")], [])
    assert set(table.endpoints["digits"].deployments) == {"blue"}


def test_what_is_being_deleted_is_served_no_more() -> None:
    leaving = deployment("blue")
    leaving["metadata"]["deletionTimestamp"] = "2026-01-02T00:00:00Z"
    assert render([endpoint()], [leaving], []).endpoints["digits"].deployments == {}


def test_an_endpoint_takes_the_tokens_its_spec_describes_and_keys_no_more() -> None:
    auth = {"audience": "w/digits", "generation": 3, "publicKeys": ["a" * 43, "b" * 43]}
    route = render([endpoint(authMode="AMLToken", auth=auth)], [], []).endpoints["digits"]
    assert route.key_digests == () and route.tokens == TokenTerms("w/digits", 3, ("a" * 43, "b" * 43))
    assert render([endpoint(auth=auth)], [], []).endpoints["digits"].tokens is None


def test_an_endpoint_of_tokens_lets_nobody_in_when_the_cluster_dropped_what_describes_them() -> None:
    route = render([endpoint(authMode="AMLToken")], [], []).endpoints["digits"]
    assert route.key_digests == () and route.tokens is None


@settings(deadline=None)
@given(st.dictionaries(st.text("abc", min_size=1, max_size=3), st.integers(0, 20), min_size=1, max_size=5), st.integers(1, 4))
def test_traffic_is_split_exactly_over_any_whole_round(weights: dict[str, int], rounds: int) -> None:
    rotation = WeightedRotation(weights)
    total = sum(weights.values())
    chosen = [rotation.choose() for _ in range(max(1, total * rounds))]
    if total == 0:
        assert chosen == [None]
    else:
        assert {name: chosen.count(name) for name in weights} == {name: weight * rounds for name, weight in weights.items()}


class Load:
    def __init__(self, busy: int) -> None:
        self.busy = busy


@settings(deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=8), st.integers(1, 5), st.integers(0, 50))
def test_the_replica_chosen_is_among_the_least_busy_and_never_full(busy: list[int], limit: int, start: int) -> None:
    index = least_busy([Load(value) for value in busy], limit, start)
    if min(busy) >= limit:
        assert index is None
    else:
        assert index is not None and busy[index] == min(busy)
