"""A resource as it is, read as a document with `--set` applied: what an update without a file begins with."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from moorage.specs.manifest import Manifest
from moorage.wire.documents.document import Document, Kind, known, load
from moorage.wire.documents.edits import Change


def amended(kind: Kind, entity: Manifest, changes: Sequence[Change]) -> Document:
    """The document that describes `entity` with `changes`.

    Args:
        kind: what it is.
        entity: as `show` prints it (`moorage.cli.entities`).
        changes: `--set`, `--add` and `--remove`, as given.
    """
    # What only the service sets is shown as well, and is no part of a document.
    shown = {name: value for name, value in entity.items() if name in known(kind)}
    return load(kind, json.dumps(shown), name=f"the {kind.value} as it is", folder=Path.cwd(), changes=changes)
