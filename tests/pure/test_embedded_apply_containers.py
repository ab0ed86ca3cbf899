"""An applied empty map that gets content later, which a table of leaves alone would take for a field that was let go."""

from __future__ import annotations

from moorage.embedded.apply import Manager, applied
from moorage.embedded.shapes import PLAIN

BY = Manager("gateway", "Apply", "moorage.dev/v1alpha1")


def test_an_empty_map_that_is_filled_by_its_own_manager_keeps_the_content() -> None:
    empty = {"spec": {"traffic": {}}}
    live, managers = applied({}, empty, {}, BY, PLAIN, force=True)
    live, managers = applied(live, {"spec": {"traffic": {"blue": 100}}}, managers, BY, PLAIN, force=True)
    assert live["spec"] == {"traffic": {"blue": 100}}
    live, _ = applied(live, {"spec": {"traffic": {"green": 100}}}, managers, BY, PLAIN, force=True)
    assert live["spec"] == {"traffic": {"green": 100}}
