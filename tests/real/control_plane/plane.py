"""Brings the control plane up, tells how it is, takes it down. Its processes are nobody's children: a state folder with pids is all that is kept."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import random
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any, Literal

from moorage.cli.home import Process, started, write_private
from moorage.identity.pki import ensure_authority, ensure_server_certificate
from tests.real.control_plane.binaries import Binaries
from tests.real.control_plane.certificates import client_certificate, kubeconfig, signing_key
from tests.real.control_plane.components import AUDIT_POLICY, HOST, Layout, flags
from tests.real.control_plane.volcano import CONFIGURATION, Volcano
from tests.real.control_plane.volcano import USERS as VOLCANO
from tests.real.control_plane.volcano import flags as volcano_flags
from tests.real.control_plane.volcano import manifests as volcano_manifests
from tests.real.node_containers import addresses
from tests.real.node_containers.addresses import Node
from tests.real.node_containers.join import binaries_of, furnish
from tests.real.node_containers.machine import Machine

# The mark stands in the cluster, since names of contexts are anybody's choice.
MARK = "moorage.dev/test-cluster"
NODES = "nodes"
PODGROUPS = "/apis/scheduling.volcano.sh/v1beta1/podgroups"
DEFAULT_QUEUE = "/apis/scheduling.volcano.sh/v1beta1/queues/default"
# An address range that is nobody's (RFC 2544): EndpointSlices refuse loopback addresses, which pods have on the embedded cluster.
POD_NETWORK = IPv4Network("198.18.0.0/16")
ROOT = Path(__file__).parent.parent.parent.parent
READY_SECONDS = 180
NODE_SECONDS = 240  # images are imported first
GONE_SECONDS = 10
GRACE_SECONDS = 45  # pods have 30
_LOOK_SECONDS = 0.05
# Below the range from which the kernel gives ports to clients, so that a port found free stays so.
_PORTS = (20000, 32000)


class Failed(Exception):
    """A component did not do what it should in time; the message ends with the end of its log."""


def default_folder() -> Path:
    named = os.environ.get("MOORAGE_KUBERNETES_HOME")
    return Path(named) if named else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "moorage-tests" / "kubernetes"


@dataclass(frozen=True, slots=True)
class Plane:
    """A control plane and its state folder."""

    folder: Path

    @property
    def settings(self) -> dict[str, Any] | None:
        """What `up` chose, or None when there is nothing."""
        try:
            return dict(json.loads((self.folder / "plane.json").read_text()))
        except FileNotFoundError:
            return None

    @property
    def layout(self) -> Layout:
        settings = self.settings
        assert settings is not None
        if settings.get("kubelet"):
            return Layout(self.folder, *settings["ports"], host=addresses.HOST, services=str(addresses.SERVICES), reached=True)
        return Layout(self.folder, *settings["ports"])

    @property
    def machine(self) -> Machine:
        """This machine's side of nodes with real containers."""
        return Machine(self.folder)

    def up(
        self,
        minor: str,
        binaries: Callable[[], Binaries],
        *,
        nodes: int | None = None,
        volcano: Volcano | Literal[False] | None = None,
        kubelet: Callable[[], dict[str, Any]] | None = None,
    ) -> dict[str, Any]:
        """Start what does not run, wait until it serves, and return `status()`. After a crash or a reboot the same data is served again.

        Args:
            nodes: how many nodes our own agent makes, 0 for none; None leaves it as it was.
            volcano: its scheduler and controllers as well; False for none; None leaves it as it was.
            kubelet: what the nodes are made of when they have real containers; they cannot be mixed with ours.
        """
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with self._locked():
            settings = self.settings
            if settings is not None and settings["minor"] != minor:
                raise Failed(f"Kubernetes {settings['version']} has its state in {self.folder}; `scripts/kubernetes down` first.")
            if settings is not None and kubelet is not None and not settings.get("kubelet"):
                raise Failed(
                    f"The control plane in {self.folder} is without real containers, which need another network; `scripts/kubernetes down` first."
                )
            if settings is None:
                made_of = kubelet() if kubelet is not None else None
                if made_of is not None:
                    made_of["images"] = self.machine.keep(made_of["images"])
                found = binaries()
                settings = {
                    "minor": minor,
                    "version": found.version,
                    "source": found.source,
                    "ports": _free_ports(3),
                    "commands": {name: list(words) for name, words in found.commands.items()},
                    "kubelet": made_of,
                }
                write_private(self.folder / "plane.json", json.dumps(settings))
            if settings.get("kubelet"):
                self.machine.raise_bridge(nodes if nodes is not None else settings.get("nodes") or 0)
            self._furnish()
            first = ("etcd", "kube-apiserver")
            for name in first:
                self.start(name)
            # The controllers end when the API server is not healthy within ten seconds, which a busy machine needs.
            self._until(lambda: self._answers("/readyz"), READY_SECONDS, "the API server is not ready", "kube-apiserver", needed=first)
            for name in flags(self.layout):
                self.start(name)
            self._wait_ready()
            settings = self._with_volcano(settings, volcano)
            if nodes is not None and nodes != settings.get("nodes"):
                self.stop_nodes()
                write_private(self.folder / "plane.json", json.dumps(settings | {"nodes": nodes}))
            self.start_nodes()
        return self.status()

    def status(self) -> dict[str, Any]:
        """What there is, for people and for `status -o json`."""
        settings = self.settings
        if settings is None:
            return {"running": False, "folder": str(self.folder)}
        agents = [NODES] if settings.get("nodes") else []
        if settings.get("kubelet"):
            agents = [Node(number).name for number in range(settings.get("nodes") or 0)]
        names = [*settings["commands"], *agents]
        processes = {name: self._process(name) for name in names}
        return {
            "running": all(processes.values()),
            "ready": self._answers("/readyz"),
            "minor": settings["minor"],
            "version": settings["version"],
            "source": settings["source"],
            "volcano": settings.get("volcano"),
            "folder": str(self.folder),
            "url": self.layout.url,
            "kubeconfig": str(self.layout.kubeconfig),
            "audit_log": str(self.layout.audit_log),
            "processes": {name: process.pid if process else None for name, process in processes.items()},
        }

    def down(self) -> bool:
        """Stop everything and forget the state; logs stay. False when there was nothing."""
        settings = self.settings
        if settings is None:
            return False
        with self._locked():
            self.stop_nodes()
            unroute()
            for name in reversed(settings["commands"]):
                self.stop(name)
            if settings.get("kubelet"):
                self.machine.stop_all()
            for each in self.folder.iterdir():
                if each.name in ("logs", "lock"):
                    continue
                shutil.rmtree(each) if each.is_dir() else each.unlink()
        return True

    def _with_volcano(self, settings: dict[str, Any], volcano: Volcano | Literal[False] | None) -> dict[str, Any]:
        """Volcano started, with its definitions and rights, or stopped; the settings as they are then."""
        commands = {name: words for name, words in settings["commands"].items() if name not in VOLCANO}
        if volcano is False:
            for name in VOLCANO:
                self.stop(name)
            settings = settings | {"commands": commands, "volcano": None}
        elif volcano is not None:
            for path, manifest in volcano_manifests(volcano):
                body = json.dumps(manifest).encode()
                url = f"{self.layout.url}{path}/{manifest['metadata']['name']}?fieldManager=moorage-test&force=true"
                self._call(url, "admin", body, "PATCH", "application/apply-patch+yaml")
            self._until(lambda: self._answers(PODGROUPS), READY_SECONDS, "Volcano's definitions are not served")
            commands |= {name: list(volcano.commands[name]) for name in VOLCANO}
            settings = settings | {"commands": commands, "volcano": volcano.version}
        write_private(self.folder / "plane.json", json.dumps(settings))
        wanted = [name for name in VOLCANO if name in settings["commands"]]
        for name in wanted:
            self.start(name)
        if wanted:
            self._until(lambda: self._answers(DEFAULT_QUEUE), READY_SECONDS, "Volcano made no queue", "vc-scheduler", needed=wanted)
        return settings

    def start(self, name: str) -> None:
        """Start a component unless it runs."""
        settings = self.settings
        assert settings is not None
        self._spawn(name, [*settings["commands"][name], *(flags(self.layout) | volcano_flags(self.layout))[name]])

    def start_nodes(self) -> None:
        """Start the node agents unless they run or none are wanted, and wait until the nodes are ready."""
        settings = self.settings
        assert settings is not None
        count = settings.get("nodes") or 0
        if count == 0:
            return
        layout = self.layout
        if prepared := settings.get("kubelet"):
            for number in range(count):
                self.machine.start(Node(number), count, layout.url, binaries_of(prepared), map(Path, prepared["images"]))
            furnish(layout.kubeconfig, self.folder / "machine" / "volumes")
            self._until(lambda: self._kubelets_ready(count), NODE_SECONDS, "the nodes are not ready", Node(0).name)
            return
        words = [sys.executable, "-m", "tests.real.nodes", "--count", str(count), "--folder", str(self.folder / "machine")]
        words += ["--kubeconfig", str(layout.kubeconfig), "--server", layout.url, "--pki", str(layout.pki)]
        if routed():
            words += ["--network", str(POD_NETWORK)]
        self._spawn(NODES, words, PYTHONPATH=str(ROOT))
        self._until(lambda: self._ready_nodes() == count, READY_SECONDS, "the nodes are not ready", NODES)

    def stop_nodes(self) -> None:
        """End the node agents and the containers they keep."""
        settings = self.settings or {}
        if settings.get("kubelet"):
            for number in range(settings.get("nodes") or 0):
                self.machine.stop(Node(number))
        process = self._process(NODES)
        if process is not None:
            os.kill(process.pid, signal.SIGTERM)
            self._until(lambda: _gone(process), GRACE_SECONDS, "the containers do not end", NODES)
        (self.folder / f"{NODES}.pid").unlink(missing_ok=True)

    def _spawn(self, name: str, words: list[str], **environment: str) -> None:
        if self._process(name) is not None:
            return
        with self._log(name).open("ab") as log:
            process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd=self.folder,
                env=os.environ | environment,
            )
        write_private(self.folder / f"{name}.pid", json.dumps(asdict(Process(name, process.pid, started(process.pid)))))
        # Ours until we end, then init's; nobody waits for it.
        process.returncode = 0

    def _kubelets_ready(self, count: int) -> bool:
        if ended := self.machine.ended(count):
            raise Failed(ended)
        return self._ready_nodes() == count

    def _ready_nodes(self) -> int:
        nodes = json.loads(self._call(self.layout.url + "/api/v1/nodes", "admin"))["items"]
        kept = [node["status"] for node in nodes if (node["status"].get("daemonEndpoints") or {}).get("kubeletEndpoint", {}).get("Port")]
        return sum(each["type"] == "Ready" and each["status"] == "True" for status in kept for each in status.get("conditions") or ())

    def stop(self, name: str) -> None:
        """End a component at once: with open watches a request to end takes the API server and etcd ten seconds."""
        process = self._process(name)
        if process is not None:
            os.kill(process.pid, signal.SIGKILL)
            self._until(lambda: _gone(process), GONE_SECONDS, f"{name} does not end", name)
        (self.folder / f"{name}.pid").unlink(missing_ok=True)

    def restart(self, name: str) -> None:
        """A component killed and started anew, and everything ready again."""
        self.stop(name)
        self.start(name)
        self._wait_ready()

    def compact(self) -> None:
        """Forget the past: etcd's, and by a restart that of the API server's watch cache."""
        now = int(self._etcd("/v3/kv/range", {"key": "Lw=="})["header"]["revision"])
        self._etcd("/v3/kv/compaction", {"revision": now, "physical": True})
        self.restart("kube-apiserver")

    def _furnish(self) -> None:
        """Certificates, keys and kubeconfigs, made once."""
        layout = self.layout
        pki = layout.pki
        (self.folder / "logs").mkdir(exist_ok=True)
        authority = ensure_authority(pki)
        ensure_server_certificate(authority, pki, "etcd", [HOST])
        names = [HOST, "localhost", "kubernetes.default.svc", "kubernetes.default", "kubernetes"]
        if layout.reached:
            names += [layout.host, str(addresses.SERVICES[1])]
        ensure_server_certificate(authority, pki, "apiserver", names)
        ensure_server_certificate(authority, pki, "kubelet", [HOST])
        signing_key(pki / "service-accounts.key")
        client_certificate(authority, pki, "etcd-client", "kube-apiserver")
        client_certificate(authority, pki, "kubelet-client", "kube-apiserver-kubelet-client", "system:masters")
        users = {
            "kubeconfig": ("admin", "moorage-test-admin", "system:masters"),
            "controller-manager.kubeconfig": ("controller-manager", "system:kube-controller-manager", None),
            "scheduler.kubeconfig": ("scheduler", "system:kube-scheduler", None),
            **{f"{name}.kubeconfig": (name, user, None) for name, user in VOLCANO.items()},
        }
        for file, (certificate, user, group) in users.items():
            client_certificate(authority, pki, certificate, user, group)
            kubeconfig(self.folder / file, layout.url, authority, pki, certificate)
        (self.folder / "audit-policy.yaml").write_text(AUDIT_POLICY)
        # In one step: a scheduler that runs reads it whenever it changes.
        write_private(self.folder / "volcano-scheduler.yaml", CONFIGURATION)

    def _wait_ready(self) -> None:
        """Until the API is ready and the controllers have made the `default` ServiceAccount, without which no pod is accepted."""
        account = "/api/v1/namespaces/default/serviceaccounts/default"
        self._until(lambda: self._answers("/readyz") and self._answers(account), READY_SECONDS, "the control plane is not ready")
        mark = json.dumps({"metadata": {"labels": {MARK: "true"}}}).encode()
        self._call(self.layout.url + "/api/v1/namespaces/default", "admin", mark, "PATCH")

    def _until(self, holds: Callable[[], bool], seconds: float, what: str, name: str | None = None, *, needed: Iterable[str] = ()) -> None:
        """Wait; `name` is whose log explains a failure, and the end of a `needed` one is a failure. Without a name all of the control plane is."""
        deadline = time.monotonic() + seconds
        while not holds():
            watched = flags(self.layout) if name is None else needed
            ended = [each for each in watched if self._process(each) is None]
            if ended:
                raise Failed(f"{ended[0]} ended. The end of {self._log(ended[0])}:\n{self._tail(ended[0])}")
            if time.monotonic() > deadline:
                blamed = name or "kube-apiserver"
                raise Failed(f"{what} after {seconds:g} s. The end of {self._log(blamed)}:\n{self._tail(blamed)}")
            # They are not our children: nothing wakes us.
            time.sleep(_LOOK_SECONDS)

    def _answers(self, path: str) -> bool:
        try:
            self._call(self.layout.url + path, "admin")
        except (urllib.error.URLError, OSError):
            return False
        return True

    def _etcd(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        answer = self._call(self.layout.etcd_url + path, "etcd-client", json.dumps(body).encode(), "POST")
        return dict(json.loads(answer))

    def _call(
        self, url: str, certificate: str, body: bytes | None = None, method: str = "GET", type: str = "application/merge-patch+json"
    ) -> bytes:
        pki = self.layout.pki
        context = ssl.create_default_context(cafile=str(pki / "ca.pem"))
        context.load_cert_chain(pki / f"{certificate}.pem", pki / f"{certificate}.key")
        headers = {"Content-Type": type if method == "PATCH" else "application/json"}
        request = urllib.request.Request(url, data=body, headers=headers, method=method)
        with urllib.request.urlopen(request, timeout=5, context=context) as answer:
            return bytes(answer.read())

    def _process(self, name: str) -> Process | None:
        try:
            found = Process(**json.loads((self.folder / f"{name}.pid").read_text()))
        except FileNotFoundError:
            return None
        return found if found.alive else None

    def _log(self, name: str) -> Path:
        return self.folder / "logs" / f"{name}.log"

    def _tail(self, name: str) -> str:
        return "\n".join(self._log(name).read_text(errors="replace").splitlines()[-15:])

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with (self.folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _gone(process: Process) -> bool:
    """Whether nothing of it is left: a killed process whose threads still end counts as dead and yet holds its ports."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(process.pid, os.WNOHANG)
    return not Path(f"/proc/{process.pid}").exists() or (not process.alive and started(process.pid) != "")


def routed() -> bool:
    """Whether this machine answers on every address of the pod network, which `local` routes do; made where we may."""
    with socket.socket() as probe:
        try:
            probe.bind((str(POD_NETWORK[1]), 0))
        except OSError:
            made = subprocess.run(
                ["ip", "route", "add", "local", str(POD_NETWORK), "dev", "lo"],
                stderr=subprocess.DEVNULL,
                stdin=subprocess.DEVNULL,
                check=False,
            )
            return made.returncode == 0
    return True


def unroute() -> None:
    """Take the route away again, unless the nodes of another control plane on this machine live on it."""
    mine = (b"tests.real.nodes", str(POD_NETWORK).encode())
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue  # it has just ended
        if all(each in words for each in mine):
            return
    subprocess.run(["ip", "route", "del", "local", str(POD_NETWORK), "dev", "lo"], stderr=subprocess.DEVNULL, check=False)


def _free_ports(count: int) -> list[int]:
    found: list[int] = []
    while len(found) < count:
        port = random.randrange(*_PORTS)
        with socket.socket() as probe:
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
        if port not in found:
            found.append(port)
    return found
