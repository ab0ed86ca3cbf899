"""Where a container's volumes appear: the plan of its private root, or, where there can be none, its paths rewritten to host folders. Pure.

The private root is a tmpfs on which the host's top-level entries are bound; a host directory on the way to a mount path that the host does not
have is rebuilt entry by entry, so that nothing is ever created on the host.
"""

from __future__ import annotations

import os.path
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from moorage.specs.manifest import Manifest

# Terminals and block devices of the host that no container has a use for; binding each would double the time a root takes.
_LEFT_OUT = re.compile(r"^/dev/(tty\w+|vcs\w*|loop.*|ram\d+|dm-.*|disk|block)$")
_MOST_LINKS = 40


@dataclass(frozen=True, slots=True)
class Mount:
    """A host path at a path of the container; `source` None is a fresh tmpfs. `exact`: the source must exist at start."""

    path: str
    source: str | None
    readonly: bool = False
    file: bool = False
    exact: bool = True


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry of a host directory: `dir`, `file` (anything bindable that is no directory) or `link` with its target."""

    kind: str
    target: str = ""


class Host(Protocol):
    """What the plan asks of the host's file system."""

    def entry(self, path: str) -> Entry | None: ...

    def children(self, path: str) -> Mapping[str, Entry]: ...


@dataclass(slots=True)
class _Tree:
    """Host directories to rebuild, and what is added to them."""

    rebuilt: set[str] = field(default_factory=lambda: {"/"})
    added: dict[str, str] = field(default_factory=dict)


def plan(mounts: Iterable[Mount], host: Host) -> list[list[Any]]:
    """The steps that `shim.build_root` carries out, in order."""
    ordered = sorted(({m.path: m for m in mounts}).values(), key=lambda m: (m.path.count("/"), m.path))
    tree = _Tree()
    placed: list[tuple[Mount, str]] = []
    for mount in ordered:
        placed.append((mount, _place(tree, mount, host, [target for _, target in placed])))
    steps: list[list[Any]] = []
    _rebuild(steps, tree, "/", host)
    for mount, target in placed:
        if any(_within(target, other) for _, other in placed if other != target):
            # Inside another mount: the place is made there, as the container runtimes do.
            steps += [["dir", os.path.dirname(target)], ["file", target]] if mount.file else [["dir", target]]
        if mount.source is None:
            steps.append(["tmpfs", target, "mode=1777"])
        else:
            steps.append(["bind", target, mount.source, mount.readonly, not mount.exact])
    return steps


def _place(tree: _Tree, mount: Mount, host: Host, earlier: Sequence[str]) -> str:
    """The mount's path with the host's links resolved; notes what has to be rebuilt for it to exist."""
    here, ahead, links = "/", [part for part in mount.path.split("/") if part not in ("", ".")], 0
    while ahead:
        part = ahead.pop(0)
        if part == "..":
            here = os.path.dirname(here)
            continue
        path = os.path.join(here, part)
        if any(path == other or _within(path, other) for other in earlier):
            return os.path.join(path, *ahead)
        entry = tree.added.get(path) or host.entry(path)
        if isinstance(entry, Entry) and entry.kind == "link" and links < _MOST_LINKS:
            links += 1
            ahead = [piece for piece in entry.target.split("/") if piece not in ("", ".")] + ahead
            here = "/" if entry.target.startswith("/") else here
            continue
        wanted = "file" if mount.file and not ahead else "dir"
        if entry is None or (isinstance(entry, Entry) and entry.kind != wanted):
            _add(tree, here, path, ahead, file=mount.file)
            return os.path.join(path, *ahead)
        here = path
    return here


def _add(tree: _Tree, existing: str, first: str, rest: Sequence[str], *, file: bool) -> None:
    parts = [first]
    for part in rest:
        parts.append(os.path.join(parts[-1], part))
    tree.added.update(dict.fromkeys(parts, "dir"))
    if file:
        tree.added[parts[-1]] = "file"
    while existing not in tree.rebuilt and existing not in tree.added:
        tree.rebuilt.add(existing)
        existing = os.path.dirname(existing)


def _rebuild(steps: list[list[Any]], tree: _Tree, folder: str, host: Host) -> None:
    for name, entry in sorted(host.children(folder).items()):
        path = os.path.join(folder, name)
        if path in tree.added or _LEFT_OUT.match(path):
            continue
        if entry.kind == "link":
            steps.append(["link", path, entry.target])
        elif path in tree.rebuilt:
            steps.append(["dir", path])
            _rebuild(steps, tree, path, host)
        else:
            steps += [[entry.kind, path], ["bind", path, path, False, True]]
    steps += [[kind, path] for path, kind in sorted(tree.added.items()) if _first(tree, path) == folder]


def _first(tree: _Tree, path: str) -> str:
    """The existing directory below which an added path hangs."""
    while path in tree.added:
        path = os.path.dirname(path)
    return path


def _within(path: str, folder: str) -> bool:
    return path != folder and (folder == "/" or path.startswith(folder + "/"))


@dataclass(frozen=True, slots=True)
class Rewriting:
    """Mount paths to host folders, for a container without a root of its own: in command, args, environment and workingDir."""

    folders: Mapping[str, str]

    def text(self, text: str) -> str:
        """Every mount path in the text as its host folder, where it stands as a whole path (`/data/x`, not `/database`)."""
        if not self.folders:
            return text
        longest_first = sorted(self.folders, key=len, reverse=True)
        pattern = r"(?<![\w./~-])(" + "|".join(re.escape(path) for path in longest_first) + r")(?=$|[^\w.-])"
        return re.sub(pattern, lambda found: self.folders[found[1]], text)

    def launch(self, launch: Manifest) -> Manifest:
        """A launch document with every place rewritten."""
        return {
            **launch,
            "argv": [self.text(part) for part in launch["argv"]],
            "env": {name: value if name == "PATH" else self.text(value) for name, value in launch["env"].items()},
            "cwd": self.text(launch["cwd"]),
        }


def rewriting(mounts: Iterable[Mount]) -> Rewriting:
    """Rewrite every mounted path but those that lie where they are mounted."""
    return Rewriting({m.path: m.source for m in mounts if m.source is not None and m.source != m.path})
