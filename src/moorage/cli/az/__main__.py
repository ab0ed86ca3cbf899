"""What the `az` executable runs."""

import sys

from moorage.cli.az.main import main

sys.exit(main())
