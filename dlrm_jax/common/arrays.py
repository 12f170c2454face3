"""The type of any array, and functions of numpy arrays that several packages use."""

from typing import Any

import numpy as np

ArrayLike = Any  # a numpy array from disk, a jax array on the device, or an abstract shape during compilation


def softplus(x: np.ndarray) -> np.ndarray:
  """log(1 + exp(x)), without overflow."""
  return np.logaddexp(0.0, x)


def sigmoid(x: np.ndarray) -> np.ndarray:
  """1 / (1 + exp(-x)), without overflow."""
  return np.exp(-softplus(-x))
