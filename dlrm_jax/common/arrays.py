"""Types and functions of arrays that every part of the package needs."""

from typing import Any

import numpy as np

ArrayLike = Any  # numpy from disk, jax on the device, abstract shapes while compiling


def softplus(x: np.ndarray) -> np.ndarray:
  return np.logaddexp(0.0, x)


def sigmoid(x: np.ndarray) -> np.ndarray:
  return np.exp(-softplus(-x))
