"""What code runs in: the key of a prepared environment, shared by the workspace, the operators and the preparing container."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

# Raised when a prepared environment of the same specs would come out different, so that cached ones are not taken for it.
_RECIPE = "1"
# A field of ours in a conda specification: where the cluster lacks its Python, another may be taken, with the packages' nearest versions.
SUBSTITUTE = "x-moorage-substitute"


def environment_hash(conda: str | None, pip: Sequence[str] | None) -> str:
    """The key of the environment that conda and pip specs prepare; empty when there is nothing to prepare.

    Blank lines and spaces at line ends do not matter; the order of requirements does, as it does to the installer.

    Args:
        conda: a conda file's text.
        pip: requirement lines.
    """
    lines = [line.rstrip() for line in (conda or "").splitlines() if line.strip()]
    requirements = [line.strip() for line in pip or () if line.strip()]
    if not lines and not requirements:
        return ""
    return hashlib.sha256(json.dumps([_RECIPE, lines, requirements]).encode()).hexdigest()[:16]
