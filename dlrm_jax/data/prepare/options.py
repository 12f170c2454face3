"""The flags of `python -m dlrm_jax.data.prepare`."""

import dataclasses

from dlrm_jax.common import flags
from dlrm_jax.data.prepare.inputs import STDIN

VOCABULARIES = ("frequency", "hash")
EVAL_FRACTION = 0.1


@dataclasses.dataclass(frozen=True)
class PrepareConfig:
  """What to read, where to write, and how values become ids."""

  format: str = flags.option(help="format of the input", choices=("criteo_tsv", "csv", "parquet"))
  input: str = flags.option(
    help="the files to read: a path or a pattern such as 'logs/day_*.gz' (** matches any depth), a pipe, or - for standard input"
  )
  output: str = flags.option(help="the directory to make")
  schema: str | None = flags.option(
    None, "TOML file that names the label, dense and categorical columns of a csv or parquet log; - for standard input"
  )
  like: str | None = flags.option(
    None, "a data set whose schema, statistics and vocabularies this log gets; all rows are training rows unless flags hold some out"
  )
  eval_rows: int | None = flags.option(None, "hold out this many rows, the last ones", at_least=1)
  eval_files: int | None = flags.option(None, "hold out the rows of this many files, the last ones")
  eval_fraction: float | None = flags.option(
    None, f"hold out this share of the rows, the last ones; none: {EVAL_FRACTION} (with --like 0), unless another flag holds rows out"
  )
  test_fraction: float = flags.option(0.0, "this share of the rows held out, the last ones, becomes the split test instead of eval")
  eval_from: str | None = flags.option(None, "hold out the rows from this date or time on, such as 2024-05-01 (needs a time column)")
  test_from: str | None = flags.option(None, "of the rows held out, those from this date or time on become the split test")
  keep_negatives: float = flags.option(
    1.0, "keep this share of the training rows without a click, drawn by a hash of their place; training corrects the logit"
  )
  vocabulary: str = flags.option("frequency", "ids by rank of frequency in the training rows, or by a 31-bit hash", VOCABULARIES)
  min_count: int = flags.option(
    2, "values seen fewer times in the training rows get id 0, as unseen ones do (frequency vocabulary)", at_least=1
  )
  max_reject_fraction: float = flags.option(0.001, "fail if a larger share of the lines is rejected")
  workers: int = flags.option(0, "number of worker processes; 0: one for each core", at_least=0)
  piece_mib: int = flags.option(128, "MiB of input that a worker reads at a time; it needs about three times as much memory", at_least=1)
  shard: str | None = flags.option(None, "i/n: do share i (from 0) of the work of n runs that see the same directories; share 0 ends it")
  overwrite: bool = flags.option(False, "replace the data set that is in the output directory")

  def __post_init__(self) -> None:
    flags.check_fields(self)
    if self.like is not None:
      if self.schema is not None:
        raise flags.UserError(f"--like={self.like}: has a schema of its own; leave out --schema")
      for name in ("vocabulary", "min_count"):
        default = next(field.default for field in dataclasses.fields(self) if field.name == name)
        flags.check(getattr(self, name) == default, self, name, f"left out with --like={self.like}, whose vocabularies are used")
    elif self.format == "criteo_tsv":
      flags.check(self.schema is None, self, "schema", "left out with --format=criteo_tsv, whose columns are fixed")
    elif self.schema is None:
      raise flags.UserError(f"--format={self.format} needs --schema=FILE.toml, which names the label, dense and categorical columns")
    streams = self.input in STDIN and self.schema in STDIN
    flags.check(not streams, self, "schema", "a file if --input is standard input")
    files_fit = self.eval_files is None or (self.eval_files >= 1 and self.eval_rows is None)
    flags.check(files_fit, self, "eval_files", "at least 1, without --eval_rows")
    by_place = (self.eval_rows, self.eval_files, self.eval_fraction) != (None, None, None)
    flags.check(self.eval_from is None or not by_place, self, "eval_from", "left out with --eval_rows, --eval_files and --eval_fraction")
    fits = self.test_from is None or (self.eval_from is not None and not self.test_fraction)
    flags.check(fits, self, "test_from", "given with --eval_from and without --test_fraction")
    flags.check(self.eval_fraction is None or 0 < self.eval_fraction < 1, self, "eval_fraction", "above 0 and below 1")
    flags.check(0 <= self.test_fraction < 1, self, "test_fraction", "at least 0 and below 1")
    flags.check(0 < self.keep_negatives <= 1, self, "keep_negatives", "above 0 and at most 1")
    flags.check(0 <= self.max_reject_fraction <= 1, self, "max_reject_fraction", "between 0 and 1")
    share, shares = self.share
    flags.check(0 <= share < shares, self, "shard", "i/n with 0 <= i < n, such as 0/2 and 1/2")

  @property
  def share(self) -> tuple[int, int]:
    """(i, n): this run does share i of n of the work; (-1, 0) if `shard` is malformed."""
    if self.shard is None:
      return 0, 1
    words = self.shard.split("/")
    return (int(words[0]), int(words[1])) if len(words) == 2 and all(word.isdecimal() for word in words) else (-1, 0)
