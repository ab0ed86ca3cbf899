"""`.amlignore` and `.gitignore` rules: the last pattern that matches decides, and nothing below a left-out folder comes back."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

# Never code, often huge. The original's SDK sends them, so a folder that holds them has another hash there.
ALWAYS = (".git/", "__pycache__/", ".ipynb_checkpoints/", ".DS_Store")


@dataclass(frozen=True, slots=True)
class Rule:
    """One line of an ignore file."""

    pattern: re.Pattern[str]
    folders_only: bool
    negated: bool


def parse(text: str) -> list[Rule]:
    """The rules of an ignore file, in order."""
    return [rule for line in text.splitlines() if (rule := _rule(line)) is not None]


def left_out(rules: Sequence[Rule], path: str, *, folder: bool) -> bool:
    """Whether the rules leave out `path` (relative, `/` between its parts), whose parents they do not."""
    out = False
    for rule in rules:
        if (not rule.folders_only or folder) and rule.pattern.fullmatch(path):
            out = not rule.negated
    return out


def _rule(line: str) -> Rule | None:
    line = line.rstrip("\r")
    if line.startswith("#"):
        return None
    # Trailing spaces count only when escaped.
    line = re.sub(r"(?<!\\) +$", "", line)
    negated = line.startswith("!")
    if negated:
        line = line[1:]
    folders_only = line.endswith("/")
    line = line.rstrip("/")
    if not line:
        return None
    anchored = "/" in line
    body = _translate(line.removeprefix("/"))
    return Rule(re.compile(body if anchored else f"(?:.*/)?{body}", re.DOTALL), folders_only, negated)


def _translate(glob: str) -> str:
    """A gitignore glob as a regular expression: `**` crosses folders, `*` and `?` do not."""
    out = []
    at = 0
    while at < len(glob):
        rest = glob[at:]
        if rest.startswith("**/") and (at == 0 or glob[at - 1] == "/"):
            out.append("(?:.*/)?")
            at += 3
        elif rest == "**" and at > 0 and glob[at - 1] == "/":
            out.append(".+")
            at += 2
        elif glob[at] == "*":
            at += len(rest) - len(rest.lstrip("*"))
            out.append("[^/]*")
        elif glob[at] == "?":
            out.append("[^/]")
            at += 1
        elif glob[at] == "[" and (found := re.match(r"\[[!^]?\]?[^\]]*\]", rest)):
            inside = found[0][1:-1]
            flip = inside[:1] in ("!", "^")
            inside = (inside[1:] if flip else inside).replace("\\", "\\\\").replace("[", "\\[")
            inside = f"\\{inside}" if inside.startswith(("]", "^")) else inside
            out.append(f"(?!/)[{'^' if flip else ''}{inside}]")
            at += len(found[0])
        elif glob[at] == "\\" and at + 1 < len(glob):
            out.append(re.escape(glob[at + 1]))
            at += 2
        else:
            out.append(re.escape(glob[at]))
            at += 1
    return "".join(out)
