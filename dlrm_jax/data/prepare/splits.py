"""The rows of each split: the last rows of the log are held out, or those from a date on. Called by `program`."""

from collections.abc import Sequence

from dlrm_jax.common import flags
from dlrm_jax.common.flags import UserError
from dlrm_jax.data.prepare import times
from dlrm_jax.data.prepare.options import EVAL_FRACTION, PrepareConfig
from dlrm_jax.data.prepare.schema import Schema
from dlrm_jax.data.prepare.timeline import Timeline


def by_place(config: PrepareConfig, rows_of_file: Sequence[int]) -> dict[str, int]:
  """The rows of each split, in the order of the log. Files without rows do not count. Raises UserError if a split would be empty."""
  rows = sum(rows_of_file)
  named = (config.eval_rows, config.eval_files, config.eval_fraction, config.test_fraction or None)
  if config.like is not None and all(flag is None for flag in named):
    return {"train": rows}
  share = EVAL_FRACTION if config.eval_fraction is None else config.eval_fraction
  if config.eval_files is not None:
    flag, held_out = "eval_files", sum([rows for rows in rows_of_file if rows][-config.eval_files :])
  elif config.eval_rows is not None:
    flag, held_out = "eval_rows", config.eval_rows
  else:
    flag, held_out = "eval_fraction", int(rows * share)
  if not 0 < held_out < rows:
    value = share if flag == "eval_fraction" else getattr(config, flag)
    raise UserError(f"--{flag}={value} of {rows} rows holds out {held_out}: neither split may be empty")
  return _with_test(config, rows, held_out)


def _with_test(config: PrepareConfig, rows: int, held_out: int) -> dict[str, int]:
  """The splits if the last of the rows held out become the split `test`."""
  test = int(held_out * config.test_fraction)
  flags.check(not config.test_fraction or 0 < test < held_out, config, "test_fraction", f"one row or more of the {held_out} held out")
  return {"train": rows - held_out, "eval": held_out - test} | ({"test": test} if config.test_fraction else {})


def bounds(config: PrepareConfig, schema: Schema) -> tuple[int, ...]:
  """The moments from which rows belong to eval and to test, as far as flags name them. Raises UserError if they cannot be used."""
  named = [name for name in ("eval_from", "test_from") if getattr(config, name) is not None]
  if not named:
    flags.check(config.eval_files is None or schema.time is None or not schema.time.order, config, "eval_files", _SORTED)
    return ()
  if schema.time is None:
    raise UserError(f'--{named[0]}={getattr(config, named[0])}: needs a time column; a schema names it by [time] and then column = "ts"')
  found = []
  for name in named:
    moment = times.moment(getattr(config, name), schema.time.zone)
    if moment is None:
      raise UserError(f"--{name}={getattr(config, name)}: must be a date or time that exists, such as 2024-05-01 or 2024-05-01T18:30")
    found.append(moment)
  flags.check(found == sorted(set(found)), config, named[-1], f"later than --eval_from={config.eval_from}")
  return tuple(found)


_SORTED = "left out where order = true sorts the rows, because files are mixed; --eval_from=DATE splits by time"


def by_time(config: PrepareConfig, log: Timeline, limits: tuple[int, ...]) -> dict[str, int]:
  """The rows of each split, if those from `limits[0]` on are held out and from `limits[1]` on are test. Raises UserError if it is empty."""
  before = [log.rows_before(limit) for limit in limits]
  train, rest = before[0], log.rows - before[0]
  rows = f"{log.rows:,} rows from {times.iso(log.first)} to {times.iso(log.last)}"
  if not 0 < train < log.rows:
    raise UserError(f"--eval_from={config.eval_from} of {rows} holds out {rest:,}: neither split may be empty")
  if len(before) == 1:
    return _with_test(config, log.rows, rest)
  if not train < before[1] < log.rows:
    raise UserError(f"--test_from={config.test_from} of {rows} leaves {before[1] - train:,} for eval and {log.rows - before[1]:,} for test")
  return {"train": train, "eval": before[1] - train, "test": log.rows - before[1]}
