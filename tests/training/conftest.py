"""Makes importable the made-up windows of tests/model, and what the tests of this folder share."""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent / "model")]
