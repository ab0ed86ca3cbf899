"""Makes images from Debian packages and a wheel of this repository, without a container engine: mmdebstrap makes the tree, `oci` the archive."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tarfile
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
_EXCLUDED = (
    "/usr/share/man/*",
    "/usr/share/locale/*",
    "/usr/share/doc/*",
    "/usr/share/info/*",
    "/usr/lib/x86_64-linux-gnu/gconv/*",
)
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


def build_component(
    path: Path,
    *,
    suite: str | None = None,
    compress: bool = True,
    trees: Path | None = None,
) -> Built:
    """The component image of this work tree; see `build`."""
    facts = component()
    if suite is not None and suite != facts.suite:
        raise NotBuilt(f"The component image is made from Debian {facts.suite}, whose Python is {_PYTHON}; {suite} has another one.")
    labels = {**facts.labels, "org.opencontainers.image.version": __version__}
    facts = Facts(**{**{name: getattr(facts, name) for name in Facts.__slots__}, "labels": labels})
    start = facts.prefix.strip("/")
    parts = {
        "locked dependencies": f"{start}/",
        f"Moorage {__version__}": f"{start}/lib/python{_PYTHON}/site-packages/moorage",
    }
    with tempfile.TemporaryDirectory(prefix="moorage-image-") as name:
        folder = Path(name)
        words = [
            sys.executable,
            "-m",
            "hatchling",
            "build",
            "-t",
            "wheel",
            "-d",
            str(folder / "wheels"),
        ]
        _run(words, {"SOURCE_DATE_EPOCH": str(_EPOCH)}, "The wheel could not be built")
        (wheel,) = (folder / "wheels").glob("*.whl")
        # Constraints carry the hashes; of the lock only what running needs is installed.
        install(
            folder / "installed",
            ["--constraint", str(ROOT / "requirements.lock"), str(wheel)],
        )
        script = folder / "installed" / "bin" / "moorage"
        script.write_text(f"#!{facts.prefix}/bin/python\nimport sys\n\nfrom moorage.cli.main import main\n\nsys.exit(main())\n")
        script.chmod(0o755)
        reference = f"{facts.repository}:{__version__}"
        return build(
            path,
            facts,
            reference,
            installed=folder / "installed",
            parts=parts,
            compress=compress,
            trees=trees,
        )


def build(
    path: Path,
    facts: Facts,
    reference: str,
    *,
    installed: Path | None = None,
    parts: Mapping[str, str] | None = None,
    compress: bool = True,
    trees: Path | None = None,
) -> Built:
    """An image of Debian packages.

    Args:
        installed: a folder that `install` made, for the facts' prefix.
        parts: the layers of that folder, lowest first: the start of the paths in it (no leading slash), by title.
        trees: a folder that keeps Debian's part for the next image of the same packages; security updates do not come into what is kept.

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
        tree = _debian(folder, facts, epoch, trees)
        (folder / "debian").mkdir()
        titles = [f"Debian {facts.suite}: {', '.join(facts.packages) or 'essential packages'}"]
        layers = split(tree, titles, lambda _: 0, folder / "debian", epoch=epoch, compress=compress)
        if installed is not None:
            above = dict(parts or {})
            _compile(tree, installed, facts.prefix, folder)
            _packed(folder / "installed.tar", installed, facts.prefix.strip("/"))
            (folder / "above").mkdir()

            def choose(entry: str) -> int:
                return max(
                    (number for number, start in enumerate(above.values()) if entry.startswith(start)),
                    default=0,
                )

            layers += split(folder / "installed.tar", list(above), choose, folder / "above", epoch=epoch, compress=compress)
        made = folder / "image.tar"
        digest = archive(
            made,
            facts,
            reference,
            layers,
            architecture=ARCHITECTURES[platform.machine()],
            epoch=epoch,
        )
        made.replace(path)
    return Built(path, reference, digest, layers)


def _debian(folder: Path, facts: Facts, epoch: int, trees: Path | None) -> Path:
    """The tree of Debian's packages as a tar file."""
    words = [
        "mmdebstrap",
        "--quiet",
        "--format=tar",
        "--variant=essential",
        "--components=main",
    ]
    words += [f"--include={','.join((*_BASE, *facts.packages))}"]
    words += [f"--dpkgopt=path-exclude={each}" for each in _EXCLUDED] + [f"--dpkgopt=path-include={each}" for each in _KEPT]
    if facts.unwanted:
        words.append(f'--customize-hook=chroot "$1" dpkg --purge {" ".join(facts.unwanted)}')
    # A name for the number, which libraries ask for.
    if facts.user:
        user, group = facts.user.split(":")
        lines = {
            "passwd": f"moorage:x:{user}:{group}::/tmp:/usr/sbin/nologin",
            "group": f"moorage:x:{group}:",
        }
        words += [f"--customize-hook=echo '{line}' >> \"$1/etc/{file}\"" for file, line in lines.items()]
    # Written when the packages were installed, so different each time, or of no use without apt.
    gone = (
        "var/log/*",
        "var/cache/*",
        "var/lib/apt",
        "etc/machine-id",
        "var/lib/dpkg/*-old",
        "etc/*-",
        "tmp/*",
    )
    words += ['--customize-hook=cd "$1" && rm -rf ' + " ".join(gone), facts.suite]
    kept = trees and trees / f"debian-{hashlib.sha256(repr((words, epoch)).encode()).hexdigest()[:12]}.tar"
    if kept is not None and kept.exists():
        return kept
    made = folder / "debian.tar"
    _run(
        [*words, str(made)],
        {"SOURCE_DATE_EPOCH": str(epoch)},
        "Debian's packages could not be installed",
    )
    return made if kept is None else made.replace(kept)


def _compile(tree: Path, installed: Path, prefix: str, folder: Path) -> None:
    """Byte code by the image's own Python, run without the image: containers have it read-only and could not keep theirs."""
    root = folder / "root"
    root.mkdir()
    libraries = f"usr/lib/{platform.machine()}-linux-gnu"
    _run(
        [
            "tar",
            "-C",
            str(root),
            "-xf",
            str(tree),
            f"./usr/bin/python{_PYTHON}",
            f"./usr/lib/python{_PYTHON}",
            f"./{libraries}",
        ],
        {},
        "No Python",
    )
    loader = next((root / libraries).glob("ld-linux*"))
    words = [
        str(loader),
        "--library-path",
        str(root / libraries),
        str(root / "usr" / "bin" / f"python{_PYTHON}"),
        "-m",
        "compileall",
        "-q",
    ]
    # By content, not by time: all times are set to one in the end.
    words += [
        "--invalidation-mode",
        "unchecked-hash",
        "-s",
        str(installed),
        "-p",
        prefix,
        str(installed / "lib"),
    ]
    _run(words, {"PYTHONHOME": str(root / "usr")}, "The packages could not be compiled")


def _packed(path: Path, installed: Path, prefix: str) -> None:
    """The folder as a tar file below `prefix`, everything owned by root."""

    def owned(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.uid = member.gid = 0
        return member

    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as target:
        for above in reversed([each for each in Path(prefix).parents if each.name]):
            member = tarfile.TarInfo(str(above))
            member.type, member.mode = tarfile.DIRTYPE, 0o755
            target.addfile(member)
        target.add(installed, prefix, filter=owned)


def install(target: Path, requirements: Sequence[str]) -> None:
    """Packages as a virtual environment of the image's Python, whatever Python runs here.

    Args:
        requirements: what `uv pip install` is to install, with options of its own.
    """
    site = target / "lib" / f"python{_PYTHON}" / "site-packages"
    uv = Path(sys.executable).with_name("uv")
    words = f"pip install --quiet --link-mode copy --only-binary :all: --python-version {_PYTHON} --python-platform {platform.machine()}-manylinux_2_36"
    _run(
        [str(uv), *words.split(), "--target", str(site), *requirements],
        {},
        "The packages for the image could not be installed",
    )
    programs = target / "bin"
    programs.mkdir()
    # Native programs stay; scripts would name this machine's Python.
    for each in (site / "bin").glob("*"):
        if each.read_bytes()[:4] == b"\x7fELF":
            each.rename(programs / each.name)
    shutil.rmtree(site / "bin", ignore_errors=True)
    (site / ".lock").unlink(missing_ok=True)
    _forget(site)
    for name in ("python", "python3"):
        (programs / name).symlink_to(f"/usr/bin/python{_PYTHON}")
    (target / "pyvenv.cfg").write_text(f"home = /usr/bin\ninclude-system-site-packages = false\nversion = {_PYTHON}\n")


def _forget(site: Path) -> None:
    """Take away where this machine had the packages from, and when."""
    for record in site.glob("*.dist-info/RECORD"):
        notes = [record.with_name(name) for name in ("direct_url.json", "uv_cache.json")]
        for each in notes:
            each.unlink(missing_ok=True)
        gone = tuple(f"{record.parent.name}/{each.name}," for each in notes)
        lines = record.read_text(encoding="utf-8").splitlines(keepends=True)
        record.write_text("".join(line for line in lines if not line.startswith(gone)), encoding="utf-8")


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
    paths = [
        ROOT / "pyproject.toml",
        ROOT / "requirements.lock",
        *sorted((ROOT / "image").glob("*.*")),
    ]
    paths += sorted(each for each in (ROOT / "src").rglob("*") if each.is_file() and "__pycache__" not in each.parts)
    for path in paths:
        digest.update(str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]
