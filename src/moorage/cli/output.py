"""Results as JSON, YAML, tables or tab-separated values; nothing else may be printed to stdout."""

from __future__ import annotations

import json
from typing import Any

from moorage.errors import Invalid, MoorageError


def render(result: Any, chosen: str, *, table: str = "", query: str | None = None, width: int | None = None) -> str:
    """The text of a result.

    Args:
        result: an entity, a list of them, or plain text.
        chosen: `json`, `jsonc`, `yaml`, `table`, `tsv`, `none`.
        table: the table it is shown as; with a query, or without one of its own, columns are what the result has.
        query: JMESPath over the result.
        width: cells that a line of the terminal has, for tables; None where it is no terminal.

    Raises:
        Invalid: the query does not parse, or fails on this result.
    """
    if query is not None:
        result, table = select(result, query), ""
    match chosen:
        case "none":
            return ""
        case "yaml":
            import yaml

            return (
                yaml.safe_dump(result, sort_keys=False, allow_unicode=True, default_flow_style=False).removesuffix("\n...\n").rstrip("\n")
            )
        case "tsv":
            return tsv(result)
        case "table":
            from moorage.cli.tables import as_table

            return as_table(result, table, width)
        case _:
            return json.dumps(result, indent=2, ensure_ascii=False, sort_keys=True)


def select(result: Any, query: str) -> Any:
    """What a JMESPath expression finds."""
    import jmespath

    try:
        return jmespath.search(query, result)
    except jmespath.exceptions.JMESPathError as error:
        first = str(error).strip().splitlines()[0].rstrip(":.")
        raise Invalid(f"--query '{query}': {first}. JMESPath is described at jmespath.org.", code="BadQuery", target="--query") from error


def tsv(result: Any) -> str:
    """Tab-separated values: a line for each item, a field for each value, no headings; nested values as JSON."""
    rows = result if isinstance(result, list) else [result]
    return "\n".join(_row(row) for row in rows)


def _row(row: Any) -> str:
    if isinstance(row, dict):
        return "\t".join(_cell(row[key]) for key in sorted(row))
    if isinstance(row, list):
        return "\t".join(_cell(value) for value in row)
    return _cell(row)


def _cell(value: Any) -> str:
    match value:
        case None:
            return ""
        case bool():
            return "true" if value else "false"
        case str():
            return value.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r")
        case dict() | list():
            return json.dumps(value, ensure_ascii=False)
        case _:
            return str(value)


def error_document(error: MoorageError) -> dict[str, Any]:
    """An error as ARM's envelope has it, for `-o json`."""
    found: dict[str, Any] = {"code": error.code, "message": error.message}
    if error.target:
        found["target"] = error.target
    if error.details:
        found["details"] = [error_document(detail)["error"] for detail in error.details]
    return {"error": found}
