"""Changes to a document from the command line: `--set`, and for updates `--add` and `--remove`, in the order in which they are given."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Verb(StrEnum):
    """What a change does; the value is its option."""

    SET = "--set"
    ADD = "--add"
    REMOVE = "--remove"


@dataclass(frozen=True, slots=True)
class Edit:
    """One change.

    Attributes:
        verb: what it does.
        words: for `--set` one `path=value`; for `--add` a path and what is added to the list there; for `--remove` a path, and an index of the list there.
        as_text: take values as they are written, never as JSON or YAML.
    """

    verb: Verb
    words: tuple[str, ...]
    as_text: bool = False

    @property
    def path(self) -> str:
        """The path of the field, as it was written."""
        return (self.words[0].partition("=")[0] if self.verb is Verb.SET else self.words[0]).strip()

    @property
    def where(self) -> str:
        return f"{self.verb} {self.path}"


# A text is what follows `--set`.
Change = str | Edit
Changes = tuple[Change, ...]


def edit(change: Change) -> Edit:
    """A change in its long form."""
    return Edit(Verb.SET, (change,)) if isinstance(change, str) else change
