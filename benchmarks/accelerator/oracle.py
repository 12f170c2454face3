"""The dense oracle of the engine: gradients of whole tables in float64 numpy, one lookup at a time."""

import numpy as np

EPS, FIRST, SECOND = 1e-8, 0.9, 0.999


def pooled(rows_vd: np.ndarray, row_bl: np.ndarray, weight_bl: np.ndarray, lengths: tuple[int, ...]) -> np.ndarray:
  """Weighted sums over bags, [B, F, D]."""
  out = np.zeros((len(row_bl), len(lengths), rows_vd.shape[1]))
  feature_l = np.repeat(np.arange(len(lengths)), lengths)
  for b, l in np.ndindex(*row_bl.shape):
    out[b, feature_l[l]] += weight_bl[b, l] * rows_vd[row_bl[b, l]]
  return out


def total_gradient(
  num_rows: int, row_bl: np.ndarray, valid_bl: np.ndarray, weight_bl: np.ndarray, grad_bfd: np.ndarray, lengths: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
  """(gradient of the whole table [V, D], rows that were touched [V])."""
  total_vd, touched_v = np.zeros((num_rows, grad_bfd.shape[2])), np.zeros(num_rows, bool)
  feature_l = np.repeat(np.arange(len(lengths)), lengths)
  for b, l in np.argwhere(valid_bl):
    total_vd[row_bl[b, l]] += weight_bl[b, l] * grad_bfd[b, feature_l[l]].astype(np.float64)
    touched_v[row_bl[b, l]] = True
  return total_vd, touched_v


def dense_update(
  rows_vd: np.ndarray,
  slots: dict[str, np.ndarray],
  optimizer: str,
  total_vd: np.ndarray,
  touched_v: np.ndarray,
  lr: float,
  weight_decay: float = 0.0,
  step: int = 0,
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
  """(rows, slots) after one step from whole-table gradients; only touched rows move."""
  new = dict(slots)
  if optimizer == "sgd":
    direction_vd = total_vd
  elif optimizer == "adagrad":
    new["squares"] = slots["squares"] + total_vd**2
    direction_vd = total_vd / (np.sqrt(new["squares"]) + EPS)
  elif optimizer == "rowwise_adagrad":
    new["squares"] = slots["squares"] + (total_vd**2).mean(axis=1)
    direction_vd = total_vd / (np.sqrt(new["squares"])[:, None] + EPS)
  else:
    new["first_moment"] = FIRST * slots["first_moment"] + (1 - FIRST) * total_vd
    new["second_moment"] = SECOND * slots["second_moment"] + (1 - SECOND) * total_vd**2
    first = new["first_moment"] / (1 - FIRST ** (step + 1))
    direction_vd = first / (np.sqrt(new["second_moment"] / (1 - SECOND ** (step + 1))) + EPS)
  moved_vd = rows_vd - lr * (direction_vd + weight_decay * rows_vd)
  kept = {name: np.where(touched_v if x.ndim == 1 else touched_v[:, None], x, slots[name]) for name, x in new.items()}
  return np.where(touched_v[:, None], moved_vd, rows_vd), kept
