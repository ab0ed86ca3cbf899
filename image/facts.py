"""What an image is: read from `component.toml` for ours, made by hand for those of tests."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Facts:
    """One image of Debian packages, with or without Moorage at `prefix`."""

    repository: str
    suite: str
    packages: Sequence[str]
    unwanted: Sequence[str] = ()
    prefix: str = ""
    user: str = ""
    working_folder: str = "/"
    entry_point: Sequence[str] = ()
    command: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)


def component() -> Facts:
    """The component image."""
    read = tomllib.loads((HERE / "component.toml").read_text(encoding="utf-8"))
    debian = read.pop("debian")
    return Facts(**debian, **read)
