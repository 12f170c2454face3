"""Runs of which only the end is a point of loss against examples: those over the most recent rows, and those with a horizon. For advice.

Where every length was trained anew (`--data_mode=retrain`), the ends of the runs of the data axis are a data curve. With the most recent
rows, all of its points are of one time of judgement: more examples are rows that reach further back. Called by `additive.py`.
"""

import polars as pl

from analysis.questions.curves import last_points
from dlrm_jax.common.axis_names import SCHEMES
from dlrm_jax.config import HORIZONS

MIN_LENGTHS = 4  # lengths of the data axis from which its ends are a curve
RECENT = "of the most recent rows"
ONE_LENGTH = "sizes were trained at one number of examples, so nothing tells whether sizes and examples act on each other"
FURTHER_BACK = f"more examples {RECENT} are rows that reach further back in the log"


def are_recent(runs: pl.DataFrame) -> bool:
  """Whether runs are trained on the most recent rows."""
  return bool((runs["window"] == "recent").any())


def ends_of_lengths(group: pl.DataFrame) -> pl.DataFrame:
  """The ends of the runs of a workload; none where too few lengths were trained anew for a curve."""
  runs = group.filter(pl.col("horizon") & (pl.col("epochs").fill_null(0) <= 1))
  return last_points(runs) if _lengths(runs) >= MIN_LENGTHS else runs.clear()


def _lengths(runs: pl.DataFrame) -> int:
  return last_points(runs.filter(axis="data"))["examples"].n_unique()


def too_few_lengths(group: pl.DataFrame, min_sizes: int) -> str:
  """Why there is no advice where only the ends of runs count, and they have too few lengths; empty where no axis has `min_sizes` sizes."""
  runs = group.filter(pl.col("horizon") & pl.col("axis").is_in([axis for axis in SCHEMES if axis != "data"]))
  if not len(runs) or max(runs.group_by("axis").agg(pl.col("size").n_unique())["size"]) < min_sizes:
    return ""
  what = "--window=recent" if are_recent(runs) else f"--lr_schedule={', '.join(HORIZONS)}"
  count = _lengths(group.filter(pl.col("horizon")))
  lengths = "no length" if not count else "one length" if count == 1 else f"{count} lengths"
  return (
    f"with {what} only the end of a run counts, and {lengths} of the data axis {'is' if count < 2 else 'are'} there, where a law takes "
    f"{MIN_LENGTHS}: add data to --axes, with --data_mode=retrain"
  )
