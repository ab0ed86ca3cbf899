"""Conda and pip specs, and what uv's errors mean: tables."""

from __future__ import annotations

from pathlib import Path

import pytest

from moorage.errors import Invalid
from moorage.podside.installer import explained
from moorage.podside.requirements import read

CONDA = """
name: model-env
channels: [conda-forge]
dependencies:
  - python=3.10
  - pip
  - numpy=1.21.2
  - conda-forge::pytorch>=2,<3
  - scipy 1.7.*
  - cudatoolkit=11.8
  - openblas
  - pandas==2.0=py310_0
  - pip:
    - inference-schema[numpy-support]==1.3.0
    - joblib ; python_version > "3"
"""


def test_a_conda_file_becomes_requirements() -> None:
    found = read(CONDA, ["extra  ", "# note", ""])
    assert found.python == "3.10"
    assert found.lines == (
        "numpy==1.21.2.*",
        "torch>=2,<3",
        "scipy==1.7.*",
        "pandas==2.0",
        "inference-schema[numpy-support]==1.3.0",
        'joblib ; python_version > "3"',
        "extra",
    )
    assert "cudatoolkit, openblas" in found.notes[1]


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("", ""),
        ("=3.11", "3.11"),
        ("==3.11.4", "3.11.4"),
        ("=3.11.*", "3.11"),
        (">=3.9,<3.12", ">=3.9,<3.12"),
        (" 3.9", "3.9"),
        ("=3.8.13=h_0", "3.8.13"),
    ],
)
def test_pythons_version_is_read(version: str, expected: str) -> None:
    assert read(f"dependencies:\n  - python{version}\n", ()).python == expected


@pytest.mark.parametrize(
    ("conda", "pip", "words"),
    [
        ("dependencies: [", (), "it is not YAML"),
        ("- a", (), "no mapping"),
        ("dependencies: {a: 1}", (), "not a list"),
        ("dependencies: [{npm: [x]}]", (), "'npm' under dependencies"),
        ("dependencies: ['numpy=1=2=3=4']", (), "is not understood"),
        ("", ("-r requirements.txt",), "'-r requirements.txt', a file that does not travel"),
        ("", ("-e .",), "'-e .'"),
    ],
)
def test_specs_that_cannot_be_used_are_refused_with_the_reason(conda: str, pip: tuple[str, ...], words: str) -> None:
    with pytest.raises(Invalid) as caught:
        read(conda, pip)
    assert words in caught.value.message


NOT_FOUND = """  × No solution found when resolving dependencies:
  ╰─▶ Because nosuchpkg was not found in the package registry and you require
      nosuchpkg, we can conclude that your requirements are unsatisfiable.
"""
NO_VERSION = """  × No solution found when resolving dependencies:
  ╰─▶ Because there is no version of scipy==99.1 and you require scipy==99.1, we can conclude that your requirements are unsatisfiable.
"""
CONFLICT = """  × No solution found when resolving dependencies:
  ╰─▶ Because a==1 depends on b>=2 and you require a==1, we can conclude that you require b>=2.
      And because you require b<2, we can conclude that your requirements are unsatisfiable.
"""


@pytest.mark.parametrize(
    ("said", "code", "words"),
    [
        (NOT_FOUND, "RequirementNotFound", "The requirement 'nosuchpkg' does not exist in the package index; check its name."),
        (NO_VERSION, "RequirementNotFound", "no version that satisfies 'scipy==99.1'"),
        (CONFLICT, "RequirementsConflict", "Because a==1 depends on b>=2"),
        ("error: Failed to fetch\n  Caused by: dns error: failed to lookup", "PackageIndexUnavailable", "cannot be reached"),
        ("error: failed to copy\n  Caused by: No space left on device (os error 28)", "NoSpace", "volume is full"),
        ("error: Failed to build `x==1`\n  gcc: not found", "EnvironmentFailed", "Failed to build `x==1` gcc: not found"),
    ],
)
def test_uvs_errors_become_one_sentence(said: str, code: str, words: str) -> None:
    found = explained(said, Path("/"))
    assert found.code == code
    assert words in found.message
    assert "╰" not in found.message
