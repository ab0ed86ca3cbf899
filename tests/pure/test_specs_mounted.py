"""Paths of volumes on nodes that cannot put them where they belong."""

from __future__ import annotations

import json

import pytest

from moorage.specs.mounted import VARIABLE, mounted

PLACES = {VARIABLE: json.dumps({"/data": "/h/1", "/data/out": "/h/2"})}


@pytest.mark.parametrize(
    ("path", "place"),
    [("/data", "/h/1"), ("/data/x", "/h/1/x"), ("/data/out/y", "/h/2/y"), ("/database", "/database"), ("/other", "/other")],
)
def test_a_path_is_looked_up_by_the_longest_folder_above_it(path: str, place: str) -> None:
    assert mounted(path, PLACES) == place
    assert mounted(path, {}) == path
