"""Rules of roles: what one allows, what some cover, and how a refusal reads. The tables follow kubernetes/plugin/pkg/auth/authorizer/rbac."""

from __future__ import annotations

import pytest

from moorage.embedded.authentication import wanted
from moorage.embedded.control.aggregation import aggregate
from moorage.embedded.control.steps import NOTHING, Patch
from moorage.embedded.gate import attributes
from moorage.embedded.policy import completion
from moorage.embedded.rbac import Attributes, Rule, allows, describe, refusal, uncovered
from moorage.embedded.routes import parse
from moorage.embedded.users import User
from moorage.errors import Invalid
from moorage.specs.manifest import Manifest

GET_PODS = Attributes("get", "", "pods", "", "ns", "p")


@pytest.mark.parametrize(
    ("rule", "asked", "allowed"),
    [
        (Rule(("get",), ("",), ("pods",)), GET_PODS, True),
        (Rule(("*",), ("*",), ("*",)), GET_PODS, True),
        (Rule(("list",), ("",), ("pods",)), GET_PODS, False),
        (Rule(("get",), ("apps",), ("pods",)), GET_PODS, False),
        (Rule(("get",), ("",), ("pods",), ("p", "q")), GET_PODS, True),
        (Rule(("get",), ("",), ("pods",), ("q",)), GET_PODS, False),
        (Rule(("list",), ("",), ("pods",), ("p",)), Attributes("list", "", "pods"), False),
        (Rule(("get",), ("",), ("pods",)), Attributes("get", "", "pods", "log"), False),
        (Rule(("get",), ("",), ("pods/log",)), Attributes("get", "", "pods", "log"), True),
        (Rule(("get",), ("",), ("*/log",)), Attributes("get", "", "pods", "log"), True),
        (Rule(("get",), ("",), ("*/log",)), GET_PODS, False),
        (Rule(("get",), urls=("/healthz",)), Attributes("get", path="/healthz"), True),
        (Rule(("get",), urls=("/apis/*",)), Attributes("get", path="/apis/apps/v1"), True),
        (Rule(("get",), urls=("/apis/*",)), Attributes("get", path="/apis"), False),
        (Rule(("get",), ("*",), ("*",)), Attributes("get", path="/healthz"), False),
    ],
)
def test_a_rule_allows_what_it_names(rule: Rule, asked: Attributes, allowed: bool) -> None:
    assert allows(rule, asked) is allowed


@pytest.mark.parametrize(
    ("owned", "asked", "lacking"),
    [
        (Rule(("get", "list"), ("",), ("pods",)), Rule(("get",), ("",), ("pods",)), []),
        (Rule(("get",), ("",), ("pods",)), Rule(("get", "list"), ("",), ("pods",)), [Rule(("list",), ("",), ("pods",))]),
        (Rule(("get",), ("",), ("*",)), Rule(("get",), ("",), ("pods/log",)), []),
        (Rule(("get",), ("",), ("*/scale",)), Rule(("get",), ("",), ("x/scale",)), []),
        (Rule(("get",), ("",), ("pods",), ("a",)), Rule(("get",), ("",), ("pods",), ("a",)), []),
        (Rule(("get",), ("",), ("pods",), ("a",)), Rule(("get",), ("",), ("pods",)), [Rule(("get",), ("",), ("pods",))]),
        (Rule(("get",), ("",), ("pods",)), Rule(("get",), ("",), ("pods",), ("a",)), []),
        (Rule(("get",), urls=("/a/*",)), Rule(("get",), urls=("/a/b", "/c")), [Rule(("get",), urls=("/c",))]),
        (Rule(("*",), ("*",), ("*",)), Rule(("get",), urls=("/c",)), [Rule(("get",), urls=("/c",))]),
    ],
)
def test_nobody_covers_what_he_does_not_hold(owned: Rule, asked: Rule, lacking: list[Rule]) -> None:
    assert uncovered([owned], [asked]) == lacking


def test_rules_that_are_lacking_are_listed_as_kubernetes_lists_them() -> None:
    lacking = uncovered(
        [], [Rule(("get", "list"), ("",), ("secrets", "pods")), Rule(("get",), urls=("/x",)), Rule(("get",), ("",), ("a",), ("n",))]
    )
    assert describe(lacking) == [
        '{APIGroups:[""], Resources:["a"], ResourceNames:["n"], Verbs:["get"]}',
        '{APIGroups:[""], Resources:["pods"], Verbs:["get" "list"]}',
        '{APIGroups:[""], Resources:["secrets"], Verbs:["get" "list"]}',
        '{NonResourceURLs:["/x"], Verbs:["get"]}',
    ]


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        (
            Attributes("list", "", "pods", "", "y"),
            'pods is forbidden: User "x" cannot list resource "pods" in API group "" in the namespace "y"',
        ),
        (
            Attributes("get", "apps", "deployments", "scale", "y", "d"),
            'deployments.apps "d" is forbidden: User "x" cannot get resource "deployments/scale" in API group "apps" in the namespace "y"',
        ),
        (Attributes("list", "", "nodes"), 'nodes is forbidden: User "x" cannot list resource "nodes" in API group "" at the cluster scope'),
        (Attributes("get", path="/metrics"), 'forbidden: User "x" cannot get path "/metrics"'),
        (Attributes("get", path="/<a>"), 'forbidden: User "x" cannot get path "/&lt;a&gt;"'),
    ],
)
def test_a_refusal_has_the_words_of_kubernetes(asked: Attributes, text: str) -> None:
    assert refusal(User("x"), asked) == text
    assert refusal(User("x"), asked, "why") == f"{text}: why"


@pytest.mark.parametrize(
    ("method", "path", "query", "asked"),
    [
        ("GET", "/api/v1/pods", {}, Attributes("list", "", "pods")),
        ("GET", "/api/v1/pods", {"watch": "true"}, Attributes("watch", "", "pods")),
        ("GET", "/api/v1/pods", {"watch": "0"}, Attributes("list", "", "pods")),
        ("GET", "/api/v1/namespaces/n/pods", {"fieldSelector": "metadata.name=p"}, Attributes("list", "", "pods", "", "n", "p")),
        ("DELETE", "/api/v1/namespaces/n/pods", {}, Attributes("deletecollection", "", "pods", "", "n")),
        ("PATCH", "/apis/apps/v1/namespaces/n/deployments/d/status", {}, Attributes("patch", "apps", "deployments", "status", "n", "d")),
        ("GET", "/api/v1/namespaces/n", {}, Attributes("get", "", "namespaces", "", "n", "n")),
        ("POST", "/api/v1/namespaces", {}, Attributes("create", "", "namespaces")),
        ("GET", "/version", {}, Attributes("get", path="/version")),
        ("GET", "/apis/apps/v1", {}, Attributes("get", path="/apis/apps/v1")),
    ],
)
def test_a_request_is_judged_by_what_it_addresses(method: str, path: str, query: dict[str, str], asked: Attributes) -> None:
    assert attributes(method, path, query, parse(path)) == asked


def test_impersonation_needs_a_user_and_its_headers_repeat() -> None:
    who = wanted(
        [(b"impersonate-user", b"a"), (b"impersonate-group", b"g"), (b"impersonate-group", b"h"), (b"impersonate-extra-Sc%2fx", b"v")]
    )
    assert who is not None and (who.name, who.groups, who.extra) == ("a", ("g", "h"), (("sc/x", ("v",)),))
    assert wanted([(b"accept", b"*/*")]) is None
    with pytest.raises(Invalid, match="without impersonating a user"):
        wanted([(b"impersonate-group", b"g")])


def _role(name: str, *verbs: str, labels: dict[str, str] | None = None) -> Manifest:
    rules = [{"verbs": [verb], "apiGroups": [""], "resources": ["pods"]} for verb in verbs]
    return {"metadata": {"name": name, "labels": labels or {}, "resourceVersion": "1"}, "rules": rules}


def test_an_aggregated_role_holds_the_rules_of_those_it_selects_each_once() -> None:
    whole = {**_role("whole", labels={"a": "b"}), "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"a": "b"}}]}}
    parts = [_role("z", "list", "get", labels={"a": "b"}), _role("y", "get", labels={"a": "b"}), _role("x", "delete")]
    (step,) = aggregate(whole, [whole, *parts]).steps
    assert isinstance(step, Patch)
    assert [rule["verbs"] for rule in step.patch["rules"]] == [["get"], ["list"]]
    settled = {**whole, "rules": step.patch["rules"]}
    assert aggregate(settled, [settled, *parts]) == NOTHING
    assert aggregate(parts[0], [whole, *parts]) == NOTHING


def test_a_default_role_gets_back_what_it_lacks_and_keeps_what_was_added() -> None:
    default, live = _role("r", "get", "list"), _role("r", "get", "delete")
    completed = completion(live, default)
    assert completed is not None and [rule["verbs"][0] for rule in completed["rules"]] == ["get", "delete", "list"]
    assert completion(completed, default) is None
    live["metadata"]["annotations"] = {"rbac.authorization.kubernetes.io/autoupdate": "false"}
    assert completion(live, default) is None
