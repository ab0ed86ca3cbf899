"""What the pages say to type can be typed, and what they link to is there."""

from __future__ import annotations

import contextlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from moorage.cli.az.main import application as az
from moorage.cli.az.words import expand
from moorage.cli.main import application

ROOT = Path(__file__).parent.parent.parent
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")])
TYPED = sorted([ROOT / "README.md", *(ROOT / "docs" / "how-to").rglob("*.md")])
# Written apart, so that this file names none of them either.
REGISTRIES = [
    ".".join(parts)
    for parts in (("pypi", "org"), ("files", "pythonhosted", "org"), ("registry", "npmjs", "org"), ("proxy", "golang", "org"))
]
TEXT = {".py", ".md", ".toml", ".yaml", ".yml", ".lock", ".txt", ".json", ".in", ".cfg", ""}


def console_commands(text: str) -> Iterator[str]:
    """The commands of a page's ```console blocks: lines that begin with `$ `, with their continuations, without a trailing comment."""
    for block in re.findall(r"```console\n(.*?)```", text, re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            if line.startswith("$ "):
                yield line[2:].partition(" #")[0].strip()


LINES = [(page.relative_to(ROOT).as_posix(), line) for page in TYPED for line in console_commands(page.read_text(encoding="utf-8"))]
MOORAGE = [(page, line) for page, line in LINES if line.startswith(("moorage ", "az "))]


def parse(name: str, words: list[str]) -> None:
    """Let Click parse a command line down to its command without running it; UsageError when it does not understand."""
    command: click.Command = application if name == "moorage" else az
    words = words if name == "moorage" else expand(words)
    context = click.Context(command, info_name=name)
    while isinstance(command, click.Group):
        _, found, words = command.resolve_command(context, words)
        assert found is not None
        command = found
        context = click.Context(command, info_name=command.name, parent=context)
    with contextlib.suppress(click.exceptions.Exit):  # `--help` as an example
        command.make_context(command.name, list(words), parent=context.parent)


def examples(command: click.Command, context: click.Context) -> Iterator[str]:
    """Every example that a command's help shows."""
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            assert found is not None
            yield from examples(found, click.Context(found, info_name=name, parent=context))
    else:
        for example in getattr(command, "examples", ()):
            yield example.replace("\\\n", " ")


EXAMPLES = list(examples(application, click.Context(application, info_name="moorage")))


@pytest.mark.parametrize("line", EXAMPLES)
def test_an_example_in_the_help_is_understood(line: str) -> None:
    # What the shell makes of it: a substitution's inside, a pipe's last part, no redirection.
    inside = re.search(r"\$\((moorage [^)]*)\)", line)
    words = shlex.split(inside[1] if inside else line[line.index("moorage ") :].partition(" > ")[0], comments=True)
    try:
        parse("moorage", words[1:])
    except click.UsageError as error:
        pytest.fail(f"{line}: {error.format_message()}")


def test_pages_have_commands_to_type() -> None:
    assert len(MOORAGE) > 10


@pytest.mark.parametrize(("page", "line"), MOORAGE, ids=[line for _, line in MOORAGE])
def test_a_command_of_a_page_is_understood(page: str, line: str) -> None:
    try:
        name, *words = shlex.split(line)
        parse(name, words)
    except click.UsageError as error:
        pytest.fail(f"{page}: {line}: {error.format_message()}")


@pytest.mark.parametrize(("page", "line"), [each for each in LINES if each not in MOORAGE], ids=lambda value: str(value))
def test_any_other_line_of_a_page_is_a_script_of_ours_kubectl_or_the_shells_own(page: str, line: str) -> None:
    first = shlex.split(line)[0]
    if first.startswith("scripts/"):
        assert (ROOT / first).is_file()
    else:
        assert first in ("kubectl", "export", "source"), f"{page}: {line}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    dead = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        if not there.exists() or (anchor and there.suffix == ".md" and anchor not in anchors(there)):
            dead.append(target)
    assert dead == []


def anchors(page: Path) -> set[str]:
    heads = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def test_files_that_pages_name_in_backticks_below_the_root_are_there() -> None:
    absent = []
    for page in PAGES:
        for name in re.findall(r"`((?:src|scripts|examples|docs|tests|benchmarks)/[\w./-]+)`", page.read_text(encoding="utf-8")):
            if not (ROOT / name).exists():
                absent.append(f"{page.name}: {name}")
    assert absent == []


def test_no_file_names_a_package_registrys_host() -> None:
    ignored = {".venv", ".venv-sdk", ".bootstrap", ".git", "__pycache__"}
    named = []
    for path in sorted(ROOT.rglob("*")):
        parts = path.relative_to(ROOT).parts
        if any(part in ignored or (part.startswith(".") and part.endswith("cache")) or part == ".hypothesis" for part in parts):
            continue
        if path.is_file() and path.suffix in TEXT:
            text = path.read_text(encoding="utf-8", errors="replace")
            named += [f"{path.relative_to(ROOT)}: {host}" for host in REGISTRIES if host in text]
    assert named == []
