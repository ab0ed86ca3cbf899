"""Ready-made environments: the names that public examples use, and what each is made of here.

A recipe names versions that exist; it does not rebuild the original's images. `curated.yaml` beside this module is the list; a workspace
service adds its own to it (`environment create --registry-name azureml`).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources

import yaml

from moorage.specs.environment import SUBSTITUTE
from moorage.specs.manifest import Manifest

# The one version of a built-in recipe; references to the original's version numbers stand for it.
VERSION = "1"
_PREFIX = re.compile(r"^azureml-", re.IGNORECASE)
_SHOWN = 12


@dataclass(frozen=True, slots=True)
class Recipe:
    """A ready-made environment.

    Attributes:
        names: the first is its own, the others stand for it too.
        python: version that it is made with where the cluster has it.
        image: base image on clusters that pull images.
        packages: requirement lines, each with a version.
    """

    names: tuple[str, ...]
    description: str
    python: str
    image: str
    packages: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.names[0]

    def properties(self) -> Manifest:
        """As the `properties` of an environment version."""
        conda = {
            "name": self.name,
            "dependencies": [f"python={self.python}", "pip", {"pip": list(self.packages)}],
            SUBSTITUTE: True,
        }
        return {
            "image": self.image,
            "condaFile": yaml.safe_dump(conda, sort_keys=False),
            "osType": "Linux",
            "environmentType": "Curated",
            "description": self.description,
            "isArchived": False,
            "isAnonymous": False,
            "tags": {},
            "properties": {},
        }


@cache
def recipes() -> tuple[Recipe, ...]:
    """The built-in list."""
    listed = yaml.safe_load((resources.files("moorage.wire") / "curated.yaml").read_text(encoding="utf-8"))
    return tuple(
        Recipe(tuple(each["names"]), each["description"], each["python"], each["image"], tuple(each["packages"])) for each in listed
    )


def plain(name: str) -> str:
    """A name as it is compared: without `AzureML-`, in lower case."""
    return _PREFIX.sub("", name).lower()


def find(name: str) -> Recipe | None:
    """The recipe of that name, in any of its spellings."""
    wanted = plain(name)
    return next((each for each in recipes() if wanted in map(str.lower, each.names)), None)


def nearest(name: str, further: Iterable[str] = ()) -> Sequence[str]:
    """Known names, the most similar ones first; at most a dozen.

    Args:
        name: what was asked for.
        further: names that the workspace service itself has.
    """
    known = [*further, *(each for recipe in recipes() for each in recipe.names)]
    wanted = plain(name)
    family = re.split(r"[-_.]", wanted)[0]

    def distance(each: str) -> tuple[bool, float]:
        return family not in plain(each), -difflib.SequenceMatcher(None, wanted, plain(each)).ratio()

    return sorted(known, key=distance)[:_SHOWN]
