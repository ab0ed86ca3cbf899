"""A subset of CEL, the language of x-kubernetes-validations: compiled once, refused when it uses anything this subset lacks.

Here: literals, lists, `self` and `oldSelf`, field and index access, `has()`, `size()`, the operators `! - * / % + < <= > >= == != in && || ?:`, the macros
`all exists exists_one filter map`, string functions, conversions, `quantity()` and `duration`-free comparisons. Not here: types, maps as literals, CIDR,
URL, regex extraction. Evaluation follows CEL's rules that matter for validation: absent fields are errors, `||` and `&&` absorb errors.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from moorage.errors import Invalid
from moorage.specs.quantities import is_quantity, parse_quantity

Scope = Mapping[str, Any]
Evaluate = Callable[[Scope], Any]


class EvaluationFailed(Exception):
    """A rule met a value it cannot work on (an absent field, a wrong type); the object is refused with this message."""


@dataclass(frozen=True, slots=True, order=True)
class Quantity:
    value: Any


_TOKEN = re.compile(
    r"""\s*(?:(?P<number>\d+\.\d+(?:[eE][-+]?\d+)?|\d+)|(?P<raw>r'[^']*'|r"[^"]*")|(?P<string>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")"""
    r"""|(?P<name>[A-Za-z_]\w*)|(?P<operator>\|\||&&|==|!=|<=|>=|[-+*/%<>!?:.,()\[\]]))"""
)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r"}
_MACROS = frozenset({"all", "exists", "exists_one", "filter", "map"})


def compile_rule(text: str) -> Evaluate:
    """The rule as a function of its variables; Invalid when it is not of this subset."""
    parser = _Parser(text)
    try:
        found = parser.ternary()
        parser.expect_end()
    except _SyntaxError as error:
        raise Invalid(f"the rule {text!r} is beyond the CEL this cluster understands: {error}", code="FieldValueInvalid") from error
    return found


class _SyntaxError(Exception):
    pass


class _Parser:
    """Recursive descent, one method per level of precedence; each gives a closure."""

    def __init__(self, text: str) -> None:
        self._tokens: list[tuple[str, str]] = []
        position, text = 0, text.rstrip()
        while position < len(text):
            found = _TOKEN.match(text, position)
            if not found or found.lastgroup is None:
                raise Invalid(
                    f"the rule {text!r} is beyond the CEL this cluster understands: unexpected {text[position:].strip()[:10]!r}",
                    code="FieldValueInvalid",
                )
            self._tokens.append((found.lastgroup, found[found.lastgroup]))
            position = found.end()
        self._at = 0
        self._variables = {"self", "oldSelf"}

    def _peek(self) -> tuple[str, str]:
        return self._tokens[self._at] if self._at < len(self._tokens) else ("end", "the end")

    def _take(self, *operators: str) -> str | None:
        kind, text = self._peek()
        if kind == "operator" and text in operators:
            self._at += 1
            return text
        return None

    def _need(self, operator: str) -> None:
        if self._take(operator) is None:
            raise _SyntaxError(f"expected {operator!r} before {self._peek()[1]!r}")

    def expect_end(self) -> None:
        if self._peek()[0] != "end":
            raise _SyntaxError(f"unexpected {self._peek()[1]!r}")

    def ternary(self) -> Evaluate:
        condition = self._or()
        if self._take("?") is None:
            return condition
        yes = self._or()
        self._need(":")
        no = self.ternary()
        return lambda scope: yes(scope) if _truth(condition(scope)) else no(scope)

    def _or(self) -> Evaluate:
        left = self._and()
        while self._take("||"):
            left = _either(left, self._and(), absorbing=True)
        return left

    def _and(self) -> Evaluate:
        left = self._relation()
        while self._take("&&"):
            left = _either(left, self._relation(), absorbing=False)
        return left

    def _relation(self) -> Evaluate:
        left = self._sum()
        while True:
            operator = self._take("==", "!=", "<", "<=", ">", ">=")
            if operator is None and self._peek() == ("name", "in"):
                self._at += 1
                operator = "in"
            if operator is None:
                return left
            left = _binary(operator, left, self._sum())

    def _sum(self) -> Evaluate:
        left = self._product()
        while operator := self._take("+", "-"):
            left = _binary(operator, left, self._product())
        return left

    def _product(self) -> Evaluate:
        left = self._unary()
        while operator := self._take("*", "/", "%"):
            left = _binary(operator, left, self._unary())
        return left

    def _unary(self) -> Evaluate:
        if self._take("!"):
            inner = self._unary()
            return lambda scope: not _truth(inner(scope))
        if self._take("-"):
            inner = self._unary()
            return lambda scope: -_number(inner(scope))
        return self._member()

    def _member(self) -> Evaluate:
        here = self._primary()
        while True:
            if self._take("["):
                index = self.ternary()
                self._need("]")
                here = _indexed(here, index)
            elif self._take("."):
                here = self._dotted(here)
            else:
                return here

    def _dotted(self, target: Evaluate) -> Evaluate:
        kind, name = self._peek()
        if kind != "name":
            raise _SyntaxError(f"expected a field name before {name!r}")
        self._at += 1
        if not self._take("("):
            return _selected(target, name)
        if name in _MACROS:
            return self._macro(target, name)
        if name not in _METHODS:
            raise _SyntaxError(f"no function {name!r}")
        arguments = self._arguments()
        method = _METHODS[name]
        return lambda scope: _called(method, target(scope), *(argument(scope) for argument in arguments))

    def _macro(self, target: Evaluate, name: str) -> Evaluate:
        kind, variable = self._peek()
        if kind != "name":
            raise _SyntaxError(f"{name}() needs a variable, got {variable!r}")
        self._at += 1
        self._need(",")
        outer = set(self._variables)
        self._variables.add(variable)
        body = self.ternary()
        self._variables = outer
        self._need(")")
        return lambda scope: _comprehend(name, target(scope), lambda item: body({**scope, variable: item}))

    def _arguments(self) -> list[Evaluate]:
        found: list[Evaluate] = []
        if self._take(")"):
            return found
        while True:
            found.append(self.ternary())
            if self._take(")"):
                return found
            self._need(",")

    def _primary(self) -> Evaluate:
        kind, text = self._peek()
        self._at += 1
        match kind:
            case "number":
                number: int | float = float(text) if "." in text else int(text)
                return lambda scope: number
            case "raw":
                return lambda scope: text[2:-1]
            case "string":
                literal = re.sub(r"\\(.)", lambda m: _ESCAPES.get(m[1], m[1]), text[1:-1])
                return lambda scope: literal
            case "name":
                return self._named(text)
            case "operator" if text == "(":
                inner = self.ternary()
                self._need(")")
                return inner
            case "operator" if text == "[":
                return self._list()
        raise _SyntaxError(f"unexpected {text!r}")

    def _list(self) -> Evaluate:
        items: list[Evaluate] = []
        while not self._take("]"):
            items.append(self.ternary())
            if self._peek() != ("operator", "]"):
                self._need(",")
        return lambda scope: [item(scope) for item in items]

    def _named(self, name: str) -> Evaluate:
        if name in ("true", "false", "null"):
            value = {"true": True, "false": False, "null": None}[name]
            return lambda scope: value
        if self._take("("):
            if name == "has":
                return self._has()
            if name not in _FUNCTIONS:
                raise _SyntaxError(f"no function {name!r}")
            function, arguments = _FUNCTIONS[name], self._arguments()
            return lambda scope: _called(function, *(argument(scope) for argument in arguments))
        if name not in self._variables:
            raise _SyntaxError(f"undeclared reference to '{name}'")
        return lambda scope: scope[name]

    def _has(self) -> Evaluate:
        start = self._at
        inner = self._member()
        self._need(")")
        if self._tokens[self._at - 2][0] != "name" or self._tokens[self._at - 3] != ("operator", "."):
            raise _SyntaxError(f"has() needs a field, as in has(self.x), at {self._tokens[start][1]!r}")

        def present(scope: Scope) -> bool:
            try:
                return inner(scope) is not None
            except _NoSuchField as missing:
                if missing.depth_is_last:
                    return False
                raise

        return present


class _NoSuchField(EvaluationFailed):
    depth_is_last = True


def _selected(target: Evaluate, name: str) -> Evaluate:
    # Kubernetes escapes names that CEL cannot spell.
    plain = name.replace("__dot__", ".").replace("__slash__", "/").replace("__dash__", "-").replace("__underscores__", "__")

    def select(scope: Scope) -> Any:
        try:
            here = target(scope)
        except _NoSuchField as missing:
            missing.depth_is_last = False
            raise
        if not isinstance(here, Mapping) or plain not in here:
            raise _NoSuchField(f"no such key: {plain}")
        return here[plain]

    return select


def _indexed(target: Evaluate, index: Evaluate) -> Evaluate:
    def item(scope: Scope) -> Any:
        here, at = target(scope), index(scope)
        try:
            return here[at]
        except (KeyError, IndexError, TypeError) as error:
            raise EvaluationFailed(f"no such key: {at}") from error

    return item


def _either(left: Evaluate, right: Evaluate, *, absorbing: bool) -> Evaluate:
    """`||` (absorbing true) and `&&` (absorbing false): one side that decides hides the other side's failure."""

    def evaluate(scope: Scope) -> bool:
        try:
            if _truth(left(scope)) == absorbing:
                return absorbing
        except EvaluationFailed:
            if _truth(right(scope)) == absorbing:
                return absorbing
            raise
        return _truth(right(scope))

    return evaluate


def _truth(value: Any) -> bool:
    if not isinstance(value, bool):
        raise EvaluationFailed(f"{value!r} is not a bool")
    return value


def _number(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise EvaluationFailed(f"{value!r} is not a number")
    return value


def _binary(operator: str, left: Evaluate, right: Evaluate) -> Evaluate:
    function = _OPERATORS[operator]
    return lambda scope: _called(function, left(scope), right(scope))


def _called(function: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except (TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
        raise EvaluationFailed(str(error)) from error


def _comprehend(name: str, items: Any, body: Callable[[Any], Any]) -> Any:
    if not isinstance(items, list | Mapping):
        raise EvaluationFailed(f"{items!r} is neither a list nor a map")
    match name:
        case "filter":
            return [item for item in items if _truth(body(item))]
        case "map":
            return [body(item) for item in items]
        case "exists_one":
            return sum(_truth(body(item)) for item in items) == 1
    wanted, failure = name == "exists", None
    for item in items:
        try:
            if _truth(body(item)) == wanted:
                return wanted
        except EvaluationFailed as error:
            failure = error
    if failure is not None:
        raise failure
    return not wanted


def _equal(left: Any, right: Any) -> bool:
    return bool(left == right) and isinstance(left, bool) == isinstance(right, bool)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def _quantity(text: Any) -> Quantity:
    if not is_quantity(text):
        raise ValueError(f"{text!r} is not a quantity")
    return Quantity(parse_quantity(text, target="quantity"))


_OPERATORS: Mapping[str, Callable[[Any, Any], Any]] = {
    "==": _equal,
    "!=": lambda a, b: not _equal(a, b),
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
    "in": lambda a, b: a in b,
    "+": lambda a, b: a + b,
    "-": lambda a, b: _number(a) - _number(b),
    "*": lambda a, b: _number(a) * _number(b),
    "/": lambda a, b: int(a / b) if isinstance(a, int) and isinstance(b, int) else a / b,
    "%": lambda a, b: a - b * int(a / b),
}
_FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "size": len,
    "string": _text,
    "int": int,
    "double": float,
    "quantity": _quantity,
    "isQuantity": is_quantity,
}
_METHODS: Mapping[str, Callable[..., Any]] = {
    "size": len,
    "contains": lambda text, part: part in text,
    "startsWith": lambda text, part: text.startswith(part),
    "endsWith": lambda text, part: text.endswith(part),
    "matches": lambda text, pattern: re.search(pattern, text) is not None,
    "lowerAscii": lambda text: text.lower(),
    "upperAscii": lambda text: text.upper(),
    "trim": lambda text: text.strip(),
    "split": lambda text, separator: text.split(separator),
    "isGreaterThan": lambda a, b: a > b,
    "isLessThan": lambda a, b: a < b,
    "compareTo": lambda a, b: (a > b) - (a < b),
    "isInteger": lambda a: a.value == a.value.to_integral_value(),
}
