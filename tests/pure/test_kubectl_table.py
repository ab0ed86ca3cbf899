"""What the table of kubectl cases calls a difference."""

from __future__ import annotations

from tests.kubectl.table import Step, differences

HEAD = ["Events:", "  Type  Reason  Age  From  Message", "  ----  ------  ----  ----  -------"]
STEP = Step(["kubectl describe job x"])


def test_events_of_one_second_may_come_in_any_order() -> None:
    one = [*HEAD, "  Normal  B", "  Normal  A", "Name:  x", "  z", "  a"]
    other = [*HEAD, "  Normal  A", "  Normal  B", "Name:  x", "  z", "  a"]
    assert differences([(STEP, one, other)]) == ""


def test_another_order_elsewhere_and_another_event_are_differences() -> None:
    base = [*HEAD, "  Normal  A", "Name:  x", "  z", "  a"]
    assert "+  a" in differences([(STEP, base, [*base[:-2], "  a", "  z"])])
    assert "-  Normal  A" in differences([(STEP, base, [*HEAD, *base[4:]])])
    assert differences([(STEP, ["  b", "  a"], ["  a", "  b"])]) != ""
