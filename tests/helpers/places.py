"""Where tests find files."""

from pathlib import Path

HELPERS = Path(__file__).parent
ROOT = HELPERS.parents[1]  # of the checkout
REAL = ROOT.parent / "shared" / "data"  # real logs, beside the checkout where there are any
