"""Write the default roles and bindings of Kubernetes, as a real API server makes them, to src/moorage/embedded/policy.json.

scripts/kubernetes up, then: .venv/bin/python scripts/kubernetes_roles.py KUBECONFIG
Run it when the Kubernetes version that the embedded cluster names changes.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

_OUT = Path(__file__).parent.parent / "src" / "moorage" / "embedded" / "policy.json"
_KUBECTL = Path(__file__).parent.parent / ".venv" / "bin" / "kubectl"
_MARK = "kubernetes.io/bootstrapping=rbac-defaults"


def main() -> None:
    found: list[dict[str, Any]] = []
    for plural in ("clusterroles", "clusterrolebindings", "roles", "rolebindings"):
        words = [str(_KUBECTL), f"--kubeconfig={sys.argv[1]}", "get", plural, "--all-namespaces", "-l", _MARK, "-o", "json"]
        found += [_kept(item) for item in json.loads(subprocess.run(words, check=True, stdout=subprocess.PIPE).stdout)["items"]]
    lines = (json.dumps(item, separators=(",", ":"), ensure_ascii=False) for item in found)
    _OUT.write_text("[\n" + ",\n".join(lines) + "\n]\n")


def _kept(item: dict[str, Any]) -> dict[str, Any]:
    """The object without what a server adds to it."""
    metadata = {name: item["metadata"][name] for name in ("name", "namespace", "labels", "annotations") if name in item["metadata"]}
    return {**{name: value for name, value in item.items() if name != "apiVersion"}, "metadata": metadata}


if __name__ == "__main__":
    main()
