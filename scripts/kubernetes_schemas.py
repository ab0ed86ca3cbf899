"""Makes src/moorage/embedded/schemas.json.gz: the OpenAPI schemas of the API groups we serve, as a real API server publishes them, texts included.

    scripts/kubernetes up && python scripts/kubernetes_schemas.py KUBECONFIG

The texts are Kubernetes' API documentation, Apache-2.0 (NOTICE). Run it on the version that embedded/version.py names.
"""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

GROUP_VERSIONS = [
    "v1",
    "apps/v1",
    "batch/v1",
    "discovery.k8s.io/v1",
    "events.k8s.io/v1",
    "coordination.k8s.io/v1",
    "storage.k8s.io/v1",
    "scheduling.k8s.io/v1",
    "rbac.authorization.k8s.io/v1",
    "networking.k8s.io/v1",
    "policy/v1",
    "authentication.k8s.io/v1",
    "authorization.k8s.io/v1",
    "autoscaling/v1",
    "autoscaling/v2",
    "apiextensions.k8s.io/v1",
    "admissionregistration.k8s.io/v1",
    "apiregistration.k8s.io/v1",
    "node.k8s.io/v1",
]
TARGET = Path(__file__).parent.parent / "src/moorage/embedded/schemas.json.gz"


def main() -> None:
    schemas: dict[str, Any] = {}
    for group_version in GROUP_VERSIONS:
        place = f"apis/{group_version}" if "/" in group_version else f"api/{group_version}"
        command = ["kubectl", "--kubeconfig", sys.argv[1], "get", "--raw", f"/openapi/v3/{place}"]
        document = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
        schemas |= document["components"]["schemas"]
    for schema in schemas.values():
        # Each group repeats all others' kinds for what all have in common (DeleteOptions, WatchEvent): most of the text, of no use to anybody.
        if len(schema.get("x-kubernetes-group-version-kind", ())) > 1:
            del schema["x-kubernetes-group-version-kind"]
    text = json.dumps(schemas, sort_keys=True, separators=(",", ":")).encode()
    # No time in it, so that the same input makes the same file.
    TARGET.write_bytes(gzip.compress(text, compresslevel=9, mtime=0))
    print(f"{TARGET.name}: {len(schemas)} schemas, {len(text)} bytes, {TARGET.stat().st_size} compressed")


if __name__ == "__main__":
    main()
