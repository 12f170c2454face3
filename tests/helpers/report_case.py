"""Writes runs as the trainer does, for the tests of reports."""

import json
from pathlib import Path

from dlrm_jax.common import record

GRID = [int(2 ** (k / 2)) for k in range(26, 45)]  # 2**13 to 2**22, two an octave
NUMBERS = ("log_loss", "ne", "roc_auc", "calibration", "excess", "excess_tail")


def write_run(
  folder: Path, name: str, curve: list[dict], learner: str, seed: int, data: str, params: int | None, theory: dict | None, **change
):
  """Writes a run as the trainer does. `change`: other values of the record. Its header takes a while to make, so it can be given too."""
  folder.mkdir(parents=True, exist_ok=True)
  (folder / "curve.jsonl").write_text("".join(json.dumps(line) + "\n" for line in curve))
  flops = None if params is None else float(params)
  header = {} if "schema_version" in change else record.header()
  entry = header | {
    "config_id": name,
    "config": {"model": {}, "train": {"seed": seed, "learner": learner, "num_examples": GRID[-1]}, "planted": theory, "data": data},
    "status": "done",
    "params": None if params is None else {"embedding": params - 1000, "dense": 1000, "total": params},
    "flops_per_example": None if flops is None else {"total": flops},
    "flops_total": None if flops is None else flops * curve[-1]["examples"],
    "examples": curve[-1]["examples"],
    **{key: curve[-1][key] for key in NUMBERS},
    **{key: value for key, value in curve[-1].items() if key.startswith("excess_") and key not in (*NUMBERS, "excess_ideal")},
    "wall_s": 2.0,
    "examples_per_s": 1e5,
    "theory": theory,
  }
  (folder / "record.json").write_text(record.dumps(entry | change) + "\n")
