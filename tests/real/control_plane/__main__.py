"""`scripts/kubernetes`: the command line of the test control plane."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from tests.real.control_plane import volcano
from tests.real.control_plane.binaries import COMPONENTS, Broken, NoBinaries, find, minors
from tests.real.control_plane.plane import Failed, Plane, default_folder
from tests.real.control_plane.volcano import Volcano
from tests.real.node_containers.join import prepare
from tests.real.node_containers.machine import NoNodes


def main() -> int:
    options = _parser().parse_args()
    plane = Plane(default_folder().absolute())
    try:
        match options.command:
            case "up":
                chosen = False if options.no_volcano else _volcano(options.volcano)
                kubelet = (lambda: prepare(options.minor, options.kubelet_binaries)) if options.kubelet else None
                nodes = 1 if options.kubelet and options.nodes is None else options.nodes
                found = lambda: find(options.minor, options.binaries)  # noqa: E731
                status = plane.up(options.minor, found, nodes=nodes, volcano=chosen, kubelet=kubelet)
                _show(status, options.output)
            case "status":
                status = plane.status()
                _show(status, options.output)
                return 0 if status["running"] else 3
            case "down":
                print("stopped" if plane.down() else "there was nothing to stop")
            case "build":
                print(find(options.minor).source)
                if not options.no_volcano and (made := _volcano()):
                    print(made.definitions.parent)
            case "restart":
                if plane.settings is None:
                    raise Failed("Nothing runs; `scripts/kubernetes up` first.")
                plane.restart(options.component)
    except (Failed, NoBinaries, Broken, NoNodes) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _volcano(folder: Path | None = None) -> Volcano | None:
    """Volcano, or None, with a word why, when there is none and none can be built: only gangs need it. One that was named must be there."""
    try:
        return volcano.find(folder)
    except (NoBinaries, Broken) as error:
        if folder or volcano.given():
            raise
        print(f"Without Volcano: {error}", file=sys.stderr, flush=True)
        return None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="scripts/kubernetes", description="A real Kubernetes control plane on loopback, for tests.")
    commands = parser.add_subparsers(dest="command", required=True)
    default = os.environ.get("MOORAGE_KUBERNETES_MINOR") or minors()[0]
    for name, text in (
        ("up", "start it, building the binaries first when there are none"),
        ("status", "how it is; ends with 3 when it does not run"),
        ("down", "stop it and remove its state; logs stay"),
        ("build", "build the binaries only"),
        ("restart", "kill one component and start it again"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        if name in ("up", "build"):
            command.add_argument("--minor", default=default, choices=minors(), help=f"Kubernetes minor version (default {default})")
        if name == "up":
            command.add_argument("--binaries", type=Path, help=f"a folder with {', '.join(COMPONENTS)}")
            scheduling = command.add_mutually_exclusive_group()
            scheduling.add_argument(
                "--volcano",
                type=Path,
                help=f"a folder with {', '.join(volcano.COMPONENTS)} and crd/*.yaml (default ${volcano.GIVEN}, else built once)",
            )
            scheduling.add_argument("--no-volcano", action="store_true", help="without Volcano, and stop it where it runs")
            command.add_argument("--nodes", type=int, metavar="N", help="nodes of our own agent, on which pods really run (default: none)")
            command.add_argument(
                "--kubelet", action="store_true", help="nodes with kubelet and real containers instead (default: one); needs root"
            )
            command.add_argument("--kubelet-binaries", type=Path, metavar="FOLDER", help="a folder with kubelet, kube-proxy and pause")
        if name in ("up", "status"):
            command.add_argument("-o", "--output", choices=("text", "json"), default="text")
        if name == "build":
            command.add_argument("--no-volcano", action="store_true", help="Kubernetes only")
        if name == "restart":
            command.add_argument("component", choices=(*COMPONENTS, *volcano.COMPONENTS))
    return parser


def _show(status: dict[str, Any], output: str) -> None:
    if output == "json":
        print(json.dumps(status, indent=2))
        return
    if "kubeconfig" not in status:
        print(f"nothing runs (state would be in {status['folder']})")
        return
    for name, pid in status["processes"].items():
        print(f"{name:24} {'process ' + str(pid) if pid else 'not running'}")
    print(f"{'Kubernetes':24} {status['version']}, {'ready' if status['ready'] else 'not ready'}, {status['url']}")
    print(f"{'Volcano':24} {status['volcano'] or 'none'}")
    print(f"{'audit log':24} {status['audit_log']}")
    print(f"export KUBECONFIG={status['kubeconfig']}")


if __name__ == "__main__":
    sys.exit(main())
