"""What the tests of programs for absent machines share."""

import importlib.util

import pytest

NO_GPU_COMPILER = pytest.mark.skipif(importlib.util.find_spec("jax_cuda13_plugin") is None, reason="jax's CUDA plugin is not installed")
