"""Reads error codes, reasons and event names out of the source itself, so that none can be raised without standing in the reference."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path

SOURCE = Path(__file__).parent.parent / "src" / "moorage"
ERRORS = ("MoorageError", "Invalid", "NotFound", "Conflict", "Expired", "Unauthenticated", "Forbidden", "Throttled", "Unavailable")
_REASON = re.compile(r"^[A-Z][a-z]+[A-Za-z]*$")
_SEVERITIES = ("Normal", "Warning")
EITHER = " / "


@dataclass(frozen=True, slots=True, order=True)
class Found:
    """One code or reason: its name, what it belongs to (an error class, a phase, a condition, a severity), its message with `…` for what varies."""

    name: str
    kind: str
    message: str
    module: str


@cache
def error_codes() -> list[Found]:
    """Every `code="..."` given to an error of the tree, wherever it is made."""
    found = set()
    for module, _, call, texts in _calls():
        kind = _callee(call)
        code = next((keyword.value for keyword in call.keywords if keyword.arg == "code"), None)
        if kind in ERRORS and isinstance(code, ast.Constant) and isinstance(code.value, str):
            message = _text(call.args[0], texts) if call.args else ""
            found.add(Found(code.value, kind, message, module))
    return sorted(found)


def reasons(package: str) -> list[Found]:
    """Every reason with its message that a package puts into a status or condition: a CamelCase literal followed by a text."""
    found = set()
    for module, name, node, texts in _nodes(package):
        values = node.args if isinstance(node, ast.Call) else node.elts if isinstance(node, ast.Tuple) else []
        if _severity(values) is not None:
            continue
        for index, (value, after) in enumerate(pairwise(values)):
            message = _text(after, texts)
            for reason in _text(value, texts).split(EITHER):
                if _REASON.match(reason) and not all(map(_REASON.match, message.split(EITHER))) and " " in message:
                    before = [each for each in map(_literal, values[:index]) if each]
                    found.add(Found(reason, " ".join(before) if before else name, message, module))
    return sorted(found)


def events(package: str) -> list[Found]:
    """Every Kubernetes event a package records: severity, reason and message stand beside each other in one call."""
    found = set()
    for module, _, call, texts in _calls(package):
        at = _severity(call.args)
        if at is not None and len(call.args) > at + 2 and _REASON.match(_literal(call.args[at + 1])):
            found.add(Found(_literal(call.args[at + 1]), _literal(call.args[at]), _text(call.args[at + 2], texts), module))
    return sorted(found)


def _severity(values: list[ast.expr]) -> int | None:
    return next((index for index, value in enumerate(values) if _literal(value) in _SEVERITIES), None)


def _calls(package: str = "") -> Iterator[tuple[str, str, ast.Call, dict[str, str]]]:
    for module, name, node, texts in _nodes(package):
        if isinstance(node, ast.Call):
            yield module, name, node, texts


def _nodes(package: str) -> Iterator[tuple[str, str, ast.AST, dict[str, str]]]:
    """Module, enclosing function's name, node, and the function's local texts by variable."""
    for path in sorted((SOURCE / package).rglob("*.py")):
        module = ".".join(path.relative_to(SOURCE.parent).with_suffix("").parts)
        tree = ast.parse(path.read_text(encoding="utf-8"))
        scopes = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
        inside: set[int] = set()
        for scope in scopes:
            texts: dict[str, str] = {}
            # In the order of the lines, so that a variable has the text it was given last.
            for node in sorted(ast.walk(scope), key=lambda each: (getattr(each, "lineno", 0), getattr(each, "col_offset", 0))):
                inside.add(id(node))
                if isinstance(node, ast.Assign):
                    texts |= {target.id: _text(node.value, texts) for target in node.targets if isinstance(target, ast.Name)}
                yield module, scope.name, node, texts
        for node in ast.walk(tree):
            if id(node) not in inside:
                yield module, "", node, {}


def _callee(call: ast.Call) -> str:
    return call.func.id if isinstance(call.func, ast.Name) else call.func.attr if isinstance(call.func, ast.Attribute) else ""


def _literal(node: ast.expr) -> str:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def _text(node: ast.expr, texts: dict[str, str]) -> str:
    match node:
        case ast.Constant(value=str(value)):
            return value
        case ast.JoinedStr(values=values):
            return "".join(_literal(value) if isinstance(value, ast.Constant) else "…" for value in values)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return (_text(left, texts) or "…") + (_text(right, texts) or "…")
        case ast.Name(id=name):
            return texts.get(name, "")
        case ast.IfExp(body=body, orelse=orelse):
            return EITHER.join(text for text in (_text(body, texts), _text(orelse, texts)) if text)
        case ast.BoolOp(values=values):
            return EITHER.join(text for text in (_text(value, texts) for value in values) if text)
        case _:
            return ""
