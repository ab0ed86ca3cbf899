"""What an image name means on a machine without images: a PATH. Our own component image is this installation; all others are its bare interpreter."""

from __future__ import annotations

import os
import shutil
import sys
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
        inherited: further variables that every container starts with.
        keep: host folders that must stay visible whatever is mounted over them.
    """

    component: str
    default: str
    inherited: tuple[tuple[str, str], ...] = ()
    keep: tuple[str, ...] = ()

    def path(self, image: str) -> str:
        return self.component if is_component(image) else self.default


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
        inherited=tuple((name, os.environ[name]) for name in _NETWORK if name in os.environ),
        keep=tuple(sorted(keep - {"/", "/usr"})),
    )
