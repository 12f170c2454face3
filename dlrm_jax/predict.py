"""Scores the rows of files by a trained model: writes a logit and a click probability for each, and reports metrics where there are labels.

python -m dlrm_jax.predict --restore=runs/one/checkpoint --input='new/*.csv' --output=scores.parquet

The files need the columns of the log that the model was trained on, in any order; the label may be absent. They are read by the schema, the
statistics and the vocabularies of that data set, so a value that was not seen in training has id 0, as in held-out rows. Every accepted row
is scored. A column of weights is used for the metrics alone. Where all files lack it, rows count alike, and a line says so.

NE is the log loss over the entropy of the click rate of the training rows, not of the scored ones. So compare the NE of two models only
where both have the same training click rate, else their log losses. A constant prediction of the training click rate has NE base_rate_ne.
Calibration is the mean prediction over the click rate.
"""

import dataclasses
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from dlrm_jax.common import flags, record
from dlrm_jax.common.progress import Bar, say
from dlrm_jax.config import KERNELS
from dlrm_jax.data.prepare import inputs, spool
from dlrm_jax.data.prepare.rejects import Tally, blamed
from dlrm_jax.data.prepare.scoring import Encoder, read_examples, scored_file
from dlrm_jax.data.prepare.weights import all_or_none
from dlrm_jax.machine import hardware
from dlrm_jax.serving.restored import restore_model
from dlrm_jax.serving.scores import ScoreWriter, scored
from dlrm_jax.training.metrics import Accumulator, entropy

ENDINGS = (".parquet", ".csv")
MOST_SHOWN = 10  # features whose share of values without an id is printed
MOST_UNKNOWN = 0.9  # share of a feature's values without an id of their own, above which it is reported
METRICS = ("log_loss", "ne", "roc_auc", "roc_auc_error", "calibration")


@dataclasses.dataclass(frozen=True)
class PredictConfig:
  """Flags of `python -m dlrm_jax.predict`."""

  restore: str = flags.option(help="the trained model: WORKDIR of a run, WORKDIR/checkpoint, or one of the directories in it")
  input: str = flags.option(
    help="the files to score: a path or a pattern such as 'new/*.csv.gz' (** matches any depth), a pipe, or - for standard input"
  )
  output: str = flags.option(help="the file to write, NAME.parquet or NAME.csv: file, line, label if there is one, logit, prob of each row")
  metrics: str | None = flags.option(None, "a JSON file to write the metrics into; none: they are printed alone")
  data: str | None = flags.option(None, "the data set that the model was trained on, if it has moved")
  format: str | None = flags.option(
    None, "format of the files; none: by each name's ending and the data set", ("criteo_tsv", "csv", "parquet")
  )
  batch_size: int = flags.option(4096, "rows that the model scores at once", at_least=1)
  mesh: str = flags.option("1", "devices: a number, or two axes (data x model) such as 2x4")
  kernels: str = flags.option("auto", "on a CPU: kernels compiled for this machine's processor, or XLA's own loops", KERNELS)

  def __post_init__(self) -> None:
    flags.check_fields(self)
    flags.check(self.output.endswith(ENDINGS), self, "output", f"a name ending in {' or '.join(ENDINGS)}")


def predict(config: PredictConfig) -> dict[str, Any]:
  """Scores the files, writes the output whole, and returns an entry for the JSON of the metrics. Raises UserError on bad input."""
  output = Path(config.output)
  flags.check(not output.is_dir(), config, "output", "a file; it is a directory")
  spool.remove_left(output)
  if not inputs.is_stream(config.input):
    return _predict(config)
  with spool.spooled(config.input, output) as copy:
    return _predict(dataclasses.replace(config, input=str(copy)))


def _predict(config: PredictConfig) -> dict[str, Any]:
  """`predict` for files."""
  sources = inputs.find_inputs(config.input).files
  if Path(config.output).resolve() in [source.resolve() for source in sources]:
    raise flags.UserError(f"--output={config.output}: is one of the inputs")
  model = restore_model(config.restore, config.data, config.batch_size, config.mesh, config.kernels)
  encoder = Encoder.of(model.data, model.contents, len(model.build.plan.layout.tables))
  files = [scored_file(source, config.format, encoder.schema) for source in sources]
  labelled_files = {file.path: file.weighted for file in files if file.labelled}
  if encoder.schema.weight is not None and labelled_files and not all_or_none(labelled_files, encoder.schema.weight):
    say(f"no file has the column '{encoder.schema.weight}' of weights: all rows count alike in the metrics")
  tallies, total, names = [Tally() for _ in files], Accumulator(model.base_rate), inputs.names_of(sources)
  labelled, weightless, counts = 0, 0, np.zeros((2, len(encoder.features) if encoder.vocabularies else 0), np.int64)
  with record.written_whole(config.output) as out, Bar("scoring", sum(file.size for file in files), is_bytes=True) as bar:
    with ScoreWriter(out, config.output.endswith(".parquet"), any(file.labelled for file in files)) as writer:
      for examples, logit_n in scored(model, read_examples(files, encoder, tallies, bar)):
        writer.write(names[examples.file], examples, logit_n)
        keep_n = examples.labelled_n
        if examples.weight_n is not None:
          weightless += int(np.count_nonzero(examples.weight_n == 0))
          keep_n = keep_n & (examples.weight_n > 0)
        weight_n = None if examples.weight_n is None else examples.weight_n[keep_n]
        total.add(logit_n[keep_n], examples.label_n[keep_n], weight_n=weight_n)
        labelled += int(examples.labelled_n.sum())
        counts += np.stack([examples.unknown_f, examples.values_f])
    rows, by_reason = sum(tally.good for tally in tallies), sum((tally.by_reason for tally in tallies), Counter[str]())
    why = f"; {blamed(tallies, lambda i, line: f'{files[i].path} line {line}')}" if by_reason else ""
    if not rows:
      raise flags.UserError(f"--input={config.input}: no row to score in {len(files)} files{why}")
  if by_reason:
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in by_reason.most_common())
    say(f"{by_reason.total():,} of {rows + by_reason.total():,} lines are not scored: {reasons}{why}")
  if weightless:
    say(f"{weightless:,} of {rows:,} rows have weight 0: they are scored, and count nothing in the metrics")
  unknown = {feature.name: float(n / max(of, 1)) for feature, n, of in zip(encoder.features, *counts)}
  if high := {name: share for name, share in unknown.items() if share > MOST_UNKNOWN}:
    shares = ", ".join(f"{name} {share:.0%}" for name, share in high.items())
    say(f"values that were unseen or rare in training: {shares}; are they written as in the training log (3 and 3.0 are two values)?")
  measured = total.metrics()
  return {
    "name": "predict",
    "rows": rows,
    "labelled": labelled,
    "rows_of_weight_0": weightless,
    "rejected": by_reason.total(),
    "rejected_by_reason": dict(by_reason.most_common()),
    "unknown_share": unknown,
    "checkpoint": str(model.path),
    "examples_trained": model.facts["examples"],
    "base_rate": model.base_rate,
    **{name: getattr(measured, name) for name in METRICS},
    "base_rate_ne": measured.base_rate_log_loss / entropy(model.base_rate),
  }


def main(config: PredictConfig) -> None:
  hardware.select_platform()
  hardware.share_compiled()
  out = predict(config)
  if config.metrics is not None:
    record.write_json(config.metrics, hardware.header() | {"results": [out]})
  shown = {name: out[name] for name in ("log_loss", "ne", "base_rate_ne", "roc_auc", "calibration")}
  notes = {"calibration": " (mean prediction / click rate)", "ne": f" (training click rate {out['base_rate']:.4g})"}
  # NE divides by the entropy of that rate, so checkpoints of different data have different denominators.
  scores = "".join(f"{name}={value:.5f}{notes.get(name, '')}  " for name, value in shown.items() if math.isfinite(value))
  some = f" of {out['labelled']:,} with a label" if 0 < out["labelled"] < out["rows"] else ""
  print(f"{scores}rows={out['rows']:,}{some}  in {config.output}")
  if without := sorted(((share, name) for name, share in out["unknown_share"].items() if share), reverse=True):
    shares = ", ".join(f"{name} {share:.2%}" for share, name in without[:MOST_SHOWN])
    more = f" and {len(without) - MOST_SHOWN} more features" if len(without) > MOST_SHOWN else ""
    print(f"values without an id of their own (unseen or rare in training): {shares}{more}")


if __name__ == "__main__":
  flags.run(main, PredictConfig)
