"""Describes a prepared data set: tables on the terminal, and an offline page of tables and plots.

  python -m dlrm_jax.data.describe DIR [--output=DIR2] [--max_rows=10000000]

Reads a directory made by `python -m dlrm_jax.data.prepare`. Writes index.html, describe.json, *.svg and *.png to DIR/describe and
replaces files that exist. Ids and dense values are read in the first rows of the training split, labels in all rows.
"""

from dlrm_jax.common import flags
from dlrm_jax.data.describe.program import DescribeConfig, main

if __name__ == "__main__":
  flags.run(main, DescribeConfig)
