"""This machine's side of the nodes: bridge, routes, wires, cgroups and the processes that hold the namespaces. `stop` leaves none of it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from moorage.cli.home import Process, started, write_private
from moorage.identity.pki import ensure_authority, ensure_server_certificate
from tests.real.control_plane.certificates import client_certificate, kubeconfig
from tests.real.node_containers import check
from tests.real.node_containers.addresses import BRIDGE, HOST, NODES, RANGE, Node, host_routes
from tests.real.node_containers.binaries import NodeBinaries
from tests.real.node_containers.configuration import Place

ROOT = Path(__file__).parent.parent.parent.parent
_SECONDS = 60
_LOOK_SECONDS = 0.05


class NoNodes(Exception):
    """The nodes cannot be made, or not ended; the message says why."""


@dataclass(frozen=True, slots=True)
class Machine:
    """The nodes of one control plane, whose state folder is `folder`."""

    folder: Path

    @property
    def cgroup(self) -> str:
        return f"moorage-test-{hashlib.sha256(str(self.folder).encode()).hexdigest()[:8]}"

    def keep(self, archives: Iterable[str]) -> list[str]:
        """The image archives under names of our own: the cache forgets them when it has newer ones, and a node that comes back imports them again."""
        folder = self.folder / "images"
        folder.mkdir(exist_ok=True)
        kept = []
        for each in map(Path, archives):
            target = folder / each.name
            if not target.exists():
                try:
                    os.link(each, target)
                except OSError:
                    shutil.copyfile(each, target)  # another file system
            kept.append(str(target))
        return kept

    def ended(self, count: int) -> str:
        """What a node that should run said at its end; empty when all run."""
        found = [node for node in map(Node, range(count)) if self.process(node) is None]
        return f"{found[0].name} ended.\n{self.told(found[0])}" if found else ""

    def taken(self) -> str:
        """Why the addresses are not free for these nodes; empty when they are."""
        if (self.folder / "bridge").exists() or not _ip("link", "show", BRIDGE, check=False):
            return ""
        return f"the bridge {BRIDGE} is there already: another control plane has its nodes on this machine; take it down first"

    def raise_bridge(self, count: int) -> None:
        """The bridge with this machine's address, and the routes. Again after a reboot; refused while another control plane has it."""
        if taken := self.taken():
            raise NoNodes(taken)
        (self.folder / "bridge").touch()
        if not _ip("link", "show", BRIDGE, check=False):
            _ip("link", "add", BRIDGE, "type", "bridge")
            _ip("address", "add", f"{HOST}/{NODES.prefixlen}", "dev", BRIDGE)
            _ip("link", "set", BRIDGE, "up")
        for route in host_routes([Node(number) for number in range(count)]):
            _ip("route", "replace", *route)

    def start(self, node: Node, count: int, url: str, binaries: NodeBinaries, images: Iterable[Path]) -> None:
        """Start a node unless it runs. It registers itself; whoever needs it ready waits for that."""
        if self.process(node) is not None:
            return
        own = self.folder / "nodes" / node.name
        own.mkdir(parents=True, exist_ok=True)
        for each in self._cgroups(node):
            each.mkdir(parents=True, exist_ok=True)
            _furnish_cpuset(each)
        pki = self.folder / "pki"
        authority = ensure_authority(pki)
        ensure_server_certificate(authority, pki, f"kubelet-{node.name}", [node.address])
        client_certificate(authority, pki, node.name, f"system:node:{node.name}", "system:nodes")
        kubeconfig(own / "kubeconfig", url, authority, pki, node.name)
        client_certificate(authority, pki, "kube-proxy", "system:kube-proxy")
        kubeconfig(own / "kube-proxy.kubeconfig", url, authority, pki, "kube-proxy")
        place = Place(own, pki, f"/{self.cgroup}/{node.name}", str(check.plugins()), check.clamped())
        settings = {
            "number": node.number,
            "count": count,
            "place": {**asdict(place), "folder": str(own), "pki": str(pki)},
            "kubeconfig": str(own / "kubeconfig"),
            "proxy_kubeconfig": str(own / "kube-proxy.kubeconfig"),
            "kubelet": binaries.kubelet,
            "proxy": binaries.proxy,
            "images": [str(each) for each in images],
        }
        write_private(own / "node.json", json.dumps(settings))
        words = ["unshare", "--mount", "--pid", "--net", "--uts", "--ipc", "--fork", "--kill-child=SIGKILL", "--mount-proc"]
        words += [sys.executable, "-m", "tests.real.node_containers.node", str(own / "node.json")]
        with self.log(node).open("ab") as log:
            process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd=ROOT,
                env=os.environ | {"PYTHONPATH": str(ROOT)},
            )
        write_private(self.folder / f"{node.name}.pid", json.dumps(asdict(Process(node.name, process.pid, started(process.pid)))))
        # Ours until we end, then init's; nobody waits for it.
        process.returncode = 0
        self._until(lambda: self.first(node) is not None, f"{node.name} does not start", node)
        _ip("link", "add", node.link, "type", "veth", "peer", "name", "eth0", "netns", str(self.first(node)))
        _ip("link", "set", node.link, "master", BRIDGE, "up")

    def stop(self, node: Node) -> None:
        """Kill the node with all its containers, as if its power was cut, and take its cgroups away."""
        process, first = self.process(node), self.first(node)
        if process is not None:
            os.kill(process.pid, signal.SIGKILL)
        for pid in filter(None, (process and process.pid, first)):
            _until(lambda pid=pid: _gone(pid), f"{node.name} does not end")  # type: ignore[misc]
        (self.folder / f"{node.name}.pid").unlink(missing_ok=True)
        for each in self._cgroups(node):
            _until(lambda each=each: _removed(each), f"the cgroup {each} stays")  # type: ignore[misc]

    def stop_all(self) -> None:
        """Every node, the bridge, the routes, the cgroups."""
        names = sorted(path.stem for path in self.folder.glob("node-*.pid"))
        numbers = {int(name.removeprefix("node-")) for name in (*names, *(path.name for path in (self.folder / "nodes").glob("node-*")))}
        for number in sorted(numbers):
            self.stop(Node(number))
        for each in check.hierarchies():
            _until(lambda each=each: _removed(each / self.cgroup), f"the cgroup {self.cgroup} stays")  # type: ignore[misc]
        owner = self.folder / "bridge"
        if owner.exists():
            _ip("link", "del", BRIDGE, check=False)
            _ip("route", "del", "unreachable", str(RANGE), check=False)
            owner.unlink()

    def load(self, node: Node, archive: Path) -> None:
        """Import an image into a running node."""
        words = ["nsenter", "--mount", "--net", "--pid", "--target", str(self.first(node))]
        words += ["ctr", "--address", "/run/containerd/containerd.sock", "-n", "k8s.io", "images", "import", str(archive)]
        done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=600, check=False)
        if done.returncode:
            raise NoNodes(f"{archive} could not be imported into {node.name}: {(done.stdout + done.stderr)[-1000:]}")

    def process(self, node: Node) -> Process | None:
        try:
            found = Process(**json.loads((self.folder / f"{node.name}.pid").read_text()))
        except FileNotFoundError:
            return None
        return found if found.alive else None

    def first(self, node: Node) -> int | None:
        """The node's process 1, by the number it has on this machine."""
        process = self.process(node)
        if process is None:
            return None
        for path in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                if int(path.read_text().rpartition(")")[2].split()[1]) == process.pid:
                    return int(path.parent.name)
        return None

    def log(self, node: Node) -> Path:
        return self.folder / "logs" / f"{node.name}.log"

    def told(self, node: Node) -> str:
        """The ends of its logs, for a message."""
        own = self.folder / "nodes" / node.name
        files = [self.log(node), own / "kubelet.log", own / "containerd.log", own / "kube-proxy.log"]
        return "\n".join(
            f"--- {path.name}\n" + "\n".join(path.read_text(errors="replace").splitlines()[-12:]) for path in files if path.exists()
        )

    def _cgroups(self, node: Node) -> list[Path]:
        return [each / self.cgroup / node.name for each in check.hierarchies()]

    def _until(self, holds: Callable[[], bool], what: str, node: Node) -> None:
        try:
            _until(holds, what)
        except NoNodes as error:
            raise NoNodes(f"{error}\n{self.told(node)}") from error


def _ip(*words: str, check: bool = True) -> bool:
    done = subprocess.run(["ip", *words], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise NoNodes(f"`ip {' '.join(words)}`: {done.stderr.strip()}")
    return done.returncode == 0


def _furnish_cpuset(cgroup: Path) -> None:
    """In cgroup v1 a new cpuset is empty, and nothing can run in it."""
    above = cgroup.parent.parent
    for folder in (cgroup.parent, cgroup):
        for name in ("cpuset.cpus", "cpuset.mems"):
            if (folder / name).exists() and (above / name).exists() and not (folder / name).read_text().strip():
                (folder / name).write_text((above / name).read_text())


def _removed(cgroup: Path) -> bool:
    """Take it and all below it away, as far as nothing runs there any more; whether it is gone."""
    if not cgroup.exists():
        return True
    for folder, _, _ in os.walk(cgroup, topdown=False):
        with contextlib.suppress(OSError):
            Path(folder).rmdir()
    return not cgroup.exists()


def _gone(pid: int) -> bool:
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
    return not Path(f"/proc/{pid}").exists()


def _until(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + _SECONDS
    while not holds():
        if time.monotonic() > deadline:
            raise NoNodes(f"{what} after {_SECONDS} s")
        # They are not our children: nothing wakes us.
        time.sleep(_LOOK_SECONDS)
