"""``python -m equilip`` is the command ``equilip``."""

import sys

from equilip.cli import main

sys.exit(main())
