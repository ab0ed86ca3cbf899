"""The state folder of `moorage up`: where everything lies, who runs, and one lock for whoever changes that (docs/internals/seams.md)."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from moorage.errors import Conflict, Invalid, MoorageError, NotFound
from moorage.files import write_private

# What a first start writes: databases, certificates, the first logs. Environments and artifacts come on top and are checked where they are written.
LEAST_FREE_BYTES = 256 * 1024 * 1024
_MARKER = ".moorage-home"


@dataclass(frozen=True, slots=True)
class Process:
    """A process we started, told apart from a later one of the same number by when it began."""

    role: str
    pid: int
    began: str

    @property
    def alive(self) -> bool:
        return started(self.pid) == self.began


@dataclass(frozen=True, slots=True)
class Home:
    """The state folder; every path below it is derived here and nowhere else."""

    folder: Path

    @property
    def pki(self) -> Path:
        return self.folder / "pki"

    @property
    def config(self) -> Path:
        return self.folder / "config.toml"

    @property
    def cluster(self) -> Path:
        return self.folder / "cluster"

    @property
    def kubeconfig(self) -> Path:
        return self.cluster / "kubeconfig"

    @property
    def server(self) -> Path:
        return self.folder / "server"

    @property
    def run(self) -> Path:
        return self.folder / "run"

    @property
    def settings(self) -> Path:
        """What `up` was asked for, so that the supervisor and a later `up` start the same."""
        return self.run / "settings.json"

    @property
    def unfinished(self) -> Path:
        """There from the first step of an `up` to its last, so that the next one goes on after one that was killed."""
        return self.run / "unfinished"

    def log(self, role: str) -> Path:
        return self.folder / "logs" / f"{role}.log"

    def prepare(self) -> None:
        """Make the folder, readable by its owner only; Invalid when it cannot be, is somebody else's, or the disk is full."""
        try:
            if self.folder.exists() and not (self.folder / _MARKER).exists() and any(self.folder.iterdir()):
                raise Invalid(
                    f"{self.folder} is not empty and not a Moorage state folder. Set MOORAGE_HOME to another one.", target="MOORAGE_HOME"
                )
            # Looked at before anything is made.
            there = next(each for each in (self.folder, *self.folder.parents) if each.exists())
            free = shutil.disk_usage(there).free
            if free < LEAST_FREE_BYTES:
                raise Invalid(
                    f"Only {free // 2**20} MB are free on the disk of {self.folder}; Moorage needs {LEAST_FREE_BYTES // 2**20} MB. "
                    "Free some, or set MOORAGE_HOME to a folder on another disk.",
                    target="MOORAGE_HOME",
                )
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            (self.folder / _MARKER).touch(mode=0o600)
            for each in (self.run, self.folder / "logs", self.cluster, self.server):
                each.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise Invalid(
                f"The state folder {self.folder} cannot be made: {error.strerror}. Set MOORAGE_HOME to a folder you may write.",
                target="MOORAGE_HOME",
            ) from error

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder for `up` or `down`; Conflict at once when another of them is at work."""
        with (self.run / "lock").open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno not in (errno.EACCES, errno.EAGAIN):
                    raise
                file.seek(0)
                holder = file.read().strip() or "unknown"
                raise Conflict(
                    f"Another 'moorage up' or 'moorage down' is at work (process {holder}). Wait for it, then try again."
                ) from error
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            yield

    def process(self, role: str) -> Process | None:
        """The running process of a role, or None."""
        try:
            found = Process(**json.loads((self.run / f"{role}.json").read_text(encoding="utf-8")))
        except (FileNotFoundError, json.JSONDecodeError, TypeError):
            return None
        return found if found.alive else None

    def record(self, role: str, pid: int) -> Process:
        """Note that `pid` now has this role."""
        process = Process(role, pid, started(pid))
        write_private(self.run / f"{role}.json", json.dumps(asdict(process)))
        return process

    def note_failures(self, role: str, count: int) -> None:
        """How often in a row a role's process ended soon after its start; `up` gives up on it instead of waiting."""
        write_private(self.run / f"{role}.failures", str(count))

    def failures(self, role: str) -> int:
        try:
            return int((self.run / f"{role}.failures").read_text(encoding="utf-8") or 0)
        except FileNotFoundError:
            return 0

    def check_ours(self) -> None:
        """NotFound when the folder is not one of ours, so that a wrong MOORAGE_HOME harms nothing."""
        if not (self.folder / _MARKER).exists():
            raise NotFound(
                f"{self.folder} is not a Moorage state folder; nothing was stopped or removed. Set MOORAGE_HOME to the one you mean.",
                target="MOORAGE_HOME",
            )

    def purge(self) -> bool:
        """Remove all in the folder, and the folder; whether that is gone too (a mount point stays). NotFound when it is not one of ours.

        Raises:
            MoorageError: something in it cannot be removed; another `purge` goes on.
        """
        self.check_ours()
        try:
            for each in self.folder.iterdir():
                if each.is_dir() and not each.is_symlink():
                    shutil.rmtree(each)
                elif each.name != _MARKER:
                    each.unlink()
            # Last, so that a purge that ended half-way can be taken up again.
            (self.folder / _MARKER).unlink()
        except OSError as error:
            raise MoorageError(
                f"{error.filename} cannot be removed: {error.strerror}. See to that, and run this again.", code="NotRemoved"
            ) from error
        try:
            self.folder.rmdir()
        except OSError:
            # A mount point, a link, or a parent that is not ours to write: emptied is all that can be done.
            return False
        return True


def default_home() -> Home:
    """`$MOORAGE_HOME`, else `~/.moorage`."""
    return Home(Path(os.environ.get("MOORAGE_HOME") or Path.home() / ".moorage").expanduser().absolute())


def started(pid: int) -> str:
    """When a process began, as an opaque text; empty when there is none (a zombie is none)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return "" if Path("/proc/self").exists() else _started_elsewhere(pid)
    fields = text.rpartition(")")[2].split()
    return "" if fields[0] == "Z" else fields[19]


def _started_elsewhere(pid: int) -> str:
    """Systems without /proc (macOS) are asked through `ps`."""
    import subprocess

    answer = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return answer.stdout.strip()
