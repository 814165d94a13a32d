"""Lets test files import the helpers beside them, whatever folder pytest is called from."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
