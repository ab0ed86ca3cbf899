"""The expressions of ARM templates (`[concat(parameters('a'), '/b')]`): read and evaluated without running anything of the template's as code.

The syntax and the functions are those of Azure Resource Manager's template reference, as far as templates of workspaces use them; any other
function is refused by its name.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from moorage.errors import Invalid

_TOKEN = re.compile(r"\s*(?:(?P<name>[A-Za-z_][A-Za-z0-9_.]*)|(?P<number>-?\d+)|'(?P<text>(?:[^']|'')*)'|(?P<sign>[()\[\],.]))")
Functions = Mapping[str, Callable[..., Any]]
_DEEPEST = 64
_LONGEST_NUMBER = 20


def is_expression(value: Any) -> bool:
    """Whether text is an expression; `[[...` is text that begins with a bracket."""
    return isinstance(value, str) and value.startswith("[") and value.endswith("]") and not value.startswith("[[")


def evaluate(value: Any, functions: Functions) -> Any:
    """`value` with every expression in it, at any depth, replaced by what it stands for.

    Args:
        functions: what the surroundings add, by lower-case name: `parameters`, `variables`, `resourceId`, ...

    Raises:
        Invalid: an expression that does not parse, an unknown function, or arguments it does not take.
    """
    if isinstance(value, dict):
        return {str(evaluate(name, functions)): evaluate(item, functions) for name, item in value.items()}
    if isinstance(value, list):
        return [evaluate(item, functions) for item in value]
    if is_expression(value):
        return _Reader(value, functions).whole()
    if isinstance(value, str) and value.startswith("[["):
        return value[1:]
    return value


class _Reader:
    """A recursive-descent reader of one expression that evaluates as it reads.

    Arguments of `if`, `and`, `or` and `coalesce` that do not matter are read and not evaluated, as in ARM: templates ask
    `if(contains(o, 'a'), o.a, '')`.
    """

    def __init__(self, text: str, functions: Functions) -> None:
        self.text = text
        self.functions = functions
        self.tokens = self._tokens(text[1:-1])
        self.at = 0
        self.depth = 0
        self.live = True

    def _tokens(self, inner: str) -> list[tuple[str, Any]]:
        found: list[tuple[str, Any]] = []
        position = 0
        while inner[position:].strip():
            match = _TOKEN.match(inner, position)
            if match is None:
                raise self._refusal(f"'{inner[position:].strip()[:20]}' is not understood")
            kind = str(match.lastgroup)
            if kind == "name" and (dot := match["name"].find(".")) >= 0:
                # A dot belongs to what follows a name, except in `name.space.function(`, which templates of this kind do not have.
                found.append(("name", match["name"][:dot]))
                position = match.start("name") + dot
                continue
            found.append((kind, match["text"].replace("''", "'") if kind == "text" else match[kind]))
            position = match.end()
        return found

    def _refusal(self, what: str) -> Invalid:
        shown = self.text if len(self.text) <= 120 else f"{self.text[:117]}..."
        return Invalid(f"the template's expression {shown}: {what}.", code="InvalidTemplate", target=shown)

    def _next(self) -> tuple[str, Any]:
        if self.at >= len(self.tokens):
            raise self._refusal("it ends too early")
        self.at += 1
        return self.tokens[self.at - 1]

    def _sees(self, sign: str) -> bool:
        return self.at < len(self.tokens) and self.tokens[self.at] == ("sign", sign)

    def _expect(self, sign: str) -> None:
        if self._next() != ("sign", sign):
            raise self._refusal(f"'{sign}' is missing")

    def whole(self) -> Any:
        found = self._value()
        if self.at != len(self.tokens):
            raise self._refusal(f"'{self.tokens[self.at][1]}' is one too many")
        return found

    def _value(self) -> Any:
        self.depth += 1
        if self.depth > _DEEPEST:
            raise self._refusal("it is nested too deeply")
        kind, token = self._next()
        if kind == "text":
            found: Any = token
        elif kind == "number":
            found = self._number(token)
        elif kind == "name":
            found = self._call(token)
        else:
            raise self._refusal(f"'{token}' stands where a value belongs")
        while self._sees(".") or self._sees("["):
            found = self._member(found)
        self.depth -= 1
        return found

    def _number(self, token: str) -> int:
        if len(token) > _LONGEST_NUMBER:
            raise self._refusal("a number in it is too long")
        return int(token)

    def _member(self, whole: Any) -> Any:
        if self._next()[1] == ".":
            key: Any = self._next()[1]
        else:
            key = self._value()
            self._expect("]")
        if not self.live:
            return None
        if isinstance(whole, dict):
            for name, item in whole.items():
                if str(name).lower() == str(key).lower():
                    return item
            raise self._refusal(f"there is no '{key}'; there are {', '.join(map(str, whole)) or 'none'}")
        if isinstance(whole, list) and isinstance(key, int) and 0 <= key < len(whole):
            return whole[key]
        raise self._refusal(f"there is no '{key}'")

    def _call(self, name: str) -> Any:
        self._expect("(")
        arguments: list[Any] = []
        while not self._sees(")"):
            before = self.live
            self.live = before and _matters(name.lower(), arguments)
            arguments.append(self._value())
            self.live = before
            if not self._sees(")"):
                self._expect(",")
        self._expect(")")
        function = self.functions.get(name.lower()) or _FUNCTIONS.get(name.lower())
        if function is None:
            known = ", ".join(sorted({*_FUNCTIONS, *self.functions}))
            raise self._refusal(f"the function '{name}' is not supported; there are {known}")
        if not self.live:
            return None
        try:
            return function(*arguments)
        except Invalid:
            raise
        except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, MemoryError) as error:
            raise self._refusal(f"{name}() does not take these arguments ({error})") from error


def _matters(function: str, before: Sequence[Any]) -> bool:
    """Whether the next argument of a function can change what it gives, after those before it."""
    match function:
        case "if":
            return not before or bool(before[0]) == (len(before) == 1)
        case "and":
            return all(before)
        case "or":
            return not any(before)
        case "coalesce":
            return all(value is None for value in before)
    return True


def _concat(*parts: Any) -> Any:
    if parts and all(isinstance(part, list) for part in parts):
        return [item for part in parts for item in part]
    return "".join(map(_string, parts))


def _string(value: Any) -> str:
    if isinstance(value, str):
        return value
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def _format(pattern: str, *values: Any) -> str:
    def fill(match: re.Match[str]) -> str:
        return {"{{": "{", "}}": "}"}.get(match[0]) or _string(values[int(match[1])])

    return re.sub(r"\{\{|\}\}|\{(\d+)\}", fill, pattern)


def _unique_string(*parts: str) -> str:
    # Azure's own hash is not published: ours is as long, as stable, and another one.
    return base64.b32encode(hashlib.sha256("-".join(parts).encode()).digest()).decode().lower()[:13]


def _guid(*parts: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, "-".join(parts)))


def _bool(value: Any) -> bool:
    if isinstance(value, str):
        if value.lower() in ("true", "1"):
            return True
        if value.lower() in ("false", "0"):
            return False
        raise ValueError(f"'{value}' is neither true nor false")
    return bool(value)


def _contains(whole: Any, part: Any) -> bool:
    if isinstance(whole, dict):
        return any(str(name).lower() == str(part).lower() for name in whole)
    return part in whole


def _equals(one: Any, other: Any) -> bool:
    # ARM compares text without regard to case, and never a number with a truth value.
    if isinstance(one, str) and isinstance(other, str):
        return one.lower() == other.lower()
    return type(one) is type(other) and bool(one == other)


def _create_object(*pairs: Any) -> dict[str, Any]:
    if len(pairs) % 2:
        raise ValueError("names and values come in pairs")
    return {str(pairs[index]): pairs[index + 1] for index in range(0, len(pairs), 2)}


def _union(*parts: Any) -> Any:
    if all(isinstance(part, dict) for part in parts):
        return {name: item for part in parts for name, item in part.items()}
    found: list[Any] = []
    for part in parts:
        found.extend(item for item in part if item not in found)
    return found


def _split(text: str, signs: Any) -> list[str]:
    wanted = [signs] if isinstance(signs, str) else signs
    return re.split("|".join(re.escape(sign) for sign in wanted), text)


def _substring(text: str, start: int, length: int | None = None) -> str:
    if start < 0 or start > len(text) or (length is not None and start + length > len(text)):
        raise ValueError("outside of the text")
    return text[start:] if length is None else text[start : start + length]


def _whole(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError("whole numbers are expected")
    return value


def _pad_left(text: Any, width: int, sign: str = " ") -> str:
    if width > 10_000:
        raise ValueError("at most 10000 characters")
    return _string(text).rjust(width, sign)


def _range(start: int, count: int) -> list[int]:
    if count > 10_000:
        raise ValueError("at most 10000 numbers")
    return list(range(start, start + count))


_FUNCTIONS: Functions = {
    "concat": _concat,
    "format": _format,
    "string": _string,
    "int": lambda value: int(value),
    "bool": _bool,
    "json": lambda text: json.loads(text),
    "true": lambda: True,
    "false": lambda: False,
    "null": lambda: None,
    "tolower": lambda text: text.lower(),
    "toupper": lambda text: text.upper(),
    "trim": lambda text: text.strip(),
    "replace": lambda text, old, new: text.replace(old, new),
    "startswith": lambda text, start: text.lower().startswith(start.lower()),
    "endswith": lambda text, end: text.lower().endswith(end.lower()),
    "indexof": lambda text, part: text.lower().find(part.lower()),
    "substring": _substring,
    "padleft": _pad_left,
    "split": _split,
    "join": lambda parts, sign: sign.join(map(_string, parts)),
    "length": len,
    "empty": lambda value: not value,
    "contains": _contains,
    "first": lambda value: value[0],
    "last": lambda value: value[-1],
    "skip": lambda value, count: value[count:],
    "take": lambda value, count: value[:count],
    "union": _union,
    "range": _range,
    "min": lambda *values: min(values[0] if isinstance(values[0], list) else values),
    "max": lambda *values: max(values[0] if isinstance(values[0], list) else values),
    "createarray": lambda *items: list(items),
    "array": lambda value: value if isinstance(value, list) else [value],
    "createobject": _create_object,
    "if": lambda condition, one, other: one if condition else other,
    "and": lambda *values: all(values),
    "or": lambda *values: any(values),
    "not": lambda value: not value,
    "equals": _equals,
    "less": lambda one, other: one < other,
    "lessorequals": lambda one, other: one <= other,
    "greater": lambda one, other: one > other,
    "greaterorequals": lambda one, other: one >= other,
    "coalesce": lambda *values: next((value for value in values if value is not None), None),
    "add": lambda one, other: one + other,
    "sub": lambda one, other: one - other,
    "mul": lambda one, other: _whole(one) * _whole(other),
    "div": lambda one, other: one // other,
    "mod": lambda one, other: one % other,
    "base64": lambda text: base64.b64encode(text.encode()).decode(),
    "base64tostring": lambda text: base64.b64decode(text).decode(),
    "uri": lambda base, rest: f"{base.rstrip('/')}/{rest.lstrip('/')}",
    "uniquestring": _unique_string,
    "guid": _guid,
}
