"""`python -IBu FOLDER/moorage_mpi run|rsh ...`: one instance of an MPI job, or the remote shell that `mpirun` calls."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path


def main() -> int:
    # Running a folder puts the folder itself first on sys.path, where its modules would hide those of the standard library.
    here = Path(__file__).resolve().parent
    sys.path[0] = str(here.parent)
    command = importlib.import_module(f"{here.name}.command")
    code: int = command.main(sys.argv[1:])
    return code


if __name__ == "__main__":
    sys.exit(main())
