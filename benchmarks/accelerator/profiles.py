"""Section `profile`: benchmarks.profile of W1 and of the large step, without the trace files."""

import functools
import tempfile

from benchmarks import profile
from benchmarks.accelerator.rows import Rows
from benchmarks.measure.table import Row
from dlrm_jax.common import flags, record

_LARGE = ("--preset=mlperf_v1", "--data=criteo_like", "--num_rows=1000000")
_OPS = 12  # the longest operations that are kept


def measure(rows: Rows) -> None:
  """Keeps a row for each scope and for each of the longest operations."""
  todo = {"W1": ("--preset=W1",), "large, bfloat16": (*_LARGE, "--compute_dtype=bfloat16"), "large, float32": _LARGE}
  for name, words in list(todo.items())[: 1 if rows.tiny else None]:
    small = ("--batch_size=64",) if rows.tiny else ()
    rows.case(functools.partial(_profile, (*words, *small), 2 if rows.tiny else 5), name=name)


def _profile(words: tuple[str, ...], steps: int) -> list[Row]:
  with tempfile.TemporaryDirectory() as directory:
    config = flags.parse(["profile", f"--output={directory}", f"--steps={steps}", *words], profile.ProfileConfig, profile.PRESETS)
    profile.main(config)
    found = record.read_json(f"{directory}/profile.json")
  whole = {"what": "step", "step_ms_unprofiled": found["step_ms_unprofiled"], "step_ms_profiled": found["step_ms_profiled"]}
  scopes = [{"what": "scope"} | {name: row.get(name) for name in ("scope", "ms_per_step", "num_ops")} for row in found["results"]]
  ops = [{"what": "operation"} | {name: op[name] for name in ("op", "scope", "ms_per_step")} for op in found["ops"][:_OPS]]
  return [whole, *scopes, *ops]
