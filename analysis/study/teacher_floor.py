"""The loss that a limited number of rows costs on one planted teacher, from its own effects and the model's own hash functions.

`closed_forms.rows_floor` has the mean over all teachers. Called by `predictions`.
"""

import functools

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from dlrm_jax.config import ModelConfig, PlantedConfig
from dlrm_jax.data.planted.clicks import Planted
from dlrm_jax.data.planted.draws import tail_effects
from dlrm_jax.embedding.layout import make_layout, row_of

_IDS = 2**17  # the most frequent ids are summed one by one; the others are many and rare, so their mean represents them


@functools.lru_cache
def teacher_rows_floor(config: PlantedConfig, num_rows: int, rows_by: str) -> float:
  """Excess (nats) at unlimited data of tables of `num_rows` rows on this teacher.

  It is c/2 sigma^2 times the variance of effects inside rows, summed over the tail fields. A row's best value is the mean effect of its
  ids weighted by their probabilities.

  Args:
    config: the teacher, one id a field.
    num_rows: rows a table.
    rows_by: `top` or `hash`.
  """
  source = Planted(config, num_tables=config.tail_fields)
  layout = make_layout(ModelConfig(num_rows=num_rows, rows_by=rows_by), source.shape)
  k = np.arange(1, _IDS, dtype=np.float64)
  p = k ** -(config.zipf_s - 1) - (k + 1) ** -(config.zipf_s - 1)
  rest = float(_IDS) ** -(config.zipf_s - 1)
  ids_kf = jnp.asarray(np.tile(np.arange(1, _IDS, dtype=np.uint32)[:, None], (1, config.tail_fields)))
  effect_kf = np.asarray(tail_effects(config.seed, ids_kf, 1), np.float64)
  row_kf = np.asarray(row_of(layout, (ids_kf - 1).astype(jnp.int32)))
  beyond = np.full(num_rows, rest / num_rows) if rows_by == "hash" else rest * (np.arange(num_rows) == num_rows - 1)
  lost = 0.0
  for field in range(config.tail_fields):
    effect: Float[np.ndarray, " k"] = effect_kf[:, field]
    mass = np.bincount(row_kf[:, field], p, num_rows) + beyond
    mean = np.bincount(row_kf[:, field], p * effect, num_rows) / mass
    lost += float((p * effect**2).sum() + rest - (mass * mean**2).sum())
  return source.tau / 2 * lost
