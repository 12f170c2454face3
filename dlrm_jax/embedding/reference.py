"""The dense oracle of the engine, for tests: whole-table gradients, float64 numpy, one row at a time."""

import numpy as np

EPS = 1e-8


def dense_update(
  rows_vd: np.ndarray, squares: np.ndarray | None, optimizer: str, row_n: np.ndarray, grad_nd: np.ndarray, lr: float
) -> tuple[np.ndarray, np.ndarray | None]:
  """(rows, squares) after one step; gradients of equal rows are summed first."""
  total_vd = np.zeros(rows_vd.shape, np.float64)
  for row, grad in zip(row_n, grad_nd, strict=True):
    total_vd[row] += grad
  if optimizer == "sgd":
    return rows_vd - lr * total_vd, None
  assert squares is not None
  if optimizer == "adagrad":
    squares = squares + total_vd**2
    return rows_vd - lr * total_vd / (np.sqrt(squares) + EPS), squares
  squares = squares + (total_vd**2).mean(axis=1)
  return rows_vd - lr * total_vd / (np.sqrt(squares)[:, None] + EPS), squares
