"""`environment`: prepare a Python environment from conda and pip specs, once per cluster and spec, with uv.

It is built beside its place and renamed into it, under a lock, so that what exists is whole. Nothing is removed automatically: an environment
that no pod has asked for in a long time shows in the age of its `.moorage-ready`, and IT operations may delete its folder.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import zipfile
from pathlib import Path
from time import monotonic

from moorage.errors import MoorageError
from moorage.podside import overlay
from moorage.podside.installer import Uv, explained
from moorage.podside.locks import held
from moorage.podside.requirements import Requirements, loosened, read
from moorage.specs.manifest import Manifest

READY = ".moorage-ready"


def prepare(plan: Manifest, root: Path) -> str:
    """Make `root`/HASH the environment of the plan; returns at once when it is, waits when another pod is at it.

    Returns:
        What its user must know about it: another Python than was asked for, other versions. Empty when it is just that.

    Raises:
        Invalid: the specs ask for what cannot be had; the message names it.
        MoorageError: the volume is full, the package index cannot be reached.
    """
    wanted = plan.get("environment")
    if not wanted:
        return ""
    key = str(wanted["hash"])
    target = root / key
    if _ready(target):
        print(f"Environment {key} is there already", flush=True)
        return _notice(target)
    requirements = read(wanted.get("conda") or "", wanted.get("pip") or ())
    root.mkdir(parents=True, exist_ok=True)
    if not os.access(root, os.W_OK):
        # Drivers that ignore fsGroup (NFS) leave it to whoever made the volume.
        raise MoorageError(
            f"User {os.getuid()} cannot write to the volume of the claim 'moorage-environments'. "
            "Let user or group 1000 write to its root folder (chgrp 1000, chmod 2775), or use a storage class whose driver honours fsGroup.",
            code="VolumeNotWritable",
        )
    with held(root / ".locks" / key, f"environment {wanted.get('name') or key}"):
        if _ready(target):
            print(f"Environment {key} has been prepared by another pod", flush=True)
            return _notice(target)
        _build(root, target, wanted.get("name") or key, requirements)
    return _notice(target)


def _let_jobs_install(environment: Path) -> None:
    """What a job needs to install more for itself (`overlay.py`): pip, from the wheel that Python carries, unless the environment has its own."""
    shutil.copy(Path(overlay.__file__), environment / "overlay.py")
    (packages,) = (environment / "lib").glob("python*/site-packages")
    found = importlib.util.find_spec("ensurepip")
    bundled = sorted((Path(found.origin).parent / "_bundled").glob("pip-*.whl")) if found and found.origin else []
    # Distributions that take ensurepip apart have no wheel there; pip is then what the user's image has.
    if bundled and not any(packages.glob("pip-*.dist-info")):
        with zipfile.ZipFile(bundled[-1]) as wheel:
            wheel.extractall(packages)


def _notice(target: Path) -> str:
    text = (target / READY).read_text(encoding="utf-8")
    return str(json.loads(text).get("notice") or "") if text else ""


def _ready(target: Path) -> bool:
    marker = target / READY
    if not marker.exists():
        return False
    try:
        marker.touch()
    except OSError:
        pass  # a read-only volume; its age is then that of the environment
    return True


def _build(root: Path, target: Path, name: str, requirements: Requirements) -> None:
    started = monotonic()
    building = root / ".building" / target.name
    # The lock is ours: whatever lies there was left by a pod that died.
    shutil.rmtree(building, ignore_errors=True)
    shutil.rmtree(target, ignore_errors=True)
    building.parent.mkdir(parents=True, exist_ok=True)
    for note in requirements.notes:
        print(note, flush=True)
    uv = Uv(root)
    try:
        substituted = requirements.substitute and not uv.has(requirements.python)
        version = uv.make(building, "" if substituted else requirements.python)
        print(f"Preparing environment {name}: Python {version}, {len(requirements.lines)} requirements", flush=True)
        notice = ""
        if substituted:
            notice = (
                f"Environment {name} is made for Python {requirements.python}, which this cluster does not have; it runs on Python {version} "
                "with the nearest versions of its packages that exist for it."
            )
            print(f"Warning: {notice}", flush=True)
        if requirements.lines and substituted:
            uv.install_nearest(building, loosened(requirements.lines))
        elif requirements.lines:
            uv.install(building, requirements.lines)
        _let_jobs_install(building)
        record = {"name": name, "python": version, "requirements": list(requirements.lines), "notice": notice}
        (building / READY).write_text(json.dumps(record, indent=1), encoding="utf-8")
        building.rename(target)
    except OSError as error:
        raise explained(str(error.strerror), root) from error
    finally:
        shutil.rmtree(building, ignore_errors=True)
    print(f"Prepared environment {name} in {monotonic() - started:.1f} s", flush=True)
