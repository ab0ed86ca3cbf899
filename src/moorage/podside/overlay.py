"""Run by a prepared environment's own Python, from a copy in that environment: makes a folder where the job's `pip install` may write.

The prepared environment is shared and read-only. The folder is an environment above it, which sees its packages and has those that are
installed later in front of them. Only the standard library of Python 3.7 and newer, and nothing of ours: this file travels alone.
"""

import os
import shutil
import sys
import tempfile
from pathlib import Path

PIP = '#!/bin/sh\nexec "${0%/*}/python" -m pip "$@"\n'


def make(below: Path, folder: Path) -> None:
    """Make `folder` an environment above the one in `below`; several processes may do so at the same time."""
    if (folder / "pyvenv.cfg").exists():
        return
    making = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", dir=str(folder.parent)))
    making.chmod(0o755)
    minor = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    packages = Path("lib", minor, "site-packages")
    (making / packages).mkdir(parents=True)
    # As a folder of packages in its own right, so that its own .pth files count.
    (making / packages / "_environment.pth").write_text(f"import site; site.addsitedir({str(below / packages)!r})\n")
    (making / "bin").mkdir()
    for name in ("python", "python3", minor):
        (making / "bin" / name).symlink_to(below / "bin" / os.readlink(str(below / "bin" / "python")))
    for name in ("pip", "pip3"):
        (making / "bin" / name).write_text(PIP)
        (making / "bin" / name).chmod(0o755)
    shutil.copy(str(below / "pyvenv.cfg"), str(making))
    try:
        making.rename(folder)
    except OSError:
        # Another process of the container was faster, and has made the same.
        shutil.rmtree(str(making))
        if not (folder / "pyvenv.cfg").exists():
            raise


if __name__ == "__main__":
    make(Path(__file__).resolve().parent, Path(sys.argv[1]))
