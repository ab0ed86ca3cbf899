"""Commands, instance types, environment keys and condition times: tables."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moorage.errors import Invalid
from moorage.specs import command, instance_type, pod_status
from moorage.specs.condition import Condition, merge
from moorage.specs.environment import environment_hash
from moorage.specs.manifest import Manifest

INPUTS = {"data": "/mnt/azureml/inputs/data", "rate": "0.1", "empty": ""}
OUTPUTS = {"model": "/mnt/azureml/outputs/model"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("python a.py", "python a.py"),
        ("--d ${{inputs.data}} --o ${{ outputs.model }}", "--d /mnt/azureml/inputs/data --o /mnt/azureml/outputs/model"),
        ("--d ${{inputs.data.path}}/x", "--d /mnt/azureml/inputs/data/x"),
        ("a $[[--r ${{inputs.rate}}]] b", "a --r 0.1 b"),
        ("a $[[ --r ${{inputs.absent}} ]] b", "a  b"),
        ("echo '${{inputs.empty}}' $HOME ${X} $(date) [[ -f x ]]", "echo '' $HOME ${X} $(date) [[ -f x ]]"),
    ],
)
def test_references_are_replaced_literally(text: str, expected: str) -> None:
    assert command.resolve(text, INPUTS, OUTPUTS) == expected


@pytest.mark.parametrize("reference", ["${{inputs.other}}", "${{outputs.data}}", "${{search_space.lr}}", "${{}}"])
def test_an_unknown_reference_names_those_that_exist(reference: str) -> None:
    with pytest.raises(Invalid, match=r"inputs\.data, inputs\.empty, inputs\.rate, outputs\.model") as caught:
        command.resolve(f"run {reference}", INPUTS, OUTPUTS)
    assert reference in caught.value.message


def _expand(text: str, known: dict[str, str]) -> str:
    """Kubernetes' expansion, as third_party/forked/golang/expansion does it."""
    out, at = "", 0
    while at < len(text):
        if text[at] == "$" and at + 1 < len(text):
            if text[at + 1] == "$":
                out, at = out + "$", at + 2
                continue
            if text[at + 1] == "(" and (end := text.find(")", at + 2)) >= 0:
                name = text[at + 2 : end]
                out, at = out + known.get(name, f"$({name})"), end + 1
                continue
        out, at = out + text[at], at + 1
    return out


@given(st.text(alphabet="$(){}aB \\\n", max_size=30))
def test_kubernetes_passes_literal_text_on_unchanged(text: str) -> None:
    assert _expand(command.literal(text), {"a": "1", "B": "2", "aB": "3"}) == text


def kind(name: str, limits: dict[str, object], **spec: object) -> Manifest:
    return {"metadata": {"name": name}, "spec": {"resources": {"limits": limits}, **spec}}


def test_without_an_instance_type_the_clusters_default_or_the_built_in_one_applies() -> None:
    assert instance_type.choose(None, []).limits == {"cpu": "0.6", "memory": "2Gi"}
    assert instance_type.choose("", [kind("defaultinstancetype", {"cpu": 2})]).limits == {"cpu": "2"}


def test_an_unknown_instance_type_is_refused_with_the_list() -> None:
    with pytest.raises(Invalid, match=r"no instance type 'gpu'\. It has: big, defaultinstancetype") as caught:
        instance_type.choose("gpu", [kind("big", {"cpu": "4"})])
    assert caught.value.code == "UnknownInstanceType"


def test_requests_default_to_limits() -> None:
    manifest = kind("g", {"cpu": "1", "memory": "2Gi", "nvidia.com/gpu": 1})
    manifest["spec"]["resources"]["requests"] = {"cpu": "700m"}
    found = instance_type.parse(manifest)
    assert found.requests == {"cpu": "700m", "memory": "2Gi", "nvidia.com/gpu": "1"}


def test_own_resources_lower_the_instance_types() -> None:
    found = instance_type.narrow(instance_type.BUILT_IN, {"requests": {"cpu": "0.1"}, "limits": {"memory": "1Gi"}})
    assert found.limits == {"cpu": "0.6", "memory": "1Gi"}
    assert found.requests == {"cpu": "0.1", "memory": "1Gi"}


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        ({"limits": {"memory": "3Gi"}}, "resources.limits.memory: 3Gi exceeds the 2Gi"),
        ({"requests": {"cpu": 1}}, "resources.requests.cpu: 1 exceeds the 0.6"),
        ({"limits": {"nvidia.com/gpu": 1}}, "resources.limits.nvidia.com/gpu: 1 is asked for"),
        ({"limits": {"cpu": "0.2"}, "requests": {"cpu": "0.3"}}, "the request 0.3 exceeds the limit 0.2"),
        ({"limits": {"cpu": "many"}}, "'many' is not a quantity"),
    ],
)
def test_own_resources_never_exceed_the_instance_types(own: Manifest, expected: str) -> None:
    with pytest.raises(Invalid) as caught:
        instance_type.narrow(instance_type.BUILT_IN, own)
    assert expected in caught.value.message


def test_environments_have_one_key_per_content() -> None:
    assert environment_hash(None, None) == environment_hash(" \n", [""]) == ""
    assert environment_hash("a: 1\n\n", []) == environment_hash("a: 1  ", [" "])
    assert environment_hash("", ["a", "b"]) != environment_hash("", ["b", "a"])


def test_a_conditions_time_moves_with_its_status_only() -> None:
    first = datetime(2026, 1, 1, tzinfo=UTC)
    before = merge((), [Condition("Ready", "False", "A", "a")], now=first, generation=1)
    later = merge(before, [Condition("Ready", "False", "B", "b")], now=first + timedelta(hours=1), generation=2)
    assert later[0]["lastTransitionTime"] == "2026-01-01T00:00:00Z"
    assert later[0]["reason"] == "B"
    turned = merge(later, [Condition("Ready", "True", "C", "")], now=first + timedelta(hours=2), generation=2)
    assert turned[0]["lastTransitionTime"] == "2026-01-01T02:00:00Z"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"code": "X", "message": "what"}', ("X", "what")),
        ('progress\n{"code": "X", "message": "what"}\n', ("X", "what")),
        ("Traceback\nValueError: no", ("", "Traceback\nValueError: no")),
        ('{"message": 1}', ("", '{"message": 1}')),
        ("", ("", "")),
    ],
)
def test_termination_messages_are_read(text: str, expected: tuple[str, str]) -> None:
    assert pod_status.explained(text) == expected
