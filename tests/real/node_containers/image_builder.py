"""An image builder for the nodes of tests: a Dockerfile of `FROM` and `COPY` becomes an image that every node has. It stands where a registry would.

The workspace service runs it as `python -m tests.real.node_containers.image_builder MACHINE NODES BASE ARCHIVE CONTEXT DOCKERFILE NAME`; of that, the last
three are the service's own.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path

from image.facts import Facts
from image.oci import ARCHITECTURES, Layer, archive, split

from tests.real.node_containers.addresses import Node
from tests.real.node_containers.machine import Machine

REGISTRY = "example.test"


def main(words: Sequence[str]) -> int:
    machine, nodes, base, base_archive, context, dockerfile, name = words
    folder = Path(os.environ["TMPDIR"])
    image = f"{REGISTRY}/{name}"
    with tarfile.open(folder / "tree", "w") as tree:
        for line in Path(dockerfile).read_text().splitlines():
            print(f"STEP {line}", flush=True)
            match line.split():
                case ["FROM", given] if given == base:
                    pass
                case ["COPY", "--chmod=755", source, target]:
                    entry = tree.gettarinfo(Path(context) / source, target.lstrip("/"))
                    entry.mode, entry.uid, entry.gid = 0o755, 0, 0
                    with (Path(context) / source).open("rb") as content:
                        tree.addfile(entry, content)
                case _:
                    print(f"this builder knows FROM {base} and COPY --chmod=755 FILE PATH only")
                    return 1
    facts, layers = _read(Path(base_archive), folder)
    own = split(folder / "tree", ["context"], lambda _: 0, folder, epoch=0, compress=False)
    archive(folder / "image.tar", facts, image, [*layers, *own], architecture=ARCHITECTURES[platform.machine()], epoch=0)
    for number in range(int(nodes)):
        Machine(Path(machine)).load(Node(number), folder / "image.tar")
        print(f"node {number} has {image}", flush=True)
    Path(os.environ["MOORAGE_IMAGE_FILE"]).write_text(f"{image}\n")
    return 0


def _read(path: Path, folder: Path) -> tuple[Facts, list[Layer]]:
    """What an image archive of ours says of itself, and its layers in files."""
    with tarfile.open(path) as source:

        def load(name: str) -> bytes:
            file = source.extractfile(name)
            assert file is not None, name
            return file.read()

        [entry] = json.loads(load("manifest.json"))
        config = json.loads(load(entry["Config"]))
        layers = []
        for number, (blob, diff_id) in enumerate(zip(entry["Layers"], config["rootfs"]["diff_ids"], strict=True)):
            file = folder / f"base-{number}.tar"
            file.write_bytes(load(blob))
            digest = blob.removeprefix("blobs/").replace("/", ":")
            layers.append(Layer(f"base {number}", file, digest, diff_id, file.stat().st_size, 0, compressed=digest != diff_id))
    environment = dict(each.split("=", 1) for each in config["config"].get("Env", []))
    return Facts("", "", (), environment=environment), layers


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
