"""Benchmark files side by side: machines, versions or settings compared row by row, with ratios and a chart.

  python -m benchmarks.compare laptop.json server.json                                # prints a table
  python -m benchmarks.compare before.json after.json --output=runs/compare --metric=cpu_ms_p50

Takes what the programs of this package write: step, lookup, input, collectives, peers, profile, topology. Ratios are over the first file.
With --output=DIR it leaves compare.svg, compare.png and compare.json there; files that exist are replaced.
"""

from benchmarks.compare.compare import CompareConfig, main
from dlrm_jax.common import flags

if __name__ == "__main__":
  flags.run(main, CompareConfig)
