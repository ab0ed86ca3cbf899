"""Process 1 of a node, in namespaces of its own: hides what is the machine's, waits for its wire, and keeps containerd, kubelet and kube-proxy.

When one of them ends, so does the node; when this process is killed, the kernel ends all of them and every container.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.real.node_containers.addresses import NODES, Node, node_routes
from tests.real.node_containers.configuration import SOCKET, Place, containerd, kubelet, network, proxy

_WAIT_SECONDS = 60
_LOOK_SECONDS = 0.05
# What the kubelet sets, each for the whole machine: it finds files of the node's own instead.
_SYSCTLS = (
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
)


def main() -> int:
    settings = json.loads(Path(sys.argv[1]).read_text())
    node = Node(settings["number"])
    place = Place(**{**settings["place"], "folder": Path(settings["place"]["folder"]), "pki": Path(settings["place"]["pki"])})
    socket.sethostname(node.name)
    _hide(place)
    _wire(node, settings["count"])
    files = {
        "containerd.toml": containerd(place),
        "kubelet.json": kubelet(node, place),
        "proxy.json": proxy(node, Path(settings["proxy_kubeconfig"])),
    }
    for name, content in files.items():
        (place.folder / name).write_text(content)
    Path("/run/cni").mkdir()
    Path("/run/cni/10-moorage-test.conflist").write_text(network(node))
    running = {_start(place, "containerd", ["containerd", "--config", str(place.folder / "containerd.toml")]): "containerd"}
    _until(lambda: _answers(), "containerd does not answer")
    for archive in settings["images"]:
        subprocess.run(["ctr", "--address", SOCKET, "-n", "k8s.io", "images", "import", archive], check=True, stdin=subprocess.DEVNULL)
    words = [
        *settings["kubelet"],
        f"--config={place.folder / 'kubelet.json'}",
        f"--kubeconfig={settings['kubeconfig']}",
        "--root-dir=/var/lib/kubelet",
    ]
    running[_start(place, "kubelet", [*words, f"--hostname-override={node.name}", f"--node-ip={node.address}"])] = "kubelet"
    running[_start(place, "kube-proxy", [*settings["proxy"], f"--config={place.folder / 'proxy.json'}"])] = "kube-proxy"
    return _keep(running)


def _hide(place: Place) -> None:
    """Places of the machine that the components write to become the node's own."""
    for path in ("/run", "/var/lib", "/var/log"):
        _mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", path)
    kept = place.folder / "kubelet"
    kept.mkdir(exist_ok=True)
    Path("/var/lib/kubelet").mkdir()
    _mount("--bind", str(kept), "/var/lib/kubelet")
    own = Path("/run/sysctls")
    for name in _SYSCTLS:
        path = Path("/proc/sys") / name
        if path.exists():
            copy = own / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_text(path.read_text())
            _mount("--bind", str(copy), str(path))


def _wire(node: Node, count: int) -> None:
    """The link that the machine gives us, with addresses and routes; forwarding is on in this network namespace only."""
    _until(lambda: any(name == "eth0" for _, name in socket.if_nameindex()), "the machine connects no wire")
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    for words in (
        ["link", "set", "lo", "up"],
        ["address", "add", f"{node.address}/{NODES.prefixlen}", "dev", "eth0"],
        ["link", "set", "eth0", "up"],
        *(["route", "add", *route] for route in node_routes(node, count)),
    ):
        subprocess.run(["ip", *words], check=True, stdin=subprocess.DEVNULL)


def _start(place: Place, name: str, words: list[str]) -> int:
    with (place.folder / f"{name}.log").open("ab") as log:
        return subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/").pid


def _keep(running: dict[int, str]) -> int:
    """Take in whatever ends, until one of ours does."""
    while True:
        pid, status = os.wait()
        if name := running.get(pid):
            print(f"{name} ended with {os.waitstatus_to_exitcode(status)}", flush=True)
            return 1


def _answers() -> bool:
    words = ["ctr", "--address", SOCKET, "--timeout", "2s", "version"]
    return (
        subprocess.run(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False).returncode == 0
    )


def _mount(*words: str) -> None:
    subprocess.run(["mount", *words], check=True, stdin=subprocess.DEVNULL)


def _until(holds: Any, what: str) -> None:
    deadline = time.monotonic() + _WAIT_SECONDS
    while not holds():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} after {_WAIT_SECONDS} s")
        # Neither a wire nor containerd says when it is there.
        time.sleep(_LOOK_SECONDS)


if __name__ == "__main__":
    # Found before /run and /var are hidden, as some machines keep programs there.
    assert shutil.which("containerd"), "containerd"
    sys.exit(main())
