"""Our custom resource definitions, as the YAML files beside this module."""

from __future__ import annotations

from importlib import resources

import yaml

from moorage.specs.manifest import Manifest

FILES = ("instancetypes.yaml", "trainingjobs.yaml", "onlineendpoints.yaml", "onlinedeployments.yaml")


def definitions() -> list[Manifest]:
    """Every CustomResourceDefinition of ours, parsed anew at each call, so that the caller may change it."""
    here = resources.files(__name__)
    return [yaml.safe_load((here / name).read_text(encoding="utf-8")) for name in FILES]
