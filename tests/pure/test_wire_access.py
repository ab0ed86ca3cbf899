"""What a workload's token opens, also while one revision of a deployment gives way to the next."""

from __future__ import annotations

from moorage.specs.manifest import Manifest
from moorage.wire.access import access, keeping_access


def deployment(model: str, **spec: object) -> Manifest:
    return {"metadata": {"name": "d", "namespace": "ns"}, "spec": {"model": {"uri": model}, "code": {"uri": "c/code"}, **spec}}


def test_a_job_reads_its_inputs_and_code_and_writes_its_outputs() -> None:
    job = {
        "metadata": {"name": "j"},
        "spec": {
            "code": {"uri": "c/code"},
            "inputs": {"a": {"type": "uri_file", "uri": "b/in"}, "n": {"type": "literal", "value": "7"}},
            "outputs": {"o": {"uri": "b/out"}},
            "artifactsUri": "x/logs",
        },
    }
    assert access(job).read == ("b/in", "c/code")
    assert access(job).write == ("b/out", "x/logs")


def test_while_a_change_comes_up_the_former_model_stays_readable_and_afterwards_no_more() -> None:
    one = deployment("m/1")
    two = keeping_access(deployment("m/2"), one, served=True)
    assert access(two).read == ("c/code", "m/1", "m/2")
    three = keeping_access(deployment("m/3"), two, served=True)
    assert access(three).read == ("c/code", "m/2", "m/3")


def test_after_a_failed_change_what_still_serves_stays_readable_through_the_next_one() -> None:
    failed = keeping_access(deployment("m/2"), deployment("m/1"), served=True)
    again = keeping_access(deployment("m/3"), failed, served=False)
    assert access(again).read == ("c/code", "m/1", "m/3")


def test_asking_for_the_same_again_changes_nothing() -> None:
    two = keeping_access(deployment("m/2"), deployment("m/1"), served=True)
    assert keeping_access(deployment("m/2"), two, served=True) == two
    assert keeping_access(deployment("m/1"), deployment("m/1"), served=True) == deployment("m/1")
    assert keeping_access(deployment("m/1"), None, served=False) == deployment("m/1")
