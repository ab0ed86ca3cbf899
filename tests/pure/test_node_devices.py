"""GPUs found through a driver's folder and given to containers; nodes as they are declared."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moorage.cli.stack import StackSettings
from moorage.cli.up import _checked_nodes
from moorage.embedded.node.declared import Declared, numbered, read
from moorage.embedded.node.devices import RESOURCE, Allotment, Gpu, deal, environment, find
from moorage.errors import Invalid, Unavailable

UUIDS = [f"GPU-0000000{number}-1111-2222-3333-444444444444" for number in range(4)]
GPUS = [Gpu(number, uuid, "NVIDIA Test") for number, uuid in enumerate(UUIDS)]


@pytest.fixture
def driver(tmp_path: Path) -> tuple[Path, Path]:
    """What the driver shows of three GPUs: one in full, one without its UUID, one that has no device file here."""
    facts = [
        ("0000:65:00.0", f"Model: \t\t NVIDIA Test\nIRQ:   \t\t 1\nGPU UUID: \t {UUIDS[0]}\nDevice Minor: \t 1\n"),
        ("0000:17:00.0", "Model: \t\t NVIDIA Test\nGPU UUID: \t GPU-????????-????-????-????-????????????\nDevice Minor: \t 0\n"),
        ("0000:ca:00.0", f"Model: \t\t NVIDIA Test\nGPU UUID: \t {UUIDS[2]}\nDevice Minor: \t 2\n"),
    ]
    for slot, text in facts:
        (tmp_path / "driver" / "gpus" / slot).mkdir(parents=True)
        (tmp_path / "driver" / "gpus" / slot / "information").write_text(text)
    (tmp_path / "dev").mkdir()
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm", "null"):
        (tmp_path / "dev" / name).touch()
    return tmp_path / "driver", tmp_path / "dev"


def test_gpus_are_found_by_number_with_the_name_that_cuda_takes(driver: tuple[Path, Path]) -> None:
    assert find(*driver) == [Gpu(0, "0", "NVIDIA Test"), Gpu(1, UUIDS[0], "NVIDIA Test")]


def test_without_a_driver_there_are_none_and_without_its_facts_numbers_do(tmp_path: Path, driver: tuple[Path, Path]) -> None:
    assert find(tmp_path / "nothing", tmp_path / "none") == []
    assert find(tmp_path / "nothing", driver[1]) == [Gpu(0, "0"), Gpu(1, "1")]


@pytest.mark.parametrize(
    ("asked", "numbers"),
    [
        ([None], [[0, 1, 2, 3]]),
        ([None, None], [[0, 2], [1, 3]]),
        ([1, None, None], [[0], [1, 3], [2]]),
        ([0, None], [[], [0, 1, 2, 3]]),
        ([3, 2], [[0, 1, 2], []]),
        ([8], [[]]),
    ],
)
def test_no_two_nodes_offer_the_same_gpu(asked: list[int | None], numbers: list[list[int]]) -> None:
    assert [[gpu.number for gpu in own] for own in deal(GPUS, asked)] == numbers


def container(name: str, gpus: int = 0, **more: Any) -> dict[str, Any]:
    return {"name": name, **({"resources": {"limits": {RESOURCE: str(gpus)}}} if gpus else {}), **more}


def test_every_container_has_its_own_and_init_containers_use_them_first() -> None:
    allotment = Allotment(GPUS)
    first = {"initContainers": [container("init", 2)], "containers": [container("a", 1), container("b", 1), container("c")]}
    assert allotment.give("one", first) == {"init": UUIDS[:2], "a": UUIDS[:1], "b": UUIDS[1:2]}
    second = {"initContainers": [container("side", 1, restartPolicy="Always")], "containers": [container("a", 1)]}
    assert allotment.give("two", second) == {"side": UUIDS[2:3], "a": UUIDS[3:4]}
    with pytest.raises(Unavailable, match="Requested: 1, Available: 0, which is unexpected"):
        allotment.give("three", {"containers": [container("a", 1)]})
    assert allotment.give("none", {"containers": [container("a")]}) == {}
    allotment.release("one")
    assert allotment.give("three", {"containers": [container("a", 2)]}) == {"a": UUIDS[:2]}


def test_what_is_written_down_is_not_given_again() -> None:
    allotment = Allotment(GPUS)
    allotment.keep("before", {"a": [UUIDS[0]], "b": [UUIDS[2]]})
    assert allotment.give("after", {"containers": [container("a", 2)]}) == {"a": [UUIDS[1], UUIDS[3]]}


@given(st.lists(st.one_of(st.integers(0, 3), st.sampled_from(["end"])), max_size=12))
def test_nobody_ever_shares_a_gpu(steps: list[int | str]) -> None:
    allotment, held = Allotment(GPUS), {}
    for index, step in enumerate(steps):
        if isinstance(step, str):
            if held:
                uid = next(iter(held))
                del held[uid]
                allotment.release(uid)
            continue
        try:
            held[str(index)] = [id for ids in allotment.give(str(index), {"containers": [container("a", step)]}).values() for id in ids]
        except Unavailable:
            assert step > len(GPUS) - sum(len(ids) for ids in held.values())
    every = [id for ids in held.values() for id in ids]
    assert len(every) == len(set(every))


def test_a_container_sees_its_own_gpus_or_none_and_a_machine_without_says_nothing() -> None:
    assert environment(GPUS, UUIDS[1:3])["CUDA_VISIBLE_DEVICES"] == ",".join(UUIDS[1:3])
    none = environment(GPUS, [])
    assert (none["CUDA_VISIBLE_DEVICES"], none["NVIDIA_VISIBLE_DEVICES"]) == ("", "void")
    assert environment([], []) == {}


def test_nodes_are_read_as_declared() -> None:
    document = [
        {
            "name": "gpu-0",
            "labels": {"pool": "gpu", "example.com/rank": 1},
            "taints": [{"key": "example.com/gpu", "value": "yes", "effect": "NoSchedule"}],
            "capacity": {"cpu": 16, "memory": "64Gi", "example.com/dongle": 2},
        },
        {"name": "plain"},
    ]
    first, second = read(document)
    assert first == Declared(
        "gpu-0",
        {"pool": "gpu", "example.com/rank": "1"},
        ({"key": "example.com/gpu", "effect": "NoSchedule", "value": "yes"},),
        {"cpu": "16", "memory": "64Gi", "example.com/dongle": "2"},
    )
    assert second == Declared("plain")
    assert read([first.body]) == (first,)
    assert [one.name for one in numbered(2)] == ["node-0", "node-1"]


@pytest.mark.parametrize(
    ("document", "target"),
    [
        ({}, "nodes"),
        ([], "nodes"),
        ([{"name": "a"}, {"name": "a"}], "nodes"),
        (["a"], "nodes[0]"),
        ([{"name": "A_b"}], "nodes[0].name"),
        ([{"name": "a", "lables": {}}], "nodes[0].lables"),
        ([{"name": "a", "labels": {"b": None}}], "nodes[0].labels"),
        ([{"name": "a", "labels": {"b": "not a value"}}], "nodes[0].labels"),
        ([{"name": "a", "taints": [{"key": "b", "effect": "Never"}]}], "nodes[0].taints[0]"),
        ([{"name": "a", "taints": "b"}], "nodes[0].taints"),
        ([{"name": "a", "capacity": {"dongle": 1}}], "nodes[0].capacity.dongle"),
        ([{"name": "a", "capacity": {"example.com/x": "1.5"}}], "nodes[0].capacity.example.com/x"),
        ([{"name": "a", "capacity": {"cpu": "many"}}], "nodes[0].capacity.cpu"),
    ],
)
def test_what_is_wrong_with_a_declaration_is_named(document: Any, target: str) -> None:
    with pytest.raises(Invalid) as refusal:
        read(document)
    assert refusal.value.target == target


def test_up_takes_a_number_of_nodes_or_a_file_that_declares_them(tmp_path: Path) -> None:
    assert _checked_nodes("3") == (3, ())
    file = tmp_path / "nodes.yaml"
    file.write_text("- {name: gpu-0, capacity: {example.com/dongle: 2}}\n- name: plain\n")
    count, declared = _checked_nodes(str(file))
    assert count == 2
    settings = json.loads(json.dumps(asdict(StackSettings(nodes=count, declared=declared))))
    assert [one.name for one in read(StackSettings(**settings).declared)] == ["gpu-0", "plain"]


@pytest.mark.parametrize(
    ("given", "says"), [("21", "number from 1 to 20"), ("0", "number from 1 to 20"), ("no-such.yaml", "cannot be read")]
)
def test_up_says_what_nodes_may_be(given: str, says: str) -> None:
    with pytest.raises(Invalid, match=says):
        _checked_nodes(given)
