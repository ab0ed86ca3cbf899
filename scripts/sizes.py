"""Fails when a module passes 600 lines or functions grow past the house's limits (house-style.md, "Prose, typing, size")."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

MODULE_LIMIT = 600
FUNCTION_P90 = 35
PARAMETER_LIMIT = 6


def parameters(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Positional parameters but `self`/`cls`; keyword-only ones name themselves at the call."""
    names = [argument.arg for argument in (*node.args.posonlyargs, *node.args.args)]
    return len([name for name in names if name not in ("self", "cls")])


def main() -> int:
    root = Path(__file__).parent.parent / "src"
    findings: list[str] = []
    lengths: list[int] = []
    modules = 0
    for path in sorted(root.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        modules += 1
        name = path.relative_to(root.parent)
        if (lines := text.count("\n")) > MODULE_LIMIT:
            findings.append(f"{name}: {lines} lines, the limit is {MODULE_LIMIT}")
        tree = ast.parse(text)
        if text.strip() and not ast.get_docstring(tree):
            findings.append(f"{name}: no opening docstring")
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lengths.append((node.end_lineno or node.lineno) - node.lineno + 1)
                if (count := parameters(node)) > PARAMETER_LIMIT:
                    findings.append(f"{name}:{node.lineno} {node.name}: {count} parameters, the limit is {PARAMETER_LIMIT}")
    lengths.sort()
    p90 = lengths[int(len(lengths) * 0.9)] if lengths else 0
    if p90 > FUNCTION_P90:
        findings.append(f"the 90th percentile of function lengths is {p90} lines, the limit is {FUNCTION_P90}")
    print("\n".join(findings) if findings else f"{modules} modules, {len(lengths)} functions, p90 {p90} lines")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
