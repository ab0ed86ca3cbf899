"""`python -u FOLDER/moorage_scoring`: prepares imports, then serves. The user's own packages come first, always."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path


def main() -> int:
    here = Path(__file__).resolve().parent
    # Running a folder puts it first on sys.path, where its modules would hide the user's of the same name.
    borrow = importlib.import_module("borrow")
    sys.path.remove(str(here))
    del sys.modules["borrow"]
    sys.meta_path.append(borrow.Borrowed(here.parent))
    server = importlib.import_module("moorage_scoring.server")
    code: int = server.serve()
    return code


if __name__ == "__main__":
    sys.exit(main())
