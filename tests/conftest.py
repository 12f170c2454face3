"""Shared by all tests: CPU only, full matrix precision where results are compared."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
