"""The breaking objects that CRD tests are made of: each bound of a schema gives one, or a test over them would pass by having none."""

from __future__ import annotations

from moorage.testing.conformance.violations import smallest, violations

SCHEMA = {
    "type": "object",
    "required": ["name", "size"],
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 3, "pattern": "^[a-z]+$"},
        "size": {"type": "integer", "minimum": 2, "maximum": 4},
        "colour": {"type": "string", "enum": ["red", "green"]},
        "when": {"type": "string", "format": "date-time"},
        "many": {
            "type": "array",
            "maxItems": 1,
            "items": {"type": "object", "required": ["on"], "properties": {"on": {"type": "boolean"}}},
        },
        "map": {"type": "object", "maxProperties": 1, "additionalProperties": {"x-kubernetes-int-or-string": True, "pattern": "^[0-9]+$"}},
    },
}


def test_the_smallest_object_has_what_is_required_and_no_more() -> None:
    assert smallest(SCHEMA) == {"name": "a", "size": 2}


def test_every_bound_is_broken_once_and_the_rest_of_the_object_is_whole() -> None:
    found = list(violations(SCHEMA, "spec"))
    whole = {"name": "a", "size": 2}
    expected = [
        ("spec", "wrong"),
        ("spec.name", {"size": 2}),
        ("spec.size", {"name": "a"}),
        *(("spec.name", {**whole, "name": value}) for value in ({"wrong": True}, "", "aaaa", "?")),
        *(("spec.size", {**whole, "size": value}) for value in ("wrong", 1, 5)),
        *(("spec.colour", {**whole, "colour": value}) for value in ({"wrong": True}, "no-such-value")),
        *(("spec.when", {**whole, "when": value}) for value in ({"wrong": True}, "?")),
        *(("spec.many", {**whole, "many": value}) for value in ("wrong", [{"on": False}] * 2)),
        ("spec.many[0]", {**whole, "many": ["wrong"]}),
        ("spec.many[0].on", {**whole, "many": [{}]}),
        ("spec.many[0].on", {**whole, "many": [{"on": "wrong"}]}),
        *(("spec.map", {**whole, "map": value}) for value in ("wrong", {"n0": 1, "n1": 1})),
        *(("spec.map.x", {**whole, "map": {"x": value}}) for value in ([1], "?")),
    ]
    assert found == expected
