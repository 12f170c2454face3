"""What theory predicts for a run on planted data, for its record and its curve. Called by `trajectory`."""

import functools

from dlrm_jax.config import RunConfig
from dlrm_jax.data.planted import closed_forms
from dlrm_jax.data.planted.clicks import Planted
from dlrm_jax.data.planted.teacher import DENSE_INPUTS, PAIR_TERMS, SMALL_IDS
from dlrm_jax.data.source import Source


def theory(config: RunConfig, source: Source) -> dict[str, float | None] | None:
  """The predicted exponents and floors, for the record; None on a prepared data set."""
  if not isinstance(source, Planted):
    return None
  return _tail_theory(config, source) | _floors(config, source)


def _floors(config: RunConfig, source: Planted) -> dict[str, float | None]:
  """The excess that the model's dim and its bottom MLP must leave.

  `pairs_floor` holds if the model sees the pairs by dots alone and every id has its own row. `dense_floor` follows from the first hidden
  layer; later layers may carry sums of its terms.
  """
  planted, hidden = config.planted, config.model.bottom_widths(source.shape.num_dense)[:-1]
  floor = functools.partial(closed_forms.terms_floor, delta=planted.delta, curvature=source.moments[1])
  by_dots = config.model.interaction == "dot" and "dots" in config.model.overarch_inputs and "rows" not in config.model.overarch_inputs
  own_rows = not source.num_tables and config.model.rows_by == "top" and config.model.num_rows >= SMALL_IDS
  pairs = planted.pair_variance and by_dots and own_rows
  return {
    "pairs_floor": floor(config.model.embed_dim, PAIR_TERMS, planted.pair_variance) if pairs else None,
    "dense_floor": floor(hidden[0] // 2, DENSE_INPUTS, planted.dense_variance) if hidden else None,
  }


def _tail_theory(config: RunConfig, source: Planted) -> dict[str, float | None]:
  s, fields = config.planted.zipf_s, config.planted.tail_fields
  if not source.whole_tail:  # the closed forms do not know how fields that are left out change the clicks
    return {"s": s, "beta_data": None, "beta_rows": None, "rows_floor": None}
  hashed_beyond = config.model.rows_by == "hash" and s >= 2  # kappa is not known for such s
  rows, rows_by = config.model.num_rows, config.model.rows_by
  floor = None if hashed_beyond else closed_forms.rows_floor(rows, s, source.tau, fields, rows_by, source.draws)
  beta_rows = None if hashed_beyond else closed_forms.beta_rows(s)
  return {"s": s, "beta_data": closed_forms.beta_data(s), "beta_rows": beta_rows, "rows_floor": floor}


def ideal(config: RunConfig, source: Source, examples: int) -> float | None:
  """Excess (nats) of the ideal learner's tail after so many examples with the rows of the run; None if no closed form is known.

  Examples that are trained on again teach it nothing.
  """
  if config.train.epochs > 1:
    examples = min(examples, config.train.num_examples)
  if not isinstance(source, Planted) or not source.whole_tail:
    return None
  rows = config.model.num_rows if config.train.learner == "dlrm" else None
  if rows is not None and config.model.rows_by == "hash":
    return None  # the closed form assumes tables that keep the most frequent ids
  return closed_forms.excess_ideal(examples, config.planted.zipf_s, source.tau, config.planted.tail_fields, rows, source.draws)
