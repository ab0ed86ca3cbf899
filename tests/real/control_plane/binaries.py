"""Where the control plane's binaries come from: a folder that is given, an envtest folder, or a build of pinned Go modules that a cache keeps.

The versions stand in `tests/real/binaries/kubernetes-MINOR.mod` and nowhere else.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.real.control_plane.toolchain import NoGo, go

MODULE = Path(__file__).parent.parent / "binaries"
COMPONENTS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")
_COMBINED = "control-plane"
_BUILD_SECONDS = 60 * 60  # 10 minutes on two idle cores; much more beside other work
_TELL_SECONDS = 30
LINKED = "-s -w"
# What go says when a module proxy does not answer, or not with modules.
_OUT_OF_REACH = re.compile(r"dial tcp|proxyconnect|no such host|i/o timeout|TLS handshake|x509:|GOPROXY=off|: 40[134] |: 5\d\d ")


class NoBinaries(Exception):
    """There are none, and the message says what would bring some."""


class Broken(Exception):
    """They should have been built and were not: what we pinned or wrote is wrong, or the machine is too slow."""


@dataclass(frozen=True, slots=True)
class Binaries:
    """How each component is started, and where from."""

    version: str
    source: str
    commands: Mapping[str, tuple[str, ...]]


def minors() -> list[str]:
    """The pinned minors, newest first."""
    found = [path.stem.removeprefix("kubernetes-") for path in MODULE.glob("kubernetes-*.mod")]
    return sorted(found, key=lambda minor: tuple(map(int, minor.split("."))), reverse=True)


def version_of(minor: str) -> str:
    """The pinned version of a minor, e.g. `v1.37.2`."""
    pins = MODULE / f"kubernetes-{minor}.mod"
    if not pins.exists():
        raise NoBinaries(f"Kubernetes {minor} is not pinned; there are: {', '.join(minors())}.")
    found = re.search(r"^\tk8s\.io/kubernetes (v\S+)$", pins.read_text(), re.MULTILINE)
    assert found is not None, pins
    return found[1]


def cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "moorage-tests" / "binaries"


def find(minor: str, folder: Path | None = None, *, build: bool = True) -> Binaries:
    """The binaries of a minor from the first source that has them all.

    Raises NoBinaries when none has and none may, or can, be built.
    """
    version = version_of(minor)
    if folder is not None:
        missing = [name for name in COMPONENTS if not (folder / name).exists()]
        if missing:
            raise NoBinaries(f"{folder} has no {', '.join(missing)}.")
        return _separate(folder, "given")
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    # envtest's own archives end at etcd and the API server; only a folder with the controllers too is of use.
    if assets and all((Path(assets) / name).exists() for name in COMPONENTS):
        found = _separate(Path(assets), "KUBEBUILDER_ASSETS")
        if found.version.startswith(f"v{minor}."):
            return found
    combined = cache() / f"{version}-{_digest(minor)}" / _COMBINED
    if not combined.exists():
        if not build:
            raise NoBinaries(f"Kubernetes {version} is not built yet; `scripts/kubernetes build --minor {minor}` does it once.")
        _build(minor, version, combined)
    return Binaries(version, str(combined), {name: (str(combined), name) for name in COMPONENTS})


def _separate(folder: Path, source: str) -> Binaries:
    answer = subprocess.run([folder / "kube-apiserver", "--version"], capture_output=True, text=True, timeout=30, check=True).stdout
    return Binaries(answer.split()[-1], f"{source}: {folder}", {name: (str(folder / name),) for name in COMPONENTS})


def _digest(minor: str) -> str:
    """Of everything that goes into the build."""
    digest = hashlib.sha256(LINKED.encode())
    for name in ("main.go", f"kubernetes-{minor}.mod", f"kubernetes-{minor}.sum"):
        digest.update((MODULE / name).read_bytes())
    return digest.hexdigest()[:12]


def _build(minor: str, version: str, target: Path) -> None:
    try:
        tools = go(go_version(MODULE / f"kubernetes-{minor}.mod"), cache())
    except NoGo as error:
        raise NoBinaries(
            f"No control plane binaries: {error}; or give a folder with --binaries, or set KUBEBUILDER_ASSETS to one that has the controller "
            "manager and the scheduler too."
        ) from error
    target.parent.mkdir(parents=True, exist_ok=True)
    with (target.parent / "lock").open("w") as lock:
        # Two builds at once would take twice as long each; the second finds what the first made.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if target.exists():
            return
        major, number = version.lstrip("v").split(".")[:2]
        stamp = {"gitVersion": version, "gitMajor": major, "gitMinor": number, "gitTreeState": "clean"}
        linked = " ".join((LINKED, *(f"-X k8s.io/component-base/version.{name}={value}" for name, value in stamp.items())))
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            made = Path(folder) / _COMBINED
            print(
                f"Building Kubernetes {version} from its Go modules, once; 10 to 15 minutes on two cores ...", file=sys.stderr, flush=True
            )
            compile_program(tools, MODULE / f"kubernetes-{minor}.mod", linked, made)
            made.rename(target)


def compile_program(tools: tuple[Path, dict[str, str]], pins: Path, linked: str, output: Path) -> None:
    """Compile the program in the folder of `pins`, which is its go.mod, and tell now and then how far it is.

    Args:
        tools: the go command and what it needs in its environment, as `go` returns them.
        linked: flags for the linker.

    Raises NoBinaries when its modules cannot be had here; Broken when what we pinned or wrote is wrong.
    """
    count = len(list_modules(tools, pins, "-deps", "."))
    command, environment, pinned = _prepared(tools, pins)
    words = [command, "build", "-v", *pinned, "-trimpath", "-buildvcs=false", "-ldflags", linked, "-o", str(output), "."]
    _tell(["nice", "-n", "19", *words], pins.parent, environment, count)


def _prepared(tools: tuple[Path, dict[str, str]], pins: Path) -> tuple[str, dict[str, str], list[str]]:
    command, chosen = tools
    return str(command), os.environ | {"CGO_ENABLED": "0", "GOFLAGS": ""} | chosen, [f"-modfile={pins.name}", "-mod=readonly"]


def list_modules(tools: tuple[Path, dict[str, str]], pins: Path, *words: str) -> list[str]:
    """The lines that `go list` prints, with what it asks about fetched.

    Raises NoBinaries when that cannot be had; Broken when what we ask for does not exist.
    """
    command, environment, pinned = _prepared(tools, pins)
    asked = [command, "list", *pinned, *words]
    done = subprocess.run(asked, cwd=pins.parent, env=environment, capture_output=True, text=True, timeout=_BUILD_SECONDS, check=False)
    if done.returncode == 0:
        return done.stdout.splitlines()
    end = done.stderr.strip()[-1500:]
    if _OUT_OF_REACH.search(done.stderr):
        raise NoBinaries(f"The Go modules cannot be had here:\n{end}")
    raise Broken(f"`{' '.join(asked)}` ended with {done.returncode}:\n{end}")


def go_version(pins: Path) -> str:
    """The Go version that the modules ask for, with its patch number, as toolchains are named."""
    found = re.search(r"^go (\d+\.\d+)(\.\d+)?$", pins.read_text(), re.MULTILINE)
    assert found is not None, pins
    return found[1] + (found[2] or ".0")


def _tell(words: list[str], module: Path, environment: dict[str, str], packages: int) -> None:
    """Run the build and say now and then how far it is: silence of ten minutes looks like a hang, and some CI ends it as one.

    Raises Broken with the end of what the build said.
    """
    began = time.monotonic()
    process = subprocess.Popen(words, cwd=module, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    said: deque[str] = deque(maxlen=20)
    count = 0

    def read() -> None:
        nonlocal count
        assert process.stdout is not None
        for line in process.stdout:
            said.append(line)
            count += not line.startswith("go: ")

    reading = threading.Thread(target=read)
    reading.start()
    try:
        while True:
            try:
                process.wait(_TELL_SECONDS)
                break
            except subprocess.TimeoutExpired:
                passed = int(time.monotonic() - began)
                print(f"  {passed // 60}:{passed % 60:02d}  {count} of at most {packages} packages compiled", file=sys.stderr, flush=True)
                if passed > _BUILD_SECONDS:
                    raise Broken(f"The build was not done after {_BUILD_SECONDS // 60} minutes.") from None
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        reading.join()
    if process.returncode != 0:
        raise Broken(f"The build ended with {process.returncode}:\n{''.join(said)}")
