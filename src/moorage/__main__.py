"""`python -m moorage`, the same as `moorage`."""

import sys

from moorage.cli.main import main

sys.exit(main())
