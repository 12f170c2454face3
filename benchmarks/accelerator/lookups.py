"""Section `lookup`: benchmarks.lookup by rows and skew, with the share of a copy's bandwidth as it is measured."""

import functools

from benchmarks import lookup
from benchmarks.accelerator.rows import Rows
from benchmarks.measure import ceilings
from benchmarks.measure.engine_alone import EngineCase
from benchmarks.measure.table import Row


def measure(rows: Rows) -> None:
  """Keeps the rows of each case. With 3 rows a table, every lookup is a duplicate; with skew 1 hardly any is."""
  if rows.tiny:
    config = lookup.LookupConfig(rows=(3, 100), dims=(8,), batch_size=64, steps=2, warmup=1)
  else:
    config = lookup.LookupConfig(rows=(1_000_000, 1000, 3), dims=(128,), skew=(1.0, 3.0), batch_size=65_536, steps=10, warmup=3)
  _keep(rows, config)
  if not rows.tiny:
    _keep(rows, lookup.LookupConfig(rows=(1_000_000,), dims=(16,), batch_size=2048, steps=100))


def _keep(rows: Rows, config: lookup.LookupConfig) -> None:
  for case in lookup.cases(config):
    model = case.run.model
    about = {"num_rows": model.num_rows, "embed_dim": model.embed_dim, "skew": case.skew, "batch_size": config.batch_size}
    rows.case(functools.partial(_timed, config, case), **about)


def _timed(config: lookup.LookupConfig, case: EngineCase) -> list[Row]:
  """The rows of benchmarks.lookup, with the share of the bandwidth that a copy reaches on this machine."""
  copy = ceilings.measure("float32", "default").bytes_per_s
  found = lookup.measure(config, case)
  return [row | {"share_of_copy": row["pipelined_bandwidth_share"] * row["bytes_per_s"] / row["bandwidth_share"] / copy} for row in found]
