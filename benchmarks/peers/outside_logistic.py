"""scikit-learn's logistic regression on target encodings of a prepared data set: `python -m benchmarks.peers.outside_logistic DIR`.

It runs in the peers' environment and prints one JSON object: `log_loss` in nats, `roc_auc` and `rows` of the held-out rows, `versions`.
It reads the shards by their documented format alone (dlrm_jax/data/shard_format.py), so it is a judge that shares no code with us.
"""

import json
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import sklearn
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score

FOLDS = 5  # a training row is encoded by the other folds, so that its own label is not among its inputs
PRIOR_ROWS = 20.0  # rows at the base rate that every value starts with
MAX_FIT_ROWS = 3_000_000  # the regression is fitted to so many rows, the newest; the encodings count all


def read(directory: Path, split: str) -> tuple[np.ndarray, np.ndarray, dict[str, list[np.ndarray]]]:
  """Labels [N], dense inputs [N, M] and the id columns of each feature of a split, in the order of the log."""
  contents = json.loads((directory / "dataset.json").read_text())
  table = pq.read_table([directory / shard["file"] for shard in contents["splits"][split]["shards"]])
  dense = [table.column(f"dense.{column['name']}").to_numpy() for column in contents["columns"]["dense"]]
  ids = {}
  for column in contents["columns"]["categorical"]:
    name, length = column["name"], column.get("bag_length", 1)
    names = [f"id.{name}"] if length == 1 else [f"id.{name}.{i}" for i in range(length)]
    ids[name] = [table.column(each).to_numpy() for each in names]
  label_n = table.column("label").to_numpy().astype(np.int8)
  return label_n, np.stack(dense, 1) if dense else np.zeros((len(label_n), 0), np.float32), ids


def rates(ids: list[np.ndarray], label_n: np.ndarray, rows: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
  """Clicks and rows of each id among `rows`; a row of a bag counts once for each of its values."""
  clicks, seen = np.zeros(size), np.zeros(size)
  for id_n in ids:
    kept = rows & (id_n >= 0)
    clicks += np.bincount(id_n[kept], label_n[kept], size)
    seen += np.bincount(id_n[kept], minlength=size)
  return clicks, seen


def encoded(ids: list[np.ndarray], clicks: np.ndarray, seen: np.ndarray, base: float) -> np.ndarray:
  """The logit of the smoothed click rate of each row's value; the mean over the values of a bag, the base rate where it is empty."""
  rate = (clicks + PRIOR_ROWS * base) / (seen + PRIOR_ROWS)
  logit = np.append(np.log(rate / (1 - rate)), 0.0)  # padding, -1, takes the last entry
  count_n = sum((id_n >= 0).astype(np.float32) for id_n in ids)
  return (sum(logit[id_n] for id_n in ids) + (count_n == 0) * np.log(base / (1 - base))) / np.maximum(count_n, 1)


def main(directory: Path) -> None:
  """Fits on the training rows, predicts the held-out rows, prints their metrics."""
  label_n, dense, ids = read(directory, "train")
  eval_label, eval_dense, eval_ids = read(directory, "eval")
  base, fold_n = float(label_n.mean()), np.arange(len(label_n)) % FOLDS
  first = max(len(label_n) - MAX_FIT_ROWS, 0)
  inputs, eval_inputs = [dense[first:]], [eval_dense]
  for name, columns in ids.items():
    size = 1 + max(int(id_n.max()) for id_n in columns + eval_ids[name])
    by_fold = [rates(columns, label_n, fold_n == fold, size) for fold in range(FOLDS)]
    clicks, seen = (np.sum([part[i] for part in by_fold], 0) for i in (0, 1))
    column = np.zeros(len(label_n) - first, np.float32)
    for fold, (own_clicks, own_seen) in enumerate(by_fold):
      rows = fold_n[first:] == fold
      column[rows] = encoded([id_n[first:][rows] for id_n in columns], clicks - own_clicks, seen - own_seen, base)
    inputs.append(column[:, None])
    eval_inputs.append(encoded(eval_ids[name], clicks, seen, base).astype(np.float32)[:, None])
  x, eval_x = np.concatenate(inputs, 1), np.concatenate(eval_inputs, 1)
  mean, scale = x.mean(0, dtype=np.float64), x.std(0, dtype=np.float64)
  scale[scale == 0] = 1
  model = LogisticRegression(max_iter=300).fit((x - mean) / scale, label_n[first:])
  prob = model.predict_proba((eval_x - mean) / scale)[:, 1]
  both = 0 < eval_label.mean() < 1
  roc_auc = float(roc_auc_score(eval_label, prob)) if both else None
  scores = {"log_loss": float(log_loss(eval_label, prob, labels=[0, 1])), "roc_auc": roc_auc}
  print(json.dumps(scores | {"rows": len(eval_label), "versions": f"scikit-learn {sklearn.__version__}"}))


if __name__ == "__main__":
  main(Path(sys.argv[1]))
