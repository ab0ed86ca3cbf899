"""Makes images from Debian packages and a wheel of this repository, without a container engine: mmdebstrap makes the tree, `oci` the archive."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from image.facts import Facts, component
from image.oci import ARCHITECTURES, Layer, archive, split
from moorage import __version__

ROOT = Path(__file__).parent.parent
# Of every file in an image, unless SOURCE_DATE_EPOCH says another: the same sources make the same image.
_EPOCH = 1767225600  # 2026-01-01
_PYTHON = "3.11"  # bookworm's
_SECONDS = 20 * 60
# In place of the converter usrmerge, which can then be taken away.
_BASE = ("usr-is-merged",)
# What no container reads.
_EXCLUDED = ("/usr/share/man/*", "/usr/share/locale/*", "/usr/share/doc/*", "/usr/share/info/*", "/usr/lib/x86_64-linux-gnu/gconv/*")
_KEPT = ("/usr/share/doc/*/copyright",)


class NotBuilt(Exception):
    """The image cannot be made here; the message says what is missing and how to get it."""


@dataclass(frozen=True, slots=True)
class Built:
    """An image archive and what it holds."""

    path: Path
    reference: str
    digest: str
    layers: Sequence[Layer]


def missing() -> list[str]:
    """What this machine lacks for building, each with its remedy; empty when nothing."""
    found = []
    if sys.platform != "linux":
        found.append("Linux: use Docker and image/Dockerfile elsewhere")
    if shutil.which("mmdebstrap") is None:
        found.append("mmdebstrap: apt-get install mmdebstrap")
    if platform.machine() not in ARCHITECTURES:
        found.append(f"a known architecture: {platform.machine()} is none of {', '.join(ARCHITECTURES)}")
    return found


def build_component(path: Path, *, suite: str | None = None, compress: bool = True) -> Built:
    """The component image of this work tree."""
    facts = component()
    if suite is not None and suite != facts.suite:
        raise NotBuilt(f"The component image is made from Debian {facts.suite}, whose Python is {_PYTHON}; {suite} has another one.")
    labels = {**facts.labels, "org.opencontainers.image.version": __version__}
    facts = Facts(**{**{name: getattr(facts, name) for name in Facts.__slots__}, "labels": labels})
    with tempfile.TemporaryDirectory(prefix="moorage-image-") as folder:
        installed = Path(folder) / "installed"
        _install(installed, Path(folder))
        return build(path, facts, f"{facts.repository}:{__version__}", installed=installed, compress=compress)


def build(path: Path, facts: Facts, reference: str, *, installed: Path | None = None, compress: bool = True) -> Built:
    """An image of Debian packages, with the folder `installed` at the facts' prefix.

    Raises:
        NotBuilt: a tool is missing, or failed.
    """
    if lacking := missing():
        raise NotBuilt("This image cannot be built here. Missing: " + "; ".join(lacking))
    epoch = int(os.environ.get("SOURCE_DATE_EPOCH") or _EPOCH)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Beside the result, since the machine's folder for temporary files may be small.
    with tempfile.TemporaryDirectory(prefix=".image-", dir=path.parent) as name:
        folder = Path(name)
        tree = folder / "tree"
        _tree(tree, facts, installed, epoch)
        site = f"{facts.prefix.strip('/')}/lib/python{_PYTHON}/site-packages/moorage"
        titles = [f"Debian {facts.suite}: {', '.join(facts.packages) or 'essential packages'}"]
        if installed is not None:
            titles += ["locked dependencies", f"Moorage {__version__}"]

        def choose(entry: str) -> int:
            if installed is None or not entry.startswith(facts.prefix.strip("/") + "/"):
                return 0
            return 2 if entry.startswith(site) else 1

        layers = split(tree, titles, choose, folder, epoch=epoch, compress=compress)
        architecture = ARCHITECTURES[platform.machine()]
        made = folder / "image.tar"
        digest = archive(made, facts, reference, layers, architecture=architecture, epoch=epoch)
        made.replace(path)
    return Built(path, reference, digest, layers)


def _tree(target: Path, facts: Facts, installed: Path | None, epoch: int) -> None:
    words = ["mmdebstrap", "--quiet", "--format=tar", "--variant=essential", "--components=main"]
    words += [f"--include={','.join((*_BASE, *facts.packages))}"]
    words += [f"--dpkgopt=path-exclude={each}" for each in _EXCLUDED] + [f"--dpkgopt=path-include={each}" for each in _KEPT]
    if facts.unwanted:
        words.append(f'--customize-hook=chroot "$1" dpkg --purge {" ".join(facts.unwanted)}')
    # A name for the number, which libraries ask for.
    if facts.user:
        user, group = facts.user.split(":")
        lines = {"passwd": f"moorage:x:{user}:{group}::/tmp:/usr/sbin/nologin", "group": f"moorage:x:{group}:"}
        words += [f"--customize-hook=echo '{line}' >> \"$1/etc/{file}\"" for file, line in lines.items()]
    if installed is not None:
        within = f'"$1{facts.prefix}"'
        words.append(f"--customize-hook=mkdir -p {within} && cp -a {installed}/. {within} && chown -R 0:0 {within}")
        # By content, not by time: all times are set to one in the end.
        compiling = f"{facts.prefix}/bin/python -m compileall -q --invalidation-mode unchecked-hash -j 0 {facts.prefix}/lib"
        words.append(f'--customize-hook=chroot "$1" {compiling}')
    # Written when the packages were installed, so different each time, or of no use without apt.
    gone = ("var/log/*", "var/cache/*", "var/lib/apt", "etc/machine-id", "var/lib/dpkg/*-old", "etc/*-", "tmp/*")
    words.append('--customize-hook=cd "$1" && rm -rf ' + " ".join(gone))
    words += [facts.suite, str(target)]
    _run(words, {"SOURCE_DATE_EPOCH": str(epoch)}, "Debian's packages could not be installed")


def _install(target: Path, folder: Path) -> None:
    """Moorage and its locked dependencies as a virtual environment of the image's Python, whatever Python runs here."""
    wheels = folder / "wheels"
    _run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(wheels)],
        {"SOURCE_DATE_EPOCH": str(_EPOCH)},
        "The wheel could not be built",
    )
    (wheel,) = wheels.glob("*.whl")
    site = target / "lib" / f"python{_PYTHON}" / "site-packages"
    uv = Path(sys.executable).with_name("uv")
    words = [
        str(uv),
        "pip",
        "install",
        "--quiet",
        "--target",
        str(site),
        "--link-mode",
        "copy",
        "--only-binary",
        ":all:",
        "--python-version",
        _PYTHON,
    ]
    # Constraints carry the hashes; of the lock only what running needs is installed.
    words += ["--python-platform", f"{platform.machine()}-manylinux_2_36", "--constraint", str(ROOT / "requirements.lock"), str(wheel)]
    _run(words, {}, "The locked dependencies could not be installed")
    programs = target / "bin"
    programs.mkdir()
    # Native programs stay; scripts would name this machine's Python.
    for each in (site / "bin").iterdir():
        if each.read_bytes()[:4] == b"\x7fELF":
            each.rename(programs / each.name)
    shutil.rmtree(site / "bin")
    (site / ".lock").unlink(missing_ok=True)
    for name in ("python", "python3"):
        (programs / name).symlink_to(f"/usr/bin/python{_PYTHON}")
    (target / "pyvenv.cfg").write_text(f"home = /usr/bin\ninclude-system-site-packages = false\nversion = {_PYTHON}\n")
    script = programs / "moorage"
    script.write_text(f"#!{component().prefix}/bin/python\nimport sys\n\nfrom moorage.cli.main import main\n\nsys.exit(main())\n")
    script.chmod(0o755)


def _run(words: Sequence[str], environment: Mapping[str, str], failure: str) -> None:
    done = subprocess.run(
        words,
        cwd=ROOT,
        env=os.environ | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        check=False,
    )
    if done.returncode:
        raise NotBuilt(f"{failure}:\n{(done.stdout + done.stderr)[-2000:]}")


def inputs_digest() -> str:
    """Of everything in this work tree that goes into the component image, so that an archive made earlier can be used again."""
    digest = hashlib.sha256(__version__.encode())
    paths = [ROOT / "pyproject.toml", ROOT / "requirements.lock", *sorted((ROOT / "image").glob("*.*"))]
    paths += sorted(each for each in (ROOT / "src").rglob("*") if each.is_file() and "__pycache__" not in each.parts)
    for path in paths:
        digest.update(str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]
