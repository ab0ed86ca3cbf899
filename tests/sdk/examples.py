"""Counts what a folder of documents is to Moorage and to the SDK: `scripts/examples PATH`, for the public examples or one's own projects.

Every YAML file below the folder is put to the command that its `$schema` (or its fields) names, in both, without a service: references stay as
they are written. A file that says something else than CLI v2 (a conda file, a Kubernetes object) is counted as such and put to nobody.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import yaml

from moorage.errors import Invalid
from moorage.wire.documents.document import SCHEMAS, Kind
from moorage.wire.documents.support import FIELDS, KINDS, unsupported_kind
from tests.sdk.conftest import PYTHON
from tests.sdk.yaml_compare import Reader, differences, ours, reading


class Verdict(StrEnum):
    SAME = "same"
    DIFFERENT = "different"
    ONLY_SDK = "we refuse"
    ONLY_OURS = "the SDK refuses"
    NEITHER = "both refuse"
    UNFILLED = "not complete"
    OUT_OF_SCOPE = "out of scope"


# Files that a script completes before it sends them: `<NAME>` in place of a name, fields that it gives with `--set`, inputs that it downloads.
_UNFILLED = re.compile(r"'[^']*<[^']*>[^']*' is (no|not)|' does not exist|is required, and is missing")
# What the reasons of the list of unsupported kinds and fields have in common.
_ELSEWHERE = re.compile(
    "|".join(re.escape(reason) for reason in {*KINDS.values(), *(text for each in FIELDS.values() for text in each.values())})
)


@dataclass(frozen=True, slots=True)
class Found:
    """One file: its kind (the last word of its schema), what came of it, and why."""

    path: str
    kind: str
    verdict: Verdict
    reason: str = ""


def schema_word(document: Mapping[str, Any]) -> str:
    """The last word of `$schema`, or what the fields tell; "" for a file that is no document of CLI v2."""
    named = re.search(r"(\w+)\.schema\.json$", str(document.get("$schema", "")))
    if named:
        return named[1]
    kind = str(document.get("type", "")).lower()
    if "jobs" in document:
        return "pipelineJob"
    if "trial" in document:
        return "sweepJob"
    if "command" in document:
        return "commandJob" if {"compute", "resources", "experiment_name"} & set(document) or kind == "" else "commandComponent"
    if "trigger" in document:
        return "monitorSchedule" if "create_monitor" in document else "schedule" if "create_job" in document else "importData"
    if "endpoint_name" in document:
        return "managedOnlineDeployment"
    if "image" in document and set(document) <= {"name", "version", "image", "conda_file", "description", "tags", "build"}:
        return "environment"
    return next((word for word in KINDS if unsupported_kind("", kind) == KINDS[word]), "") if kind else ""


def examine(path: Path, name: str, reader: Reader) -> Found | None:
    """One file's verdict; None for what is no document of CLI v2."""
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError):
        return None
    word = schema_word(document) if isinstance(document, dict) else ""
    if not word:
        return None
    kind = SCHEMAS.get(word)
    if kind is None:
        reason = unsupported_kind("", word)
        return Found(name, word, Verdict.OUT_OF_SCOPE, reason or "no kind of this version")
    assert isinstance(document, dict)
    # The original has one command for two kinds of deployments behind batch endpoints, and one for two kinds of schedules.
    for reason in (unsupported_kind(kind.value, str(document.get("type", ""))), _monitor(document)):
        if reason:
            return Found(name, word, Verdict.OUT_OF_SCOPE, reason)
    if word == "managedOnlineEndpoint" and "compute" not in document:
        return Found(name, word, Verdict.OUT_OF_SCOPE, "managed endpoints run in the original's own cloud; with `compute` it is read")
    # As the command does with --endpoint-name, which scripts give.
    options = {"endpoint_name": "examples"} if kind in (Kind.DEPLOYMENT, Kind.BATCH_DEPLOYMENT) and "endpoint_name" not in document else {}
    theirs = reader.ask(kind=kind.value, path=str(path), options=options)
    try:
        own = ours(kind, path, options)
    except Invalid as refusal:
        reason = _line(str(refusal).replace(str(path), ""))
        if _UNFILLED.search(reason):
            return Found(name, word, Verdict.UNFILLED, reason)
        if _ELSEWHERE.search(reason):
            return Found(name, word, Verdict.OUT_OF_SCOPE, reason)
        if "refusal" in theirs:
            return Found(name, word, Verdict.NEITHER, f"{reason} | SDK: {_line(theirs['refusal'])}")
        return Found(name, word, Verdict.ONLY_SDK, reason)
    if "refusal" in theirs:
        return Found(name, word, Verdict.ONLY_OURS, _line(theirs["refusal"]))
    found = differences(kind, theirs["body"], own)
    return Found(name, word, Verdict.DIFFERENT if found else Verdict.SAME, "; ".join(found))


def _monitor(document: Mapping[str, Any]) -> str | None:
    return KINDS["monitorSchedule"] if "create_monitor" in document else None


def _line(text: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"\x1b\[[0-9;]*m", "", text)).strip()[:600]


def examples(folder: Path, reader: Reader) -> Iterator[Found]:
    """The verdicts of all documents below a folder, by path."""
    for path in sorted(each for each in folder.rglob("*") if each.suffix in (".yml", ".yaml") and each.is_file()):
        found = examine(path, str(path.relative_to(folder)), reader)
        if found is not None:
            yield found


def table(found: list[Found]) -> str:
    """Counts by kind, in Markdown."""
    counts = Counter((each.kind, each.verdict) for each in found)
    rows = [f"| kind | documents | {' | '.join(Verdict)} |", "|---" * (2 + len(Verdict)) + "|"]
    for kind in [*sorted({each.kind for each in found}, key=str.lower), ""]:
        cells = [sum(counts[name, verdict] for name in ({kind} if kind else {each.kind for each in found})) for verdict in Verdict]
        rows.append(f"| {kind or 'all'} | {sum(cells)} | {' | '.join(str(cell or '') for cell in cells)} |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="scripts/examples", description="Compare how Moorage and azure-ai-ml read the documents of a folder."
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--json", action="store_true", help="every document with its verdict and the reason, instead of the counts")
    parser.add_argument("--list", action="store_true", help="before the counts, every document that is not read alike, with the reason")
    given = parser.parse_args()
    with reading(PYTHON) as reader:
        found = list(examples(given.folder, reader))
    if given.json:
        json.dump([asdict(each) for each in found], sys.stdout, indent=1)
        return
    for each in found if given.list else ():
        if each.verdict is not Verdict.SAME:
            print(f"{each.path} ({each.kind}): {each.verdict}: {each.reason}")
    print(table(found))


if __name__ == "__main__":
    main()

__all__ = ["Found", "Kind", "Verdict", "examine", "examples", "schema_word", "table"]
