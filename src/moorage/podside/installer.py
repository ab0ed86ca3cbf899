"""uv, run for an environment: what it prints goes to the log, what it means by an error becomes one sentence."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from moorage.errors import Invalid, MoorageError, NotFound, Unavailable
from moorage.podside import programs
from moorage.podside.interpreter import shared, standalone

_GLYPHS = re.compile(r"^[\s×│├╰─▶]+")
_UNKNOWN = re.compile(r"[Bb]ecause (?P<name>[\w.\[\]-]+) was not found in the (?:package registry|provided package locations|cache)")
_NO_VERSION = re.compile(r"there (?:is|are) no versions? of (?P<wanted>\S+?(?:[=<>!~]=?[^\s,]+)?)(?: and|,|\s)")
_OFFLINE = re.compile(r"dns error|failed to lookup address|Connection refused|Network is unreachable|timed out|error sending request", re.I)
_FULL = re.compile(r"No space left on device|os error 28|Disk quota exceeded", re.I)
_SIMPLE = re.compile(r"^[0-9]+(\.[0-9]+){0,2}$")


class Uv:
    """uv with its cache and interpreters on the environments' volume, where hard links save copies."""

    def __init__(self, root: Path) -> None:
        self._root = root
        beside = Path(sys.executable).with_name("uv")
        found = str(beside) if beside.exists() else shutil.which("uv")
        if found is None:
            raise NotFound("This Moorage installation lacks 'uv', which prepares environments.", code="BrokenInstallation")
        self._program = found

    def make(self, folder: Path, python: str) -> str:
        """A new environment of that Python in `folder`; answers its version."""
        interpreter = self._interpreter(python)
        if not shared():
            interpreter = str(standalone(Path(interpreter), self._root))
        self._run(["venv", "--quiet", "--relocatable", "--python", interpreter, str(folder)])
        configuration = (folder / "pyvenv.cfg").read_text(encoding="utf-8")
        found = re.search(r"^version_info = (\S+)$", configuration, re.MULTILINE)
        return found[1] if found else python

    def install(self, folder: Path, lines: Sequence[str], *options: str) -> None:
        """Install requirement lines, with options of `uv pip install`. Byte code too: users see the environment read-only and could not keep theirs."""
        with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n")
            file.flush()
            target = ["--python", str(folder / "bin" / "python"), "--compile-bytecode", "--requirement", file.name]
            self._run(["pip", "install", *target, *options])

    def install_nearest(self, folder: Path, lines: Sequence[str]) -> None:
        """Install the lowest versions above the lines' bounds that exist ready built: the nearest to what was meant, and no compiler."""
        self.install(folder, lines, "--only-binary", ":all:", "--resolution", "lowest-direct")

    def has(self, python: str) -> bool:
        """Whether an interpreter of that version, or of its minor version, is here."""
        try:
            self._interpreter(python)
        except Invalid:
            return False
        return True

    def _interpreter(self, python: str) -> str:
        own = getattr(sys, "_base_executable", "") or sys.executable
        parts = python.split(".")
        if not python or (_SIMPLE.match(python) and [str(part) for part in sys.version_info[: len(parts)]] == parts):
            return str(Path(own).resolve())
        if found := self._find(python):
            return found
        if _SIMPLE.match(python) and len(parts) == 3:
            minor = ".".join(parts[:2])
            if [str(part) for part in sys.version_info[:2]] == parts[:2] or self._find(minor):
                print(f"Python {python} is not available; another Python {minor} is used", flush=True)
                return self._interpreter(minor)
        raise Invalid(
            f"The environment asks for Python {python}, which this cluster cannot provide. It has: {', '.join(self._installed())}.",
            code="PythonNotFound",
            target="environment",
        )

    def _find(self, python: str) -> str:
        """The path of an installed Python of that version; empty when there is none."""
        found = self._call(["python", "find", "--no-project", python])
        return found.stdout.strip() if found.returncode == 0 else ""

    def _installed(self) -> list[str]:
        listed = self._call(["python", "list", "--only-installed", "--output-format", "json"])
        versions = set(re.findall(r'"version":\s*"([^"]+)"', listed.stdout))
        return sorted(versions | {".".join(map(str, sys.version_info[:3]))})

    def _call(self, arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
        return programs.run([self._program, *arguments], env=self._surroundings())

    def _run(self, arguments: Sequence[str]) -> None:
        """Run to the end; lines are printed as they come."""
        said: list[str] = []
        with programs.started([self._program, *arguments], errors=subprocess.STDOUT, env=self._surroundings()) as process:
            assert process.stdout is not None
            for line in process.stdout:
                said.append(line)
                print(line, end="", flush=True)
        if process.returncode:
            raise explained("".join(said[-200:]), self._root)

    def _surroundings(self) -> dict[str, str]:
        defaults = {"UV_CACHE_DIR": str(self._root / ".uv-cache"), "UV_PYTHON_INSTALL_DIR": str(self._root / ".python")}
        # The container has an environment of its own, which is not the one meant; an index that IT operations set is kept.
        kept = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "PYTHONPATH", "PYTHONHOME")}
        return {**defaults, "UV_PYTHON_DOWNLOADS": "manual", "UV_NO_PROGRESS": "1", "NO_COLOR": "1", **kept}


def explained(text: str, root: Path) -> MoorageError:
    """uv's failure as one of ours: which requirement, or which circumstance, and what helps."""
    if _FULL.search(text):
        free = shutil.disk_usage(root).free / 1e9
        return MoorageError(
            f"The environments volume is full ({free:.1f} GB free). Enlarge the claim 'moorage-environments' or delete environments in it.",
            code="NoSpace",
        )
    plain = " ".join(_GLYPHS.sub("", line).strip() for line in text.splitlines()).strip()
    if unknown := _UNKNOWN.search(plain):
        return Invalid(
            f"The requirement '{unknown['name']}' does not exist in the package index; check its name.", code="RequirementNotFound"
        )
    if versions := _NO_VERSION.search(plain):
        return Invalid(f"The package index has no version that satisfies '{versions['wanted']}'.", code="RequirementNotFound")
    if _OFFLINE.search(plain):
        return Unavailable(f"The package index cannot be reached: {_short(plain)}", code="PackageIndexUnavailable")
    _, _, after = plain.rpartition("error: ")
    if "conclude that your requirements are unsatisfiable" in plain:
        because = plain[plain.find("Because") :] if "Because" in plain else plain
        return Invalid(f"The requirements contradict each other: {_short(because)}", code="RequirementsConflict")
    return Invalid(f"The requirements could not be installed: {_short(after or plain)}", code="EnvironmentFailed")


def _short(text: str) -> str:
    return text if len(text) <= 1200 else f"{text[:1200]} ..."
