"""Files that are replaced in one step: whoever reads sees the old or the new content and never half of it, whatever dies in between."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def write_private(path: Path, content: str | bytes) -> None:
    """Replace a file that only its owner reads."""
    _replace(path, content, 0o600)


def write_public(path: Path, content: str | bytes) -> None:
    """Replace a file that everybody may read."""
    _replace(path, content, 0o644)


def _replace(path: Path, content: str | bytes, mode: int) -> None:
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            os.fchmod(file.fileno(), mode)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        # Nothing is left of it once it has taken its place.
        temporary.unlink(missing_ok=True)
