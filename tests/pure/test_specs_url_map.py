"""Which file an address stands for, and what no map can reach."""

from __future__ import annotations

from pathlib import PurePath, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moorage.errors import Invalid
from moorage.specs.url_map import Mapped, UrlMap, parse

MAP = parse(
    {
        "https://Example.org/data/": "data",
        "https://example.org/data/special": "/srv/special",
        "wasbs://c@acct.blob.core.windows.net": "blobs",
        "https://example.org/one.csv": "one.csv",
    },
    PurePath("/maps"),
    name="map.yml",
)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://example.org/data/a/b.csv", ("/maps/data", "a/b.csv")),
        ("HTTPS://EXAMPLE.org/data/", ("/maps/data", ".")),
        ("https://example.org/data/special/x", ("/srv/special", "x")),
        ("https://example.org/data/specialist", ("/maps/data", "specialist")),
        ("https://example.org/data/a%20b.csv?sv=1&sig=x#f", ("/maps/data", "a b.csv")),
        ("https://example.org/one.csv", ("/maps/one.csv", ".")),
        ("wasbs://c@acct.blob.core.windows.net/p/q/", ("/maps/blobs", "p/q")),
        ("https://example.org/data//a/./b", ("/maps/data", "a/b")),
    ],
)
def test_the_longest_prefix_wins(url: str, expected: tuple[str, str]) -> None:
    assert MAP.find(url) == Mapped(PurePath(expected[0]), PurePosixPath(expected[1]))


@pytest.mark.parametrize(
    "url", ["https://example.org/database/x", "http://example.org/data/x", "https://example.org", "https://other.org/data/x"]
)
def test_what_no_prefix_fits_is_not_mapped(url: str) -> None:
    assert MAP.find(url) is None


@pytest.mark.parametrize("tail", ["../x", "a/../../x", "%2e%2e/x", "..%2fx", "a%2f..%2f..%2fx", "..\\x", "a/%00"])
def test_no_address_leaves_its_folder(tail: str) -> None:
    with pytest.raises(Invalid, match="leaves the folder"):
        MAP.find(f"https://example.org/data/{tail}")


@given(st.text(alphabet="./%2eEfFab\\", max_size=20))
def test_whatever_is_found_lies_below_the_root(tail: str) -> None:
    try:
        found = MAP.find(f"https://example.org/data/{tail}")
    except Invalid:
        return
    assert found is None or not {"..", "/"} & set(found.below.parts)


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ([], "a URL map is a mapping"),
        ({"ftp://x/": "a"}, "'ftp://x/' is no address"),
        ({"/etc": "a"}, "'/etc' is no address"),
        ({"https://": "a"}, "is no address"),
        ({"https://h/": 3}, "must be mapped to the path"),
        ({"https://h/a": "x", "https://H/a/": "y"}, "is mapped twice"),
    ],
)
def test_what_is_no_map_is_refused(document: object, expected: str) -> None:
    with pytest.raises(Invalid, match=r"map\.yml") as caught:
        parse(document, PurePath("/maps"), name="map.yml")
    assert expected in caught.value.message


def test_an_empty_map_maps_nothing() -> None:
    assert UrlMap().find("https://example.org/x") is None
