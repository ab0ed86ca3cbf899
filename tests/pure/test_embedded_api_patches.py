"""Patches and server-side apply, as tables."""

from __future__ import annotations

from typing import Any

import pytest

from moorage.embedded import apply
from moorage.embedded.patch import json_patch, merge_patch
from moorage.embedded.selectors import only_name, parse
from moorage.embedded.shapes import FromSchema, built_in
from moorage.embedded.strategic import strategic_merge
from moorage.errors import Conflict, Invalid

POD = built_in("", "Pod")
DEPLOYMENT = built_in("apps", "Deployment")
ONE, TWO = apply.Manager("one", "Apply", "v1"), apply.Manager("two", "Apply", "v1")


@pytest.mark.parametrize(
    ("target", "patch", "expected"),
    [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": "foo"}, {"b": {"c": None}}, {"a": "foo", "b": {}}),
        ([1, 2], {"a": "b"}, {"a": "b"}),
        ({"a": "b"}, ["c"], ["c"]),
    ],
)
def test_merge_patch_follows_rfc_7386(target: Any, patch: Any, expected: Any) -> None:
    assert merge_patch(target, patch) == expected


@pytest.mark.parametrize(
    ("target", "operations", "expected"),
    [
        ({"a": [1, 3]}, [{"op": "add", "path": "/a/1", "value": 2}], {"a": [1, 2, 3]}),
        ({"a": [1]}, [{"op": "add", "path": "/a/-", "value": 2}], {"a": [1, 2]}),
        ({"x/y": 1, "m~n": 2}, [{"op": "remove", "path": "/x~1y"}, {"op": "replace", "path": "/m~0n", "value": 3}], {"m~n": 3}),
        ({"a": 1}, [{"op": "move", "from": "/a", "path": "/b"}, {"op": "copy", "from": "/b", "path": "/c"}], {"b": 1, "c": 1}),
        ({"a": {"b": 1}}, [{"op": "test", "path": "/a", "value": {"b": 1}}], {"a": {"b": 1}}),
        ({"a": 1}, [{"op": "replace", "path": "", "value": {"z": 1}}], {"z": 1}),
    ],
)
def test_json_patch_follows_rfc_6902(target: Any, operations: Any, expected: Any) -> None:
    assert json_patch(target, operations) == expected


@pytest.mark.parametrize(
    "operations",
    [
        [{"op": "test", "path": "/a", "value": True}],
        [{"op": "remove", "path": "/b"}],
        [{"op": "replace", "path": "/b", "value": 1}],
        [{"op": "add", "path": "/b/c", "value": 1}],
        [{"op": "swap", "path": "/a"}],
        [{"op": "add", "path": "a", "value": 1}],
        [{"op": "add", "path": "/a"}],
        ["add"],
    ],
)
def test_an_impossible_json_patch_is_refused(operations: Any) -> None:
    with pytest.raises(Invalid):
        json_patch({"a": 1}, operations)


def pod(*containers: dict[str, Any], **spec: Any) -> dict[str, Any]:
    return {"spec": {"containers": list(containers), **spec}}


@pytest.mark.parametrize(
    ("target", "patch", "expected"),
    [
        pytest.param(
            pod({"name": "a", "image": "1"}, {"name": "b", "image": "1"}),
            pod({"name": "b", "image": "2"}),
            pod({"name": "a", "image": "1"}, {"name": "b", "image": "2"}),
            id="containers merge by name",
        ),
        pytest.param(
            pod({"name": "a"}, {"name": "b"}),
            pod({"name": "a", "$patch": "delete"}),
            pod({"name": "b"}),
            id="an item is deleted by directive",
        ),
        pytest.param(
            pod({"name": "a", "env": [{"name": "X", "value": "1"}]}),
            pod({"name": "a", "env": [{"name": "Y", "value": "2"}]}),
            pod({"name": "a", "env": [{"name": "X", "value": "1"}, {"name": "Y", "value": "2"}]}),
            id="env merges by name",
        ),
        pytest.param(
            pod({"name": "a", "args": ["1"]}), pod({"name": "a", "args": ["2"]}), pod({"name": "a", "args": ["2"]}), id="args are atomic"
        ),
        pytest.param(
            pod(tolerations=[{"key": "a"}]),
            {"spec": {"tolerations": [{"key": "b"}]}},
            pod(tolerations=[{"key": "b"}]),
            id="tolerations are atomic",
        ),
        pytest.param(
            pod({"name": "a", "volumeMounts": [{"name": "v", "mountPath": "/x"}]}),
            pod({"name": "a", "volumeMounts": [{"name": "w", "mountPath": "/x"}]}),
            pod({"name": "a", "volumeMounts": [{"name": "w", "mountPath": "/x"}]}),
            id="mounts merge by path",
        ),
        pytest.param(
            {"metadata": {"finalizers": ["a/b", "c/d"]}},
            {"metadata": {"$deleteFromPrimitiveList/finalizers": ["a/b"]}},
            {"metadata": {"finalizers": ["c/d"]}},
            id="an item leaves a primitive list",
        ),
        pytest.param(
            pod({"name": "a"}, {"name": "b"}),
            {"spec": {"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}], "containers": [{"name": "b", "image": "2"}]}},
            pod({"name": "b", "image": "2"}, {"name": "a"}),
            id="the order is set",
        ),
        pytest.param(
            {"spec": {"nodeSelector": {"a": "b"}}}, {"spec": {"$patch": "replace", "x": 1}}, {"spec": {"x": 1}}, id="a map is replaced"
        ),
        pytest.param(
            {"status": {"conditions": [{"type": "Ready", "status": "False"}, {"type": "Other", "status": "True"}]}},
            {"status": {"conditions": [{"type": "Ready", "status": "True"}]}},
            {"status": {"conditions": [{"type": "Ready", "status": "True"}, {"type": "Other", "status": "True"}]}},
            id="conditions merge by type",
        ),
    ],
)
def test_strategic_merge_patch_knows_the_lists_of_kubernetes(target: Any, patch: Any, expected: Any) -> None:
    assert strategic_merge(target, patch, POD) == expected


def test_a_strategic_patch_without_its_merge_key_is_refused() -> None:
    with pytest.raises(Invalid, match="does not contain declared merge key: name"):
        strategic_merge(pod({"name": "a"}), pod({"image": "x"}), POD)


def named(**rest: Any) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "d", **rest.pop("metadata", {})}, **rest}


def test_apply_owns_what_it_sets_and_takes_back_what_it_no_longer_does() -> None:
    first = named(metadata={"labels": {"a": "1", "b": "1"}}, **pod({"name": "m", "image": "x", "env": [{"name": "E", "value": "1"}]}))
    live, owners = apply.applied(named(), first, {}, ONE, POD, force=False)
    second = named(metadata={"labels": {"a": "1"}}, **pod({"name": "m", "image": "y"}))
    live, owners = apply.applied(live, second, owners, ONE, POD, force=False)
    assert live == second
    assert set(owners) == {ONE}


def test_an_empty_map_that_was_applied_keeps_what_later_applies_put_into_it() -> None:
    live, owners = apply.applied(named(), named(metadata={"labels": {}}), {}, ONE, POD, force=False)
    filled = named(metadata={"labels": {"a": "1"}})
    live, owners = apply.applied(live, filled, owners, ONE, POD, force=False)
    assert live == filled


def test_a_list_item_goes_with_everything_that_defaulting_put_into_it() -> None:
    live, owners = apply.applied(named(), named(**pod({"name": "a", "image": "1"}, {"name": "b", "image": "1"})), {}, ONE, POD, force=False)
    for container in live["spec"]["containers"]:
        container["imagePullPolicy"] = "Always"
    live, owners = apply.applied(live, named(**pod({"name": "a", "image": "1"})), owners, ONE, POD, force=False)
    assert live["spec"]["containers"] == [{"name": "a", "image": "1", "imagePullPolicy": "Always"}]


def test_two_managers_share_what_they_agree_on_and_collide_on_the_rest() -> None:
    live, owners = apply.applied(named(), named(**pod({"name": "m", "image": "x"})), {}, ONE, POD, force=False)
    same, shared = apply.applied(live, named(**pod({"name": "m", "image": "x"})), owners, TWO, POD, force=False)
    assert same == live
    assert shared[ONE] == shared[TWO]
    with pytest.raises(Conflict) as refusal:
        apply.applied(live, named(**pod({"name": "m", "image": "y"})), owners, TWO, POD, force=False)
    assert refusal.value.details[0].target == '.spec.containers[name="m"].image'
    assert 'conflict with "one"' in refusal.value.details[0].message
    taken, after = apply.applied(live, named(**pod({"name": "m", "image": "y"})), owners, TWO, POD, force=True)
    assert taken["spec"]["containers"][0]["image"] == "y"
    image = ("f:spec", "f:containers", 'k:{"name":"m"}', "f:image")
    assert image in after[TWO] and image not in after[ONE]


def test_what_another_manager_also_owns_stays_when_one_lets_go() -> None:
    live, owners = apply.applied(named(), named(metadata={"labels": {"a": "1"}}), {}, ONE, POD, force=False)
    live, owners = apply.applied(live, named(metadata={"labels": {"a": "1"}}), owners, TWO, POD, force=False)
    live, owners = apply.applied(live, named(), owners, ONE, POD, force=False)
    assert live["metadata"]["labels"] == {"a": "1"}
    live, owners = apply.applied(live, named(), owners, TWO, POD, force=False)
    assert "labels" not in live["metadata"]


def test_an_update_takes_over_what_it_changes() -> None:
    live, owners = apply.applied(named(), named(**pod({"name": "m", "image": "x"})), {}, ONE, POD, force=False)
    editor = apply.Manager("kubectl-edit", "Update", "v1")
    owners = apply.updated(*apply.changes(live, named(**pod({"name": "m", "image": "y"})), POD), owners, editor)
    image = ("f:spec", "f:containers", 'k:{"name":"m"}', "f:image")
    assert owners[editor] == {image}
    assert image not in owners[ONE]


def test_fields_v1_goes_there_and_back() -> None:
    fields = apply.fields_of(
        named(
            metadata={"labels": {"a": "1"}, "finalizers": ["x/y"]}, **pod({"name": "m", "image": "x", "command": ["a"], "resources": {}})
        ),
        POD,
    )
    assert apply.from_fields_v1(apply.to_fields_v1(fields)) == fields


def test_lists_of_custom_kinds_follow_their_schema() -> None:
    schema = {
        "properties": {
            "spec": {
                "properties": {
                    "atomic": {"type": "array", "items": {"type": "string"}},
                    "set": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
                    "map": {
                        "type": "array",
                        "x-kubernetes-list-type": "map",
                        "x-kubernetes-list-map-keys": ["k"],
                        "items": {"type": "object"},
                    },
                }
            }
        }
    }
    shape = FromSchema(schema, top=True)
    one = named(spec={"atomic": ["a"], "set": ["a"], "map": [{"k": "a", "v": 1}]})
    two = named(spec={"set": ["b"], "map": [{"k": "b", "v": 2}]})
    live, owners = apply.applied(named(), one, {}, ONE, shape, force=False)
    live, owners = apply.applied(live, two, owners, TWO, shape, force=False)
    assert live["spec"] == {"atomic": ["a"], "set": ["a", "b"], "map": [{"k": "a", "v": 1}, {"k": "b", "v": 2}]}
    live, owners = apply.applied(live, named(spec={"atomic": ["a"], "set": [], "map": []}), owners, ONE, shape, force=False)
    assert live["spec"]["set"] == ["b"]
    assert live["spec"]["map"] == [{"k": "b", "v": 2}]


def test_copies_of_copies_end_before_the_memory_does() -> None:
    doubling = [{"op": "copy", "from": "", "path": f"/{number}"} for number in range(64)]
    with pytest.raises(Invalid, match="accumulated size increase of copy"):
        json_patch({"text": "x" * 1000}, doubling)
    with pytest.raises(Invalid, match="maximum operations"):
        json_patch({}, [{"op": "add", "path": "/a", "value": 1}] * 10_001)


def test_a_long_field_selector_is_read_in_one_go() -> None:
    with pytest.raises(Invalid, match="can't understand"):
        parse(None, "a" + " " * 1_000_000 + "b")
    assert only_name("metadata.name==a,spec.nodeName!=b") == "a"
    assert only_name("metadata.name!=a") == only_name("a") == ""


@pytest.mark.parametrize(
    ("shape", "manifest"),
    [
        (POD, {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "uid": "u"}, "spec": {}}),
        (
            POD,
            {
                "metadata": {"name": "p", "labels": {"b": "1", "a": "2", "a-b": "3"}, "finalizers": ["y", "x"], "ownerReferences": []},
                "spec": {
                    "nodeSelector": {},
                    "containers": [
                        {
                            "name": "b",
                            "ports": [{"containerPort": 1}, {"containerPort": 1, "protocol": "UDP"}],
                            "args": ["x"],
                            "resources": {},
                        },
                        {"name": "a", "env": [{"name": "E", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}]},
                        {"name": "a", "image": "twice"},
                    ],
                },
                "status": {"conditions": [{"type": "Ready"}], "phase": ""},
            },
        ),
        (
            FromSchema({"properties": {"tags": {"x-kubernetes-list-type": "set"}, "any": {"x-kubernetes-map-type": "atomic"}}}, top=True),
            {"metadata": {"annotations": {}}, "tags": [2, 1], "any": {"a": 1}, "free": {"deep": [{"a": 1}]}},
        ),
    ],
    ids=["bare", "pod", "custom"],
)
def test_a_new_objects_fields_are_the_same_in_one_walk(shape: Any, manifest: dict[str, Any]) -> None:
    found, expected = apply.tree_of(manifest, shape), apply.to_fields_v1(apply.fields_of(manifest, shape))
    assert found == expected
