"""The reference is what the code says, and says all of it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import click
import pytest

from moorage import errors
from moorage.cli.exits import Exit
from moorage.cli.main import application
from moorage.extension import health
from moorage.extension.settings import KEYS, PROTECTED
from moorage.router.metrics import RouterMetrics
from moorage.server.settings import Settings
from moorage.wire import crds

ROOT = Path(__file__).parent.parent.parent
REFERENCE = ROOT / "docs" / "reference"


@cache
def page(name: str) -> str:
    return (REFERENCE / name).read_text(encoding="utf-8")


def commands(command: click.Command, context: click.Context, path: str) -> Iterator[tuple[str, click.Command]]:
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            assert found is not None
            if not found.hidden:
                yield from commands(found, click.Context(found, info_name=name, parent=context), f"{path} {name}")
    else:
        yield path, command


COMMANDS = dict(commands(application, click.Context(application, info_name="moorage"), "moorage"))


def crd_fields() -> Iterator[tuple[str, str]]:
    """Kind and dotted path of every property of every definition, walked without the generator's code."""
    for definition in crds.definitions():
        kind = definition["spec"]["names"]["kind"]
        stack: list[tuple[str, Any]] = [("", version["schema"]["openAPIV3Schema"]) for version in definition["spec"]["versions"]]
        while stack:
            prefix, schema = stack.pop()
            for name, below in (schema.get("properties") or {}).items():
                yield kind, f"{prefix}{name}"
                stack.append((f"{prefix}{name}.", below))
            if isinstance(items := schema.get("items"), dict):
                stack.append((f"{prefix[:-1]}[].", items))
            if isinstance(values := schema.get("additionalProperties"), dict):
                stack.append((f"{prefix[:-1]}.KEY.", values))


def test_the_reference_is_up_to_date() -> None:
    # In a process of its own: it imports the whole command line, and a pytest process has much of it loaded under other conditions.
    done = subprocess.run([sys.executable, str(ROOT / "scripts" / "reference_pages.py"), "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", sorted(COMMANDS))
def test_every_command_appears_with_its_options(path: str) -> None:
    _, _, after = page("cli.md").partition(f" {path}\n")
    section = after.partition("\n## ")[0].partition("\n### ")[0]
    assert section
    shared = page("cli.md").partition("## Global options\n")[2].partition("\n## ")[0]
    for parameter in COMMANDS[path].params:
        if isinstance(parameter, click.Option):
            assert any(name in section or name in shared for name in parameter.opts), parameter.opts


@pytest.mark.parametrize("key", [*KEYS, *PROTECTED], ids=lambda key: key.name)
def test_every_extension_setting_appears(key: Any) -> None:
    assert f"`{key.name}`" in page("extension-settings.md")
    assert key.meaning in page("extension-settings.md")


@pytest.mark.parametrize("name", sorted(Settings.model_fields))
def test_every_service_setting_appears_and_says_what_it_is(name: str) -> None:
    assert Settings.model_fields[name].description
    assert f"`MOORAGE_{name.upper()}`" in page("service-settings.md")


def test_every_field_of_every_custom_resource_appears() -> None:
    sections = {text.splitlines()[0]: text for text in page("custom-resources.md").split("\n## ")[1:]}
    found = list(crd_fields())
    assert len(found) > 100
    assert [(kind, path) for kind, path in found if f"| `{path}` |" not in sections[kind]] == []


def test_every_exit_code_error_class_and_health_check_code_appears() -> None:
    text = page("error-codes.md")
    for each in Exit:
        assert f"| {int(each)} | {each.name} | " in text
    for each in [errors.MoorageError, *(each for each in errors.MoorageError.__subclasses__() if each.__module__ == errors.__name__)]:
        assert f"| `{each.default_code}` | {each.__name__} | " in text
    for code in health.Code:
        assert f"| `{code.value}` | {code.name} | " in text


def test_every_error_code_in_the_source_appears() -> None:
    import re

    text = page("error-codes.md")
    literals = {
        code
        for path in (ROOT / "src").rglob("*.py")
        for code in re.findall(r'\bcode="([A-Z][A-Za-z]+)"', path.read_text(encoding="utf-8"))
        if "podside/scoring" not in path.as_posix()
    }
    assert len(literals) > 50
    assert sorted(code for code in literals if f"`{code}`" not in text) == []


def test_every_metric_of_the_router_appears() -> None:
    for metric in RouterMetrics({}).collect():
        assert f"`{metric.name}" in page("metrics.md")


def test_every_metric_the_source_names_appears() -> None:
    import re

    named = {
        name
        for path in (ROOT / "src").rglob("*.py")
        for name in re.findall(r'"(moorage_(?:router|server|agent|gateway|training|inference)_[a-z_]+)"', path.read_text(encoding="utf-8"))
    }
    assert named
    assert sorted(name for name in named if f"`{name}" not in page("metrics.md")) == []
