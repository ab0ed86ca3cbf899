"""Which web addresses stand for files of this machine: prefixes of addresses to folders or files. Only the operator writes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath, PurePosixPath
from urllib.parse import unquote, urlsplit

from moorage.errors import Invalid

SCHEMES = ("http", "https", "wasb", "wasbs", "abfs", "abfss")


@dataclass(frozen=True, slots=True)
class Mapped:
    """Where an address lies: below `root`, which is all that the map's entry allows; `below` is empty for the root itself."""

    root: PurePath
    below: PurePosixPath


@dataclass(frozen=True, slots=True)
class UrlMap:
    """Address prefixes, in their plain form, to paths; the longest that fits wins."""

    entries: tuple[tuple[str, PurePath], ...] = ()

    def find(self, url: str) -> Mapped | None:
        """Where an address lies; None when no prefix fits.

        Raises:
            Invalid: its path leaves the folder that it is mapped to.
        """
        wanted = plain(url)
        for prefix, root in sorted(self.entries, key=lambda entry: -len(entry[0])):
            if wanted == prefix or wanted.startswith(prefix.rstrip("/") + "/"):
                parts = [part for part in wanted[len(prefix) :].split("/") if part not in ("", ".")]
                if any(part == ".." or "\0" in part or "\\" in part for part in parts):
                    raise Invalid(f"'{url}' leaves the folder that its prefix is mapped to. Write it without '..'.", code="UrlNotMapped")
                return Mapped(root, PurePosixPath(*parts))
        return None


def plain(url: str) -> str:
    """An address as it is compared: scheme and host in lower case, percent-decoded, without query, fragment and slash at the end."""
    parts = urlsplit(url.strip())
    return f"{parts.scheme.lower()}://{parts.netloc.lower()}{unquote(parts.path)}".rstrip("/")


def _is_address(text: str) -> bool:
    try:
        parts = urlsplit(text)
    except ValueError:  # brackets in the host that hold no address
        return False
    return parts.scheme.lower() in SCHEMES and bool(parts.netloc)


def parse(document: object, folder: PurePath, *, name: str) -> UrlMap:
    """Read a map's document.

    Args:
        document: a mapping of address prefixes to paths, as YAML or JSON gives it.
        folder: what relative paths start from.
        name: how messages call it.

    Raises:
        Invalid: it is no such mapping; the message names the entry.
    """
    if not isinstance(document, Mapping):
        raise Invalid(
            f"{name}: a URL map is a mapping of address prefixes to local paths (`https://host/data/: ./data`).", target="--url-map"
        )
    entries: dict[str, PurePath] = {}
    for prefix, path in document.items():
        if not isinstance(prefix, str) or not _is_address(prefix):
            raise Invalid(
                f"{name}: '{prefix}' is no address; it begins with {'://, '.join(SCHEMES)}:// and names a host.", target="--url-map"
            )
        if not isinstance(path, str) or not path:
            raise Invalid(f"{name}: '{prefix}' must be mapped to the path of a file or a folder.", target="--url-map")
        if plain(prefix) in entries:
            raise Invalid(f"{name}: '{prefix}' is mapped twice.", target="--url-map")
        entries[plain(prefix)] = folder / path
    return UrlMap(tuple(entries.items()))
