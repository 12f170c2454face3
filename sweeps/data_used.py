"""Lines on which rows of a data set the runs of a sweep read, and which they leave out. Called by `plan` and `run`."""

from collections.abc import Sequence

from dlrm_jax.config import RunConfig
from dlrm_jax.data.source import PreparedSource
from dlrm_jax.training.coverage import coverage_of
from sweeps.points import Run, SweepConfig


def lines(sweep: SweepConfig, points: Sequence[Run]) -> list[str]:
  """The lines for a sweep, without those of runs of middle lengths; none on planted data."""
  source = points[0].source
  if not isinstance(source, PreparedSource):
    return []
  train, rows = sweep.run.train, source.dataset.rows("train")
  order = "in the order of the log" if train.order == "time" else "in an order drawn from the seed"
  window = {"oldest": "the first rows of that order", "recent": "the most recent rows"}[train.window]
  lengths = sorted({point.config.train.num_examples for point, _ in points})
  out = [f"{source.name} is read {order}; runs shorter than its {rows:,} training rows take {window} (--window={train.window})"]
  if "data" in sweep.axes + sweep.grid:
    axis = {"online": "one pass is the whole curve", "retrain": "every length is trained anew"}[sweep.data_mode]
    out.append(f"data axis: {axis} (--data_mode={sweep.data_mode})")
  asked = {"num_examples": train.num_examples, "axis_examples": sweep.axis_examples, "sizes_data": int(max(sweep.sizes_data, default=0))}
  out += [f"--{flag}={count}: the data has {rows:,} training rows; all of them are used" for flag, count in asked.items() if count > rows]
  shown = [lengths[0], *lengths[-1:]] if len(lengths) > 1 else lengths
  for length in shown:
    of = f"runs of {length:,} examples: " if len(lengths) > 1 else ""
    config = next(point.config for point, _ in points if point.config.train.num_examples == length)
    out += [of + line for line in _left_out(config, source)]
  return list(dict.fromkeys(out))


def _left_out(config: RunConfig, source: PreparedSource) -> list[str]:
  coverage = coverage_of(config, source)
  return coverage.lines() if coverage else []
