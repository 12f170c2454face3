"""Writes sweeps of planted data as the trainer leaves them, whose excess is the closed form times noise as it was measured."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from report_case import write_run

from analysis.fitting.noise import Noise
from dlrm_jax.common import record
from dlrm_jax.config import PlantedConfig
from dlrm_jax.data.planted.clicks import Planted
from dlrm_jax.data.planted.closed_forms import excess_ideal

FIELDS = 8
ALL_ROWS = 2**20  # of the base


class Kind(NamedTuple):
  """Sizes of a preset: rows of the axis, log2 of the examples of its passes and of the base's, the spread of the effects."""

  rows: tuple[int, ...]
  axis_log2: int
  base_log2: int
  sigma: float


class Measured(NamedTuple):
  """The noise of a sweep's seeds (`analysis.fitting.noise`)."""

  offset: float
  drift: float
  nugget: float
  length: float
  tilt: float
  origin: float


KINDS = {"study": Kind((10, 30, 100, 300, 1000, 3000), 22, 24, 0.25), "quick": Kind((30, 100, 300, 1000, 3000), 19, 22, 0.5)}
NOISE = {  # of paper_tail as it is kept, and of a run of quick, from 2**17 examples on
  ("study", 1.111): Measured(0.0, 6.919e-6, 2.594e-6, 4.852, -0.771, 13.92),
  ("study", 1.25): Measured(9.323e-6, 2.512e-5, 2.006e-6, 1.368, -0.633, 13.92),
  ("quick", 1.111): Measured(6.782e-7, 1.137e-5, 2.845e-6, 3.466, -0.1447, 13.19),
  ("quick", 1.25): Measured(3.603e-6, 3.491e-5, 4.383e-6, 3.466, -0.5262, 13.19),
}


def excess(kind: str, s: float, examples: float, rows: int = ALL_ROWS) -> float:
  """The closed form."""
  tau = Planted(PlantedConfig(zipf_s=s, tail_sigma=KINDS[kind].sigma)).tau
  return excess_ideal(examples, s, tau, FIELDS, rows)


def write_closed(root: Path, kind: str, s: float, seed: int, seeds: int = 3) -> Path:
  """A sweep over examples and rows of the sizes of a preset.

  Args:
    root: its directory.
    kind: a key of `KINDS`.
    s: Zipf exponent, 10/9 or 1.25.
    seed: of the noise.
    seeds: runs of each point.
  """
  sizes, measured = KINDS[kind], NOISE[kind, round(s, 3)]
  noise, rng = Noise(**measured._asdict(), scatters=()), np.random.default_rng(seed)
  header, points = record.header(), []
  for axis, rows, log2 in [("data", ALL_ROWS, sizes.base_log2), *(("rows", rows, sizes.axis_log2) for rows in sizes.rows)]:
    examples = [int(2 ** (k / 2)) for k in range(34, 2 * log2 + 1)]  # from 2**17, where laws begin
    u = np.log(examples)
    root_cov = np.linalg.cholesky(noise.covariance(u))
    truth = np.log([excess(kind, s, n, rows) for n in examples])
    for number in range(seeds):
      name = f"{axis}{rows}s{number}"
      values = np.exp(truth + root_cov @ rng.standard_normal(len(u)))
      numbers = {"log_loss": 0.5, "ne": 0.9, "roc_auc": 0.8, "calibration": 1.0, "excess_tail": None, "excess_ideal": None}
      curve = [{"examples": n, "excess": float(value), "wall_s": 1.0, **numbers} for n, value in zip(examples, values, strict=True)]
      tables, model = [{"num_rows": rows}], {"embed_dim": 4, "num_rows": rows}
      config = {"model": model, "train": {"seed": number}, "data": "planted"}
      change = {"tables": tables, "config": config, "flops_per_example": {"total": 6000.0}}
      write_run(root / "runs" / name, name, curve, "dlrm", number, "planted", 4 * FIELDS * rows, {"s": s}, **header, **change)
      size = examples[-1] if axis == "data" else rows
      points.append({"workload": f"s={s:.4g}", "axis": axis, "size": size, "seed": number, "learner": "dlrm", "config_id": name})
  record.write_json(root / "sweep.json", header | {"points": points})
  return root
