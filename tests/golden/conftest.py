"""Lets the adapters import `golden_case` and `golden_rule`, which lie beside this file."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
