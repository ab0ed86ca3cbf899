"""The operator's builder: a program that makes an image of a folder and says what the image is called.

It is started without a shell as `COMMAND CONTEXT DOCKERFILE NAME`, in a folder of its own, with a short list of variables
(specs/image_build.py); what it prints is the build's log, and it writes the image's reference into the file `$MOORAGE_IMAGE_FILE`. Everything below the
folder is removed when it has ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from moorage.errors import Invalid, Unavailable
from moorage.server.images import shim
from moorage.server.images.context import FULL
from moorage.server.images.log import BuildLog
from moorage.specs.image_build import RESULT_VARIABLE, builder_environment, printable, read_image, tail

# Between TERM and KILL for a builder that is to end. Shorter than a build's lease lasts without its holder (engine.py), so that a build that is taken over
# has ended where it was.
GRACE_SECONDS = 8.0
_LOCK = "lock"
_MOST_RESULT = 64 * 1024
_READ = 64 * 1024
_log = logging.getLogger(__name__)


def read_command(text: str, *, target: str) -> tuple[str, ...]:
    """The builder's program, as an absolute path, and its arguments; empty for an empty text.

    Args:
        text: words as a shell would split them; no shell ever sees them.
        target: the option or setting that they come from.

    Raises:
        Invalid: they do not parse, or there is no such program.
    """
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise Invalid(f"{target}: '{text}' does not parse: {error}.", target=target) from error
    if not words:
        return ()
    found = shutil.which(os.path.expanduser(words[0]))
    if found is None:
        raise Invalid(
            f"{target}: there is no program '{words[0]}'. Give the path of an executable file, or a name that is on the PATH.",
            code="ImageBuilderNotFound",
            target=target,
        )
    return str(Path(found).absolute()), *words[1:]


@dataclass(frozen=True, slots=True)
class Workplace:
    """A build's own folder: `context` and `tmp` in it, and the file for the result.

    Attributes:
        folder: all of it goes when the build has ended.
        lock: held as long as the service or the builder's shim is alive, by which leftovers are told from the folders of running builds.
    """

    folder: Path
    lock: int

    @property
    def context(self) -> Path:
        return self.folder / "context"

    @property
    def result(self) -> Path:
        return self.folder / "image"


@asynccontextmanager
async def workplace(parent: Path) -> AsyncIterator[Workplace]:
    """A new folder below `parent`, removed at the end; first the folders go that killed services left.

    Raises:
        Unavailable: it cannot be made.
    """
    try:
        place = await asyncio.to_thread(_made, parent)
    except OSError as error:
        raise Unavailable(
            f"No folder for image builds can be made in {parent}: {error.strerror}. Its operator has to correct that, or to choose another "
            "(MOORAGE_IMAGE_BUILD_FOLDER). Then submit again.",
            code="InsufficientStorage" if error.errno in FULL else "ImageBuildFolderUnusable",
        ) from error
    try:
        yield place
    finally:
        await asyncio.shield(asyncio.to_thread(_removed, place))


def _made(parent: Path) -> Workplace:
    parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (parent / _LOCK).open("wb") as door:
        # Behind it a folder without a lock of its own is nobody's.
        fcntl.flock(door, fcntl.LOCK_EX)
        _clear(parent)
        folder = Path(tempfile.mkdtemp(prefix="build-", dir=parent))
        try:
            lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:
            _remove(folder)
            raise
        fcntl.flock(lock, fcntl.LOCK_EX)
    place = Workplace(folder, lock)
    try:
        place.context.mkdir()
        (folder / "tmp").mkdir()
    except OSError:
        _removed(place)
        raise
    return place


def clear(parent: Path) -> None:
    """Remove what killed services left of their builds, if anything."""
    try:
        with (parent / _LOCK).open("r+b") as door:
            fcntl.flock(door, fcntl.LOCK_EX)
            _clear(parent)
    except FileNotFoundError:
        # Nothing has been built here.
        return
    except OSError as error:
        _log.warning("what earlier builds of images left in %s cannot be removed: %s", parent, error.strerror)


def _removed(place: Workplace) -> None:
    try:
        _remove(place.folder)
    finally:
        os.close(place.lock)


def _clear(parent: Path) -> None:
    """Remove what killed services left; a folder whose lock is held belongs to a running build."""
    for folder in parent.glob("build-*"):
        try:
            lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            # It is on its way out: another build's end removes it just now, or was killed in the middle of that.
            _remove(folder)
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        else:
            _remove(folder)
        finally:
            os.close(lock)


def _remove(folder: Path) -> None:
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:
        if folder.exists():
            # Something that still runs removes beside us.
            _remove_what_is_left(folder)
    except OSError:
        # Folders that their owner may not write to are nothing rare: tools protect their caches so.
        _open_to_owner(folder)
        _remove_what_is_left(folder)


def _open_to_owner(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.chmod(0o700)
    for place, names, _ in os.walk(folder):
        for name in names:
            path = Path(place, name)
            # What cannot be opened is told when it is to be removed.
            with contextlib.suppress(OSError):
                if not path.is_symlink():
                    path.chmod(0o700)


def _remove_what_is_left(folder: Path) -> None:
    def note(_: object, path: str, problem: BaseException) -> None:
        if not isinstance(problem, FileNotFoundError):
            _log.warning("%s of an image build cannot be removed: %s", path, problem)

    if sys.version_info >= (3, 12):
        shutil.rmtree(folder, onexc=note)
    else:
        shutil.rmtree(folder, onerror=lambda function, path, found: note(function, path, found[1]))


async def build(command: tuple[str, ...], place: Workplace, dockerfile: str, name: str, log: BuildLog) -> str:
    """Run the builder in its workplace; the image that it names.

    Args:
        command: from `read_command`.
        place: with the context in it.
        dockerfile: its path below the context.
        name: what the image might be called.
        log: gets what the builder prints.

    Raises:
        Invalid: it failed, or named no image.
    """
    environment = builder_environment(os.environ) | {"TMPDIR": str(place.folder / "tmp"), RESULT_VARIABLE: str(place.result)}
    words = [*command, str(place.context), str(place.context / dockerfile), name]
    if code := await _run(words, place, environment, log):
        ended = f"was ended by signal {code - 128}" if code > 128 else f"ended with exit code {code}"
        raise Invalid(f"the builder {ended}.", code="ImageBuildFailed")
    return read_image(await asyncio.to_thread(_result, place))


async def _run(words: list[str], place: Workplace, environment: Mapping[str, str], log: BuildLog) -> int:
    try:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", shim.__file__, str(GRACE_SECONDS), *words),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=dict(environment),
            cwd=place.folder,
            start_new_session=True,
            pass_fds=(place.lock,),
        )
    except OSError as error:
        raise Invalid(f"the builder cannot be started: {error.strerror}. Submit again.", code="ImageBuildFailed") from error
    assert process.stdin is not None and process.stdout is not None
    ended = asyncio.ensure_future(_ended(process, process.stdout, log))
    try:
        return await asyncio.shield(ended)
    except asyncio.CancelledError:
        process.stdin.close()
        while not ended.done():
            # However often this is cancelled: it ends once the builder has, within its grace.
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.shield(ended)
        raise
    finally:
        process.stdin.close()


async def _ended(process: asyncio.subprocess.Process, output: asyncio.StreamReader, log: BuildLog) -> int:
    while data := await output.read(_READ):
        log.add(data)
    return await process.wait()


def _result(place: Workplace) -> str:
    try:
        with place.result.open("rb") as file:
            return file.read(_MOST_RESULT).decode("utf-8", "replace")
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise Invalid(f"the builder's result cannot be read: {error.strerror}.", code="ImageBuildFailed") from error


def explained(label: str, reason: str, log: BuildLog) -> str:
    """Why an image was not built, for people, with the end of the log."""
    shown = tail(log.end)
    return f"The image of environment {label} could not be built: {printable(reason)}" + (f" The end of its log:\n{shown}" if shown else "")
