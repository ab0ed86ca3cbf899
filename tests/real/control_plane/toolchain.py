"""A Go command new enough for the pinned modules: the machine's own, or, where that is old, one that it fetches from the module proxy as a module.

Debian 12's Go is of 1.19, which cannot change its own version (`GOTOOLCHAIN` came with 1.21), but downloads modules; the toolchain is one.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

# Where the usual archive and packages put it; a CI's PATH often lacks these.
_PLACES = ("/usr/local/go/bin", "/usr/lib/go/bin", "/opt/homebrew/bin")
_SWITCHES_ITSELF = (1, 21)
_DOWNLOAD_SECONDS = 600
REMEDY = "install Go (Debian: apt-get install golang-go; any version that knows modules will do)"


class NoGo(Exception):
    """There is none, or it got no newer one; the message says what would bring one."""


def go(wanted: str, cache: Path) -> tuple[Path, dict[str, str]]:
    """The command and what to add to its environment, for modules of Go version `wanted`, e.g. `1.26.0`.

    Raises NoGo.
    """
    found = shutil.which("go", path=os.pathsep.join((os.environ.get("PATH", os.defpath), *_PLACES)))
    if found is None:
        raise NoGo(f"there is no Go here: {REMEDY}")
    version = _version(Path(found))
    if version >= _SWITCHES_ITSELF:
        # Packagers and sites switch this off; a version that suffices stays in use all the same.
        return Path(found), {"GOTOOLCHAIN": "auto"}
    root = cache / f"go{wanted}"
    if not root.exists():
        _fetch(Path(found), wanted, root)
    return root / "bin" / "go", {"GOROOT": str(root), "GOTOOLCHAIN": "local"}


def _version(command: Path) -> tuple[int, int]:
    answer = subprocess.run([command, "env", "GOVERSION"], capture_output=True, text=True, timeout=60, check=True).stdout
    found = re.match(r"go(\d+)\.(\d+)", answer)
    if found is None:
        raise NoGo(f"{command} does not tell its version ({answer.strip()!r}): {REMEDY}")
    return int(found[1]), int(found[2])


def _fetch(command: Path, wanted: str, root: Path) -> None:
    kernel, processor = subprocess.run(
        [command, "env", "GOOS", "GOARCH"], capture_output=True, text=True, timeout=60, check=True
    ).stdout.split()
    module = f"golang.org/toolchain@v0.0.1-go{wanted}.{kernel}-{processor}"
    print(f"Fetching Go {wanted}, since {command} is too old ...", file=sys.stderr, flush=True)
    done = subprocess.run(
        [command, "mod", "download", "-json", module],
        capture_output=True,
        text=True,
        timeout=_DOWNLOAD_SECONDS,
        env=os.environ | {"GOFLAGS": "-mod=mod"},
        cwd="/",
        check=False,
    )
    if done.returncode != 0:
        raise NoGo(f"{command} is too old and cannot fetch Go {wanted}: {(done.stdout + done.stderr).strip()[-500:]}")
    made = root.with_name(f"{root.name}.{os.getpid()}")
    shutil.copytree(json.loads(done.stdout)["Dir"], made, copy_function=shutil.copy)
    # As newer go commands do after the download: modules keep neither execute bits nor a go.mod below their root.
    for path in (made, *made.rglob("*")):
        path.chmod(0o755 if path.is_dir() or path.parent.name == "bin" or "tool" in path.parts[-3:-1] else 0o644)
    for path in (made / "src" / "_go.mod", made / "src" / "cmd" / "_go.mod"):
        if path.exists():
            shutil.copy(path, path.with_name("go.mod"))
    made.rename(root)
