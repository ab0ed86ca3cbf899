"""Volcano's scheduler and controllers on the test control plane, from a folder that somebody gives: vc-scheduler, vc-controller-manager, crd/*.yaml.

They are not built here: its modules are not on every Go module proxy. Each has a user of its own and no more rights than it was seen to use.
"""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import yaml

from moorage.specs.manifest import Manifest
from tests.real.control_plane.binaries import NoBinaries
from tests.real.control_plane.components import HOST, Layout

GIVEN = "MOORAGE_VOLCANO"
COMPONENTS = ("vc-controller-manager", "vc-scheduler")
USERS = {"vc-controller-manager": "volcano-controllers", "vc-scheduler": "volcano-scheduler"}
CONFIGURATION = """\
actions: "enqueue, allocate, backfill"
tiers:
- plugins:
  - name: priority
  - name: gang
  - name: conformance
- plugins:
  - name: overcommit
  - name: drf
  - name: predicates
  - name: proportion
  - name: nodeorder
"""
_READ = ("get", "list", "watch")
_EVENTS = {"apiGroups": ["", "events.k8s.io"], "resources": ["events"], "verbs": ["create", "patch", "update"]}
_RULES: dict[str, list[Manifest]] = {
    "vc-scheduler": [
        {"apiGroups": ["*"], "resources": ["*"], "verbs": list(_READ)},
        _EVENTS,
        {"apiGroups": [""], "resources": ["pods/binding"], "verbs": ["create"]},
        {"apiGroups": [""], "resources": ["pods/status"], "verbs": ["patch", "update"]},
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["patch"]},
        {"apiGroups": ["scheduling.volcano.sh"], "resources": ["queues"], "verbs": ["create"]},
        {
            "apiGroups": ["scheduling.volcano.sh"],
            "resources": ["queues/status", "podgroups", "podgroups/status"],
            "verbs": ["patch", "update"],
        },
    ],
    "vc-controller-manager": [
        {"apiGroups": ["*"], "resources": ["*"], "verbs": list(_READ)},
        _EVENTS,
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["patch"]},
        # The PodGroup that it makes for a pod without one is owned by the pod, which our API server wants to see granted.
        {"apiGroups": ["", "apps"], "resources": ["pods/finalizers", "replicasets/finalizers"], "verbs": ["update"]},
        {"apiGroups": ["scheduling.volcano.sh"], "resources": ["podgroups"], "verbs": ["create"]},
        {"apiGroups": ["scheduling.volcano.sh"], "resources": ["queues", "queues/status"], "verbs": ["patch"]},
    ],
}


@dataclass(frozen=True, slots=True)
class Volcano:
    """Where its parts lie."""

    folder: Path
    version: str


def given() -> Path | None:
    """The folder that the environment names."""
    named = os.environ.get(GIVEN)
    return Path(named).absolute() if named else None


def find(folder: Path) -> Volcano:
    """What the folder holds.

    Raises NoBinaries when a part is missing.
    """
    missing = [name for name in COMPONENTS if not os.access(folder / name, os.X_OK)]
    if not any((folder / "crd").glob("*.yaml")):
        missing.append("crd/*.yaml")
    if missing:
        raise NoBinaries(
            f"{folder} has no {', '.join(missing)}. It needs Volcano's programs under the names of its own Makefile, and below crd/ the files of "
            "config/crd/volcano/bases of the same version."
        )
    told = subprocess.run([folder / "vc-scheduler", "--version"], capture_output=True, text=True, timeout=30, check=False).stdout
    found = re.search(r"^Version: (\S+)$", told, re.MULTILINE)
    return Volcano(folder, found[1] if found else "of unknown version")


def flags(layout: Layout) -> dict[str, list[str]]:
    """Each component's arguments, in the order to start."""
    common = ["--leader-elect=false", f"--listen-address={HOST}:0", "--v=2"]
    return {
        "vc-controller-manager": [
            f"--kubeconfig={layout.folder / 'vc-controller-manager.kubeconfig'}",
            # What gangs need; the others bring kinds of Volcano's own, which nothing here uses.
            "--controllers=pg-controller,queue-controller",
            *common,
        ],
        "vc-scheduler": [
            f"--kubeconfig={layout.folder / 'vc-scheduler.kubeconfig'}",
            f"--scheduler-conf={layout.folder / 'volcano-scheduler.yaml'}",
            "--cache-dumper=false",
            *common,
        ],
    }


def manifests(volcano: Volcano) -> list[tuple[str, Manifest]]:
    """Definitions and rights, each with the path of its collection in the API."""
    found = [("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", one) for one in _definitions(volcano.folder / "crd")]
    for name in COMPONENTS:
        role = f"moorage-test-{USERS[name]}"
        base = {"apiVersion": "rbac.authorization.k8s.io/v1", "metadata": {"name": role}}
        subject = {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": USERS[name]}
        reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role}
        found.append(("/apis/rbac.authorization.k8s.io/v1/clusterroles", {**base, "kind": "ClusterRole", "rules": _RULES[name]}))
        bound = {**base, "kind": "ClusterRoleBinding", "roleRef": reference, "subjects": [subject]}
        found.append(("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", bound))
    return found


def _definitions(folder: Path) -> list[Manifest]:
    documents = [document for path in sorted(folder.glob("*.yaml")) for document in yaml.safe_load_all(path.read_text())]
    return [document for document in documents if document and document.get("kind") == "CustomResourceDefinition"]
