"""The table of sections, in order of value: what each measures, and the most seconds of it. Read by `__main__` and `runner`."""

import dataclasses
import importlib
from collections.abc import Callable

from benchmarks.accelerator.rows import Rows


@dataclasses.dataclass(frozen=True)
class Section:
  """One section.

  Attributes:
    name: its name, that of `--sections`.
    module: the module of this package whose `measure` runs it.
    most_s: the most seconds of it on an accelerator.
    about: what it measures, in a sentence.
  """

  name: str
  module: str
  most_s: int
  about: str

  def load(self) -> Callable[[Rows], None]:
    """The function that measures. Imported when the section's process runs, since it imports jax."""
    return importlib.import_module(f"benchmarks.accelerator.{self.module}").measure


SECTIONS = {
  section.name: section
  for section in (
    Section("env", "environment", 60, "versions, clocks, and the speed of matrix products and copies"),
    Section("correct", "correct", 120, "the engine against a dense oracle, steps beside the CPU's, the same bits twice or not"),
    Section("w1", "small_steps", 110, "a small step over tables of 1,000 to 10M rows, steps in a call, bfloat16, a large batch"),
    Section("large", "large_steps", 110, "26 tables of 1M rows of 128, batch 65,536: float32, bfloat16 products, bfloat16 tables"),
    Section("lookup", "lookups", 70, "lookups and updates alone, by skew and rows, as shares of a copy's bandwidth"),
    Section("peer", "peer", 110, "the same steps by what is installed of PyTorch, Triton and fbgemm"),
    Section("small", "whole_runs", 90, "whole runs of preset small, and several in one program"),
    Section("exchange", "exchange", 90, "collectives and sharded steps on all devices"),
    Section("profile", "profiles", 80, "where the time of a step goes, by scope and kernel"),
  )
}
