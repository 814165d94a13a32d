"""The helpers beside the tests are imported by name, wherever pytest was started and with any import mode."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
