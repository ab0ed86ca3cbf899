"""Blobs: 1 GiB and 10,000 small files through the command line's client, up and down, against `cp` of the same files on the same disk in the same run.

The service is a process of its own with TLS, as `moorage up` runs it; the client is the one that sends code and data. `cp` comes before and after each
figure, and the ratio is to the mean of the two, so that a machine that got busier meanwhile shows in both. `cp` writes to memory and leaves the disk to
the system; the second ratio is to a copy that is on the disk when it is counted (`sync -f`).
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path

import processes
from table import Row

HERE = Path(__file__).parent
LARGE = 1 << 30
SMALL, SMALL_SIZE = 10_000, 4096
PER_FOLDER = 100


def measure() -> Iterator[Row]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="moorage-bench-", dir="/var/tmp")))
        _fill(folder)
        # Whatever was written for the benchmark itself must not be what it measures.
        os.sync()
        service = subprocess.Popen(
            processes.python(str(HERE / "blobs.py"), "--serve"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"MOORAGE_HOME": str(folder / "home")},
        )
        stack.callback(service.wait)
        stack.callback(service.kill)
        assert service.stdout is not None and service.stdin is not None
        stack.enter_context(service.stdout)
        stack.enter_context(service.stdin)
        words = service.stdout.readline().split()
        if len(words) != 3:
            raise SystemExit("the service did not start")
        yield from _of("1 GiB in one file", service.pid, folder, "large", words, LARGE, 1)
        yield from _of(f"{SMALL:,} files of 4 KiB", service.pid, folder, "small", words, SMALL * SMALL_SIZE, SMALL)
        peak = re.search(r"VmHWM:\s*(\d+)", (processes.PROC / str(service.pid) / "status").read_text())
        yield "the service's memory at its highest", f"{int(peak[1]) / 1024:8.0f} MiB" if peak else "unknown"


def _of(title: str, pid: int, folder: Path, name: str, words: list[str], size: int, files: int) -> Iterator[Row]:
    def copy() -> tuple[float, float]:
        """Seconds of `cp`, and until it is on the disk."""
        target = folder / "copy"
        took = _timed(lambda: subprocess.run(["cp", "-r", folder / name, target], check=True))
        kept = took + _timed(lambda: subprocess.run(["sync", "-f", target], check=True))
        shutil.rmtree(target)
        return took, kept

    def transfer(way: str) -> Callable[[], object]:
        target = ["--transfer", way, str(folder / name), str(folder / "fetched"), *words]
        return lambda: subprocess.run(processes.python(str(HERE / "blobs.py"), *target), check=True)

    before = copy()
    spent = processes.cpu([pid])
    up = _timed(transfer("up"))
    spent = processes.cpu([pid]) - spent
    between = copy()
    down = _timed(transfer("down"))
    after = copy()
    if files == 1:
        subprocess.run(["cmp", folder / name / "0", folder / "fetched" / "0"], check=True)
    shutil.rmtree(folder / "fetched")
    means = [sum(each) / 3 for each in zip(before, between, after, strict=True)]
    yield f"{title}: cp, and with sync", f"{means[0]:8.2f} s, {means[1]:.2f} s"
    for way, took, first, second in (("up", up, before, between), ("down", down, between, after)):
        rate = f"{size / took / 1e6:.0f} MB/s" if files == 1 else f"{files / took:.0f} a second"
        times = [2 * took / (one + other) for one, other in zip(first, second, strict=True)]
        yield f"{title}: {way}", f"{took:8.2f} s, {rate}, {times[0]:.1f} times cp, {times[1]:.1f} times cp with sync"
    each = f"{spent:.2f} s" if files == 1 else f"{spent / files * 1000:.2f} ms a file"
    yield f"{title}: up, CPU of the service", f"{each:>8}"


def _fill(folder: Path) -> None:
    block = os.urandom(1 << 20)
    (folder / "large").mkdir()
    with (folder / "large" / "0").open("wb") as file:
        for number in range(LARGE >> 20):
            file.write(number.to_bytes(8, "big") + block[8:])
    for number in range(SMALL):
        path = folder / "small" / str(number // PER_FOLDER) / str(number)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(number.to_bytes(8, "big") * (SMALL_SIZE // 8))


def _timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _transfer(way: str, source: Path, target: Path, url: str, signature: str, ca: str) -> None:
    from moorage.client.blobs import Container
    from moorage.client.snapshot import File

    with Container(url, signature, ca=ca) as container:
        if way == "up":
            found = sorted(path for path in source.rglob("*") if path.is_file())
            container.upload([File(path.relative_to(source).as_posix(), path, path.stat().st_size) for path in found], source.name)
        else:
            container.download(list(container.listing(f"{source.name}/")), f"{source.name}/", target)


async def _serve() -> None:
    """The service as `moorage up` runs it; prints a container's URL, a signed link and the authority's file, and ends with whoever started it."""
    from moorage.identity.pki import ensure_authority, ensure_server_certificate
    from moorage.server.containers import blob_container
    from moorage.server.serve import serve
    from moorage.server.services import open_services
    from moorage.server.settings import Settings

    home = Path(os.environ["MOORAGE_HOME"])
    certificate = ensure_server_certificate(ensure_authority(home / "pki"), home / "pki", "server", ["127.0.0.1", "localhost"])
    settings = Settings(home=home, host="127.0.0.1", port=0, tls_certificate=certificate.certificate_path, tls_key=certificate.key_path)
    async with open_services(settings) as services:
        container = blob_container(settings.default_workspace)
        link = services.links.container(container, "rlw", timedelta(hours=1))
    authority = home / "pki" / "ca.pem"
    task = asyncio.create_task(
        serve(settings, lambda host, port: print(f"https://{host}:{port}/blobstore/{container}", link, authority, flush=True))
    )
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    task.cancel()


if __name__ == "__main__":
    if "--serve" in sys.argv[1:]:
        import uvloop

        uvloop.run(_serve())
    elif "--transfer" in sys.argv[1:]:
        way, source, target, *words = sys.argv[2:]
        _transfer(way, Path(source), Path(target), *words)
    else:
        for row in measure():
            print(*row, sep="  ")
