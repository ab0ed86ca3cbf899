"""Schemas, rules, quantities, selectors and printer columns, as tables."""

from __future__ import annotations

import copy
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from moorage.embedded import cel, custom, fieldcheck, jsonpath, quantities, schema, selectors, tables
from moorage.embedded.durations import human_duration
from moorage.embedded.kinds import BUILT_IN, Resource
from moorage.embedded.routes import Route, parse
from moorage.errors import Invalid
from moorage.specs.quantities import is_quantity, parse_quantity
from moorage.wire import crds


@pytest.mark.parametrize(
    ("value", "number", "canonical"),
    [
        ("100m", "0.1", "100m"),
        ("0.5", "0.5", "500m"),
        ("1000m", "1", "1"),
        (2, "2", "2"),
        ("1024Mi", "1073741824", "1Gi"),
        ("1.5Gi", "1610612736", "1536Mi"),
        ("2000", "2000", "2k"),
        ("1e3", "1000", "1e3"),
        ("1E", "1000000000000000000", "1E"),
        ("0", "0", "0"),
    ],
)
def test_quantities_are_exact_and_canonical(value: Any, number: str, canonical: str) -> None:
    assert str(parse_quantity(value, target="x").normalize().__format__("f")) == number
    assert quantities.canonical(value) == canonical


@pytest.mark.parametrize("value", ["", "1 Gi", "Gi", "1KiB", "--1", True, None, [], "1e"])
def test_what_is_no_quantity_is_none(value: Any) -> None:
    assert not is_quantity(value)


@pytest.mark.parametrize(
    ("rule", "holds"),
    [
        ("self.a == 1 && self.b == 'x'", True),
        ("has(self.missing) || self.a < 2", True),
        ("!has(self.missing)", True),
        ("self.missing == 1 || self.a == 1", True),
        ("self.a == 1 ? self.b == 'x' : false", True),
        ("self.list.all(x, x > 0) && self.list.exists(x, x == 2) && self.list.exists_one(x, x == 3)", True),
        ("self.list.filter(x, x > 1).size() == 2 && size(self.list.map(x, x * 2)) == 3", True),
        ("2 in self.list && 'k' in self.map && self.map['k'] == 'v'", True),
        ("self.map.exists(k, k.startsWith('k') && self.map[k].matches('^v$'))", True),
        ("quantity('1Gi').isGreaterThan(quantity('1000Mi')) && quantity(self.q).compareTo(quantity('0.5')) == 0", True),
        ("self.a + 2 * 3 == 7 && (self.a + 2) * 3 == 9 && -self.a == -1 && 7 % 4 == 3 && 7 / 2 == 3", True),
        ("self.b in ['x', 'y'] && self.b != 'y'", True),
        (r"self.b.matches(r'^\w$') && string(self.a) == '1'", True),
        ("self.b.contains('y')", False),
    ],
)
def test_rules_evaluate_as_cel_does(rule: str, holds: bool) -> None:
    value = {"a": 1, "b": "x", "list": [1, 2, 3], "map": {"k": "v"}, "q": "500m"}
    assert cel.compile_rule(rule)({"self": value}) is holds


@pytest.mark.parametrize(
    "rule", ["self.a ==", "other == 1", "self.f(1)", "has(self)", "{'a': 1} == self", "self.a; 1", "timestamp(self.a) > 1", "(self.a"]
)
def test_a_rule_beyond_the_subset_is_refused_when_it_is_compiled(rule: str) -> None:
    with pytest.raises(Invalid, match="beyond the CEL this cluster understands"):
        cel.compile_rule(rule)


@pytest.mark.parametrize("rule", ["self.missing == 1", "self.a.b == 1", "self.list[9] == 1", "self.a && true"])
def test_a_rule_that_meets_the_wrong_value_fails_with_a_reason(rule: str) -> None:
    with pytest.raises(cel.EvaluationFailed):
        cel.compile_rule(rule)({"self": {"a": 1, "list": []}})


def of(name: str) -> Resource:
    (found,) = custom.resources(next(crd for crd in crds.definitions() if crd["spec"]["names"]["kind"] == name))
    return found


def schema_of(name: str) -> schema.Schema:
    definition = of(name).definition
    assert definition is not None
    return definition.schema


@pytest.mark.parametrize("crd", crds.definitions(), ids=lambda crd: crd["spec"]["names"]["kind"])
def test_our_own_definitions_can_be_served(crd: Any) -> None:
    assert schema.unusable(crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"], "schema") == []


@pytest.mark.parametrize(
    ("spec", "field", "words"),
    [
        ({"resources": {}}, "spec.resources.limits", "Required value"),
        ({"resources": {"limits": {"cpu": "x"}}}, "spec.resources.limits.cpu", "should match"),
        ({"resources": {"limits": {"cpu": True}}}, "spec.resources.limits.cpu", 'must be of type integer,string: "boolean"'),
        ({"resources": {"limits": {"cpu": "1"}, "requests": {"cpu": 2}}}, "spec.resources", "requests must not be greater than limits"),
        ({"resources": {"limits": {"nvidia.com/gpu": "0.5"}}}, "spec.resources", "GPU counts are whole numbers"),
        ({"resources": {"limits": {"cpu": 1}, "requests": {"a/b": 1}}}, "spec.resources", "GPUs and other extended resources"),
        ({"resources": {"limits": {}}, "tolerations": [{"operator": "Maybe"}]}, "spec.tolerations[0].operator", "Unsupported value"),
        ({"resources": {"limits": {}}, "nodeSelector": {"a": 1}}, "spec.nodeSelector.a", "must be of type string"),
    ],
)
def test_a_wrong_instance_type_is_refused_at_the_field(spec: Any, field: str, words: str) -> None:
    (finding,) = schema.validate({"metadata": {}, "spec": spec}, schema_of("InstanceType"))
    assert finding.target == field
    assert words in finding.message


def test_defaults_are_filled_in_and_unknown_fields_pruned() -> None:
    body = {
        "apiVersion": "x",
        "kind": "y",
        "metadata": {},
        "spec": {"endpoint": "e", "replicas": None, "typo": 1, "model": {"uri": "u", "deep": {}}},
    }
    assert schema.prune(body, schema_of("OnlineDeployment")) == ["spec.typo", "spec.model.deep"]
    schema.set_defaults(body, schema_of("OnlineDeployment"))
    assert body["spec"]["requests"] == {"timeoutMilliseconds": 5000, "queueWaitMilliseconds": 500, "concurrencyPerInstance": 1}
    assert (body["spec"]["replicas"], body["spec"]["model"]["kind"]) == (1, "folder")
    again = copy.deepcopy(body)
    schema.set_defaults(again, schema_of("OnlineDeployment"))
    assert again == body


def test_a_transition_rule_sees_the_old_value() -> None:
    rules = {
        "type": "object",
        "properties": {"n": {"type": "integer", "x-kubernetes-validations": [{"rule": "self >= oldSelf", "message": "never less"}]}},
    }
    assert schema.validate({"n": 1}, rules) == []
    assert schema.validate({"n": 2}, rules, before={"n": 1}) == []
    (finding,) = schema.validate({"n": 0}, rules, before={"n": 1})
    assert "never less" in finding.message


@pytest.mark.parametrize(
    ("selector", "matches"),
    [
        ("a=b", True),
        ("a==b,c!=d", True),
        ("a in (b, x),c notin (z)", True),
        ("a,!z", True),
        ("a notin (b)", False),
        ("!a", False),
        ("n>4,n<6", True),
        ("", True),
    ],
)
def test_label_selectors_match_as_kubectl_writes_them(selector: str, matches: bool) -> None:
    assert selectors.parse(selector).matches({"a": "b", "c": "e", "n": "5"}, lambda path: None) is matches


@pytest.mark.parametrize(
    ("labels", "fields"), [("a=(b", None), ("a in b", None), ("-a=b", None), ("n>x", None), (None, "data=x"), (None, "metadata.name")]
)
def test_a_malformed_selector_is_refused(labels: str | None, fields: str | None) -> None:
    with pytest.raises(Invalid):
        selectors.parse(labels, fields, resource=("", "pods"))


def test_go_words_name_the_field_of_the_wrong_type() -> None:
    body = {"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a", "image": True}]}}
    with pytest.raises(Invalid, match=r"cannot unmarshal bool into Go struct field Container.spec.containers\[0\].image of type string"):
        fieldcheck.check("", "Pod", body)
    body = {"metadata": {"name": "p", "nope": 1}, "spec": {"containerz": [], "volumes": [{"name": "v", "emptyDir": {"x": 1}}]}}
    assert fieldcheck.check("", "Pod", body) == ["metadata.nope", "spec.containerz", "spec.volumes[0].emptyDir.x"]
    assert body == {"metadata": {"name": "p"}, "spec": {"volumes": [{"name": "v", "emptyDir": {}}]}}


@pytest.mark.parametrize(
    ("span", "shown"),
    [
        (1, "1s"),
        (119, "119s"),
        (120, "2m"),
        (130, "2m10s"),
        (3600, "60m"),
        (4 * 3600 + 60, "4h1m"),
        (3 * 86400 + 3600, "3d1h"),
        (800 * 86400, "2y70d"),
    ],
)
def test_ages_read_as_kubectl_prints_them(span: int, shown: str) -> None:
    assert human_duration(timedelta(seconds=span)) == shown


@pytest.mark.parametrize(
    ("path", "values"),
    [
        (".spec.a", [1]),
        (".spec.missing", []),
        (r".spec.nvidia\.com/gpu", [2]),
        ("{.spec.list[*].name}", ["x", "y"]),
        (".spec.list[1].name", ["y"]),
        ('.spec.list[?(@.name=="y")].on', [True]),
        (".spec['nvidia.com/gpu']", [2]),
    ],
)
def test_json_paths_of_printer_columns(path: str, values: list[Any]) -> None:
    document = {"spec": {"a": 1, "nvidia.com/gpu": 2, "list": [{"name": "x"}, {"name": "y", "on": True}]}}
    assert list(jsonpath.find(document, path)) == values


def test_a_json_path_beyond_the_subset_is_refused() -> None:
    with pytest.raises(Invalid, match="not understood"):
        jsonpath.check(".spec..deep")


def built_in(kind: str) -> Resource:
    return next(resource for resource in BUILT_IN if resource.kind.kind == kind)


NOW = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)
META = {"name": "p", "creationTimestamp": "2026-11-22T11:59:00Z"}


@pytest.mark.parametrize(
    ("spec", "status", "cells"),
    [
        ({"containers": [{"name": "a"}]}, {"phase": "Pending"}, ["p", "0/1", "Pending", "0", "60s"]),
        (
            {"containers": [{"name": "a"}]},
            {"phase": "Running", "containerStatuses": [{"name": "a", "ready": True, "restartCount": 0, "state": {"running": {}}}]},
            ["p", "1/1", "Running", "0", "60s"],
        ),
        (
            {"containers": [{"name": "a"}]},
            {
                "phase": "Running",
                "containerStatuses": [
                    {
                        "name": "a", "ready": False, "restartCount": 3, "state": {"waiting": {"reason": "CrashLoopBackOff"}},
                        "lastState": {"terminated": {"exitCode": 1, "finishedAt": "2026-11-22T11:59:30Z"}},
                    }
                ],
            },
            ["p", "0/1", "CrashLoopBackOff", "3 (30s ago)", "60s"],
        ),
        (
            {"containers": [{"name": "a"}], "initContainers": [{"name": "i"}, {"name": "j"}]},
            {"phase": "Pending", "initContainerStatuses": [{"name": "i", "state": {"terminated": {"exitCode": 0}}}, {"name": "j", "state": {"running": {}}}]},
            ["p", "0/1", "Init:1/2", "0", "60s"],
        ),
        (
            {"containers": [{"name": "a"}]},
            {"phase": "Failed", "containerStatuses": [{"name": "a", "restartCount": 0, "state": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}}]},
            ["p", "0/1", "OOMKilled", "0", "60s"],
        ),
        ({"containers": [{"name": "a"}]}, {"phase": "Failed", "reason": "Evicted"}, ["p", "0/1", "Evicted", "0", "60s"]),
    ],
)  # fmt: skip
def test_a_pod_row_reads_as_kubectl_prints_it(spec: Any, status: Any, cells: list[Any]) -> None:
    table = tables.table(built_in("Pod"), [{"metadata": META, "spec": spec, "status": status}], include="None", now=NOW)
    assert table["rows"][0]["cells"][:5] == cells
    assert [column["name"] for column in table["columnDefinitions"] if not column["priority"]] == [
        "Name",
        "Ready",
        "Status",
        "Restarts",
        "Age",
    ]


def test_every_kind_has_as_many_cells_as_columns() -> None:
    for resource in (*BUILT_IN, *(of(crd["spec"]["names"]["kind"]) for crd in crds.definitions())):
        table = tables.table(resource, [{"metadata": META, "spec": {}}], include="Metadata", now=NOW)
        assert len(table["rows"][0]["cells"]) == len(table["columnDefinitions"]), resource.kind


@pytest.mark.parametrize(
    ("path", "route"),
    [
        ("/api/v1/pods", Route("", "v1", "pods")),
        ("/api/v1/namespaces", Route("", "v1", "namespaces")),
        ("/api/v1/namespaces/n", Route("", "v1", "namespaces", None, "n")),
        ("/api/v1/namespaces/n/finalize", Route("", "v1", "namespaces", None, "n", "finalize")),
        ("/api/v1/namespaces/n/pods/p/log", Route("", "v1", "pods", "n", "p", "log")),
        ("/apis/apps/v1/namespaces/n/deployments/d", Route("apps", "v1", "deployments", "n", "d")),
        (
            "/apis/rbac.authorization.k8s.io/v1/clusterroles/system%3Aadmin",
            Route("rbac.authorization.k8s.io", "v1", "clusterroles", None, "system:admin"),
        ),
        ("/apis/apps/v1", None),
        ("/version", None),
    ],
)
def test_paths_lead_to_resources(path: str, route: Route | None) -> None:
    assert parse(path) == route
