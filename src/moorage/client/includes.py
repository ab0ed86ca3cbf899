"""Code with `additional_includes`: files and folders from elsewhere, put beside the code under their own names, as the original's SDK does.

What is left out is decided where a file came from and where it ends up: by the ignore file of the code for everything, by the ignore files of included
folders for what they hold, and by the one at the top of the whole. `NAME.zip`, when there is no such file and a folder NAME, is that folder compressed.
"""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from moorage.client import ignore
from moorage.client.snapshot import UNLIMITED, File, Limits, Snapshot, in_order, rules, within
from moorage.errors import Invalid

# The original's name of the whole; it stands in the address of the files.
FOLDER = "code_with_additional_includes"
# Rules, and the path that they are asked about.
Level = tuple[Sequence[ignore.Rule], str]
# The earliest that a zip can say: the same files make the same archive.
_EPOCH = (1980, 1, 1, 0, 0, 0)


def merged(
    code: Path | None, includes: Sequence[str], base: Path, scratch: Path, *, limits: Limits = UNLIMITED, what: str = "code"
) -> Snapshot:
    """The files of code and of what is included.

    Args:
        code: a folder or file; None for includes alone.
        includes: paths as the document names them.
        base: the document's folder, which relative ones start from.
        scratch: an empty folder for archives, which must outlive the snapshot.
        limits: raise when there is more.
        what: how messages call it.

    Raises:
        Invalid: an include that does not exist or whose name the code has already, a link out of a folder, or over a limit.
    """
    found: dict[str, File] = {}
    top = _code_rules(code, base)
    sources = {include: (base / Path(include).expanduser()).resolve() for include in includes}
    for include, source in sources.items():
        _check(include, source, code)
    if code is not None:
        for file in _walk(code, "" if code.is_dir() else code.name, (), (code.resolve(), *sources.values())):
            found[file.name] = file
    for source in sources.values():
        if _compressed(source):
            found[source.name] = _archive(source.with_suffix(""), scratch / source.name, top)
            continue
        for file in _walk(source, source.name, ((top, source.name),), (source,)):
            found[file.name] = file
    kept = _left_at_the_top(found)
    if not kept:
        raise Invalid(f"{what} holds no files to send (after .amlignore or .gitignore).", code="PathEmpty")
    return within(Snapshot(code or base, in_order(kept), FOLDER), limits, what)


def _code_rules(code: Path | None, base: Path) -> list[ignore.Rule]:
    if code is not None and not code.is_dir():
        return ignore.parse("\n".join(ignore.ALWAYS))
    return rules(code or base)


def _check(include: str, source: Path, code: Path | None) -> None:
    if not source.exists() and not _compressed(source):
        raise Invalid(f"'{include}' does not exist: {source}.", code="PathNotFound")
    if not source.name:
        raise Invalid(f"'{include}' is the root of the file system, which cannot be included.", code="PathNotFound")
    taken = code / source.name if code is not None else None
    if taken is not None and (taken.exists() or taken.is_symlink()) and not (taken.is_symlink() and taken.resolve() == source):
        raise Invalid(f"'{include}': the code has a '{source.name}' already; rename one of them.", code="IncludeExists")


def _compressed(source: Path) -> bool:
    return source.suffix == ".zip" and not source.exists() and source.with_suffix("").is_dir()


def _walk(
    path: Path, name: str, levels: tuple[Level, ...], tops: Sequence[Path], *, nested: bool = True, above: frozenset[Path] = frozenset()
) -> Iterator[File]:
    """The files at and below a path that no level leaves out; each folder's own ignore file, or the first's alone, is one more for what it holds.

    Links may lead to what lies in one of `tops`: a link in the code to what is included makes the same code run on the user's machine.
    """
    if any(ignore.left_out(level, relative, folder=path.is_dir()) for level, relative in levels):
        return
    target = path.resolve()
    if path.is_symlink() and not target.exists():
        raise Invalid(f"{path} is a link that leads nowhere; remove it or leave it out in .amlignore.", code="BadLink")
    if not any(target.is_relative_to(top) for top in tops):
        raise Invalid(f"{path} is a link out of the folder (to {target}); include what it names by itself.", code="BadLink")
    if path.is_file():
        yield File(name, path, path.stat().st_size)
    elif path.is_dir():
        # A link to a folder above would never end.
        entries = sorted(path.iterdir()) if target not in above else []
        own = [rules(path)] if nested or not above else []
        for entry in entries:
            below = (*((level, f"{relative}/{entry.name}") for level, relative in levels), *((level, entry.name) for level in own))
            inner = f"{name}/{entry.name}" if name else entry.name
            yield from _walk(entry, inner, below, tops, nested=nested, above=above | {target})
    else:
        raise Invalid(f"{path} is neither a file nor a folder; leave it out in .amlignore.", code="BadFileName")


def _archive(folder: Path, archive: Path, top: Sequence[ignore.Rule]) -> File:
    """A folder compressed into one file, the folder itself at its top; its parts' own ignore files are not asked, as in the original."""
    found = _walk(folder, folder.name, ((top, folder.name),), (folder,), nested=False)
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr(_entry(f"{folder.name}/", folder), b"")
        for each in sorted(found, key=lambda each: each.path):
            # In pieces: a folder that is included may hold a model of many GB.
            entry = _entry(each.name, each.path)
            entry.file_size = each.size
            with each.path.open("rb") as source, file.open(entry, "w") as target:
                shutil.copyfileobj(source, target, 1 << 20)
    return File(archive.name, archive, archive.stat().st_size)


def _entry(name: str, path: Path) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, _EPOCH)
    entry.external_attr = (path.stat().st_mode & 0xFFFF) << 16
    return entry


def _left_at_the_top(found: dict[str, File]) -> list[File]:
    """What the ignore file at the top of the whole allows; that is the code's, or one that was included."""
    text = next(
        (found[name].path.read_text(encoding="utf-8", errors="surrogateescape") for name in (".amlignore", ".gitignore") if name in found),
        "",
    )
    own = ignore.parse(text)
    return [file for file in found.values() if not any(ignore.left_out(own, part, folder=part != file.name) for part in _parts(file.name))]


def _parts(name: str) -> Iterator[str]:
    """`a/b/c`: `a`, `a/b`, `a/b/c`."""
    steps = name.split("/")
    return ("/".join(steps[: count + 1]) for count in range(len(steps)))
