"""The JSONPath of printer columns: fields, escaped dots, indices, `[*]` and filters by equality. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import orjson

from moorage.errors import Invalid

_STEP = re.compile(
    r"""\.(?P<field>(?:\\.|[^.\[\]\\])+)|\['(?P<quoted>[^']*)'\]|\[(?P<index>-?\d+)\]|\[(?P<all>\*)\]"""
    r"""|\[\?\(\s*@\.(?P<name>[\w.-]+)\s*==\s*(?P<value>"[^"]*"|'[^']*'|[\w.-]+)\s*\)\]"""
)
Step = tuple[str, str, str]


@lru_cache(maxsize=256)
def _steps(path: str) -> tuple[Step, ...]:
    text = path.strip().removeprefix("{").removesuffix("}").removeprefix("$")
    found: list[Step] = []
    position = 0
    while position < len(text):
        step = _STEP.match(text, position)
        if not step:
            raise Invalid(f"the JSONPath {path!r} is not understood at {text[position:]!r}", code="FieldValueInvalid", target="jsonPath")
        position = step.end()
        if step["field"] is not None:
            found.append(("field", re.sub(r"\\(.)", r"\1", step["field"]), ""))
        elif step["quoted"] is not None:
            found.append(("field", step["quoted"], ""))
        elif step["index"] is not None:
            found.append(("index", step["index"], ""))
        elif step["all"]:
            found.append(("all", "", ""))
        else:
            found.append(("filter", step["name"], step["value"].strip("\"'")))
    return tuple(found)


def check(path: str) -> None:
    """Invalid when the path is beyond this subset."""
    _steps(path)


def find(document: Any, path: str) -> Sequence[Any]:
    """Every value at the path, none where it leads nowhere."""
    here = [document]
    for kind, name, value in _steps(path):
        there: list[Any] = []
        for item in here:
            match kind:
                case "field" if isinstance(item, dict):
                    there += [item[name]] if item.get(name) is not None else []
                case "index" if isinstance(item, list) and -len(item) <= int(name) < len(item):
                    there.append(item[int(name)])
                case "all" if isinstance(item, list | dict):
                    there += item if isinstance(item, list) else item.values()
                case "filter" if isinstance(item, list):
                    there += [entry for entry in item if isinstance(entry, dict) and text(entry.get(name)) == value]
        here = there
    return here


def text(value: Any) -> str:
    return value if isinstance(value, str) else orjson.dumps(value).decode()
