"""Volcano's scheduler and controllers on the test control plane: built once from pinned Go modules, or of a folder that somebody gives.

Each has a user of its own and no more rights than it was seen to use. The version stands in `tests/real/binaries/volcano/go.mod` and nowhere else.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from moorage.specs.manifest import Manifest
from tests.real.control_plane import binaries
from tests.real.control_plane.binaries import LINKED, NoBinaries, compile_program, go_version, list_modules
from tests.real.control_plane.components import HOST, Layout
from tests.real.control_plane.toolchain import NoGo, go

GIVEN = "MOORAGE_VOLCANO"
MODULE = binaries.MODULE / "volcano"
COMPONENTS = ("vc-controller-manager", "vc-scheduler")
USERS = {"vc-controller-manager": "volcano-controllers", "vc-scheduler": "volcano-scheduler"}
_COMBINED = "volcano"
_PINS = MODULE / "go.mod"
_UPSTREAM = "volcano.sh/volcano"
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
        {"apiGroups": ["scheduling.volcano.sh"], "resources": ["queues"], "verbs": ["create", "update"]},
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
        {"apiGroups": ["scheduling.volcano.sh"], "resources": ["podgroups"], "verbs": ["create", "delete"]},
        {"apiGroups": ["scheduling.volcano.sh"], "resources": ["queues", "queues/status"], "verbs": ["patch"]},
    ],
}


@dataclass(frozen=True, slots=True)
class Volcano:
    """How its components are started, and the folder with its definitions."""

    version: str
    commands: Mapping[str, tuple[str, ...]]
    definitions: Path


def pinned() -> str:
    """The pinned version, e.g. `v1.14.1`."""
    found = re.search(rf"^require {_UPSTREAM} (v\S+)$", _PINS.read_text(), re.MULTILINE)
    assert found is not None, _PINS
    return found[1]


def given() -> Path | None:
    """The folder that the environment names."""
    named = os.environ.get(GIVEN)
    return Path(named).absolute() if named else None


def find(folder: Path | None = None) -> Volcano:
    """Volcano of that folder, else of the one that the environment names, else as pinned, built once.

    Raises NoBinaries when a part is missing, or it can neither be found nor built here; Broken when a build fails.
    """
    if folder := folder or given():
        return _of(folder)
    version = pinned()
    made = binaries.cache() / f"volcano-{version}-{_digest()}"
    if not made.exists():
        _build(version, made)
    commands = {name: (str(made / _COMBINED), name.removeprefix("vc-")) for name in COMPONENTS}
    return Volcano(version, commands, made / "crd")


def _of(folder: Path) -> Volcano:
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
    commands = {name: (str(folder / name),) for name in COMPONENTS}
    return Volcano(found[1] if found else "of unknown version", commands, folder / "crd")


def _digest() -> str:
    """Of everything that goes into the build."""
    digest = hashlib.sha256(LINKED.encode())
    for name in ("main.go", "go.mod", "go.sum"):
        digest.update((MODULE / name).read_bytes())
    return digest.hexdigest()[:12]


def _build(version: str, target: Path) -> None:
    """The program and the definitions of the same version, both in one step there or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        tools = go(go_version(_PINS), target.parent)
    except NoGo as error:
        raise NoBinaries(f"No Volcano: {error}; or name a folder with its programs in {GIVEN}.") from error
    with (target.parent / "lock").open("w") as lock, tempfile.TemporaryDirectory(dir=target.parent) as name:
        # Two builds at once would take twice as long each; the second finds what the first made.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if target.exists():
            return
        made = Path(name) / "made"
        made.mkdir()
        print(f"Building Volcano {version} from its Go modules, once; 5 to 10 minutes on two cores ...", file=sys.stderr, flush=True)
        compile_program(tools, _PINS, f"{LINKED} -X {_UPSTREAM}/pkg/version.Version={version}", made / _COMBINED)
        (source,) = list_modules(tools, _PINS, "-m", "-f", "{{.Dir}}", _UPSTREAM)
        # File by file: the module cache is read-only, and its modes would come along.
        (made / "crd").mkdir()
        for path in (Path(source) / "config" / "crd" / "volcano" / "bases").glob("*.yaml"):
            shutil.copyfile(path, made / "crd" / path.name)
        made.rename(target)


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
    found = [("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", one) for one in _definitions(volcano.definitions)]
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
