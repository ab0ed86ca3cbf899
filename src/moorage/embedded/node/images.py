"""What an image name means on a machine without images: a PATH. Our own component image is this installation; all others are its bare interpreter."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

COMPONENT = "moorage.dev/component"
_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# How this machine reaches the network is the machine's, as a container runtime's proxy settings are; nothing else is inherited.
_NETWORK = (
    "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy", "ALL_PROXY", "all_proxy",
    "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "PIP_CERT", "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL",
    "PIP_FIND_LINKS", "UV_INDEX_URL", "UV_DEFAULT_INDEX", "UV_INDEX", "UV_FIND_LINKS",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Images:
    """The environments that image names stand for.

    Args:
        component: PATH of our own containers.
        default: PATH of all others.
        interpreter: the Python of all others.
        inherited: further variables that every container starts with.
        keep: host folders that must stay visible whatever is mounted over them.
    """

    component: str
    default: str
    interpreter: str
    inherited: tuple[tuple[str, str], ...] = ()
    keep: tuple[str, ...] = ()

    def path(self, image: str, own: Path) -> str:
        """PATH of a container. One of somebody else's image gets a Python in the folder `own`: what it installs is its own, as a container's is."""
        if is_component(image):
            return self.component
        _layer(own, Path(self.interpreter))
        return f"{own / 'bin'}:{self.default}"


def _layer(folder: Path, interpreter: Path) -> None:
    """An environment above the machine's Python, which sees the packages there and leaves them as they are."""
    if (folder / "pyvenv.cfg").exists():
        return
    making = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", dir=folder.parent))
    making.chmod(0o755)
    (making / "bin").mkdir()
    minor = f"python{sys.version_info.major}.{sys.version_info.minor}"
    (making / "lib" / minor / "site-packages").mkdir(parents=True)
    configuration = f"home = {interpreter.parent}\ninclude-system-site-packages = true\nversion = {sys.version.split()[0]}\n"
    (making / "pyvenv.cfg").write_text(configuration, encoding="utf-8")
    for name in ("python", "python3", minor):
        (making / "bin" / name).symlink_to(interpreter)
    for name in ("pip", "pip3"):
        (making / "bin" / name).write_text('#!/bin/sh\nexec "${0%/*}/python" -m pip "$@"\n', encoding="utf-8")
        (making / "bin" / name).chmod(0o755)
    try:
        making.rename(folder)
    except OSError:
        # Another container of the pod was faster, and has made the same.
        shutil.rmtree(making)
        if not (folder / "pyvenv.cfg").exists():
            raise


def is_component(image: str) -> bool:
    name = image.split("@")[0]
    return name == COMPONENT or name.startswith(f"{COMPONENT}:")


def not_pulled(images: list[str]) -> str:
    """The message of the event ImageNotPulled."""
    names = ", ".join(sorted(set(images)))
    return f"Images are not pulled on the embedded cluster: {names} runs in the node's default environment (Python {sys.version.split()[0]} of this machine)."


def of_this_installation(folder: Path) -> Images:
    """Images as this interpreter's environment gives them. `folder` gets a `python` where the base interpreter has none of that name."""
    own = Path(sys.executable).parent
    base = Path(sys.base_prefix) / "bin"
    machine = [
        part for part in os.environ.get("PATH", _SYSTEM_PATH).split(":") if part and Path(part) not in (own, Path(sys.prefix) / "bin")
    ]
    machine += [part for part in _SYSTEM_PATH.split(":") if part not in machine]
    folder.mkdir(parents=True, exist_ok=True)
    names = folder / "python"
    real = base / f"python{sys.version_info.major}.{sys.version_info.minor}"
    if not (base / "python").exists() and not names.is_symlink():
        names.symlink_to(real if real.exists() else shutil.which("python3") or sys.executable)
    source = Path(__file__).resolve().parents[3]
    keep = {sys.prefix, sys.base_prefix, str(folder), str(source)}
    return Images(
        component=":".join([str(own), *machine]),
        default=":".join([str(base), str(folder), *machine]),
        interpreter=str(real if real.exists() else shutil.which("python3") or sys.executable),
        inherited=tuple((name, os.environ[name]) for name in _NETWORK if name in os.environ),
        keep=tuple(sorted(keep - {"/", "/usr"})),
    )
