"""Where a volume's path really is. On a node that cannot give a container a root of its own (a kernel without user namespaces, macOS), paths in
command, args and environment are rewritten; those that stand in our code or in a plan are looked up here, in what the node says in an environment
variable."""

from __future__ import annotations

import json
from collections.abc import Mapping

VARIABLE = "MOORAGE_MOUNTS"


def mounted(path: str, environment: Mapping[str, str]) -> str:
    """The path under which this process finds what is mounted at `path`: itself, unless the node says otherwise."""
    places: Mapping[str, str] = json.loads(environment.get(VARIABLE) or "{}")
    for folder in sorted(places, key=len, reverse=True):
        if path == folder or path.startswith(folder.rstrip("/") + "/"):
            return places[folder] + path[len(folder) :]
    return path
