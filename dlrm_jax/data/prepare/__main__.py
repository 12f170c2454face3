"""Turns a click log (Criteo TSV, CSV or Parquet) into a data set: Parquet shards, dataset.json and rejects.tsv.

Files are read in the order of their names (numbers by value: day_2 before day_10). Rows keep their order, unless the schema sorts them by
a time column, and the last rows are held out for evaluation. A first pass cuts the log into pieces; workers read them and number their
values. A second pass gives ids, by rank of frequency in the training rows, and writes the shards. Each worker holds the rows of one piece
in memory, whatever the size of the log.
Until the end, the work takes about as much disk as the log has bytes of text, in addition to the output.

The output directory appears whole, by a rename, or not at all. A run that was killed goes on where it was when it is started again, and
the result is the same to the byte. Several machines that see the same directories share the work with --shard=0/2, --shard=1/2.
"""

from dlrm_jax.common import flags
from dlrm_jax.data.prepare.program import PrepareConfig, main

if __name__ == "__main__":
  flags.run(main, PrepareConfig)
