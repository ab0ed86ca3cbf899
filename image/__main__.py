"""`scripts/image`: build the component image without a container engine."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from image.build import Built, NotBuilt, build_component, missing
from moorage import __version__


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/image", description="The component image, made without a container engine.")
    commands = parser.add_subparsers(dest="action", required=True)
    build = commands.add_parser("build", help="make an OCI image archive from Debian packages and this work tree")
    build.add_argument("--output", type=Path, default=Path(f"dist/moorage-component-{__version__}.tar"), metavar="FILE.tar")
    build.add_argument("--debian", default="bookworm", metavar="SUITE")
    build.add_argument("--no-compress", action="store_true", help="layers as plain tar: larger, and imported faster")
    commands.add_parser("check", help="say what is missing for building; ends with 1 when something is")
    options = parser.parse_args()
    try:
        match options.action:
            case "check":
                for each in missing():
                    print(each)
                return 1 if missing() else 0
            case _:
                show(build_component(options.output, suite=options.debian, compress=not options.no_compress))
    except NotBuilt as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def show(built: Built) -> None:
    """Sizes per layer, in the units of the documentation."""
    for layer in built.layers:
        print(f"{layer.size / 1e6:8.1f} MB  {layer.unpacked / 1e6:8.1f} MB unpacked  {layer.title}")
    print(
        f"{sum(each.size for each in built.layers) / 1e6:8.1f} MB  {sum(each.unpacked for each in built.layers) / 1e6:8.1f} MB unpacked  {built.reference}"
    )
    print(f"{built.path}  {built.digest}")


if __name__ == "__main__":
    sys.exit(main())
