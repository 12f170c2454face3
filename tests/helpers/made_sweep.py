"""Writes small sweeps of click logs with given losses, for tests of what reports and advice say about them."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from report_case import write_run

from dlrm_jax.common import record

EXAMPLES = [int(2 ** (k / 2)) for k in range(28, 41)]  # 2**14 to 2**20
BASE = {"rows": 1000.0, "dim": 8.0}
SIZES = {"rows": (60, 250, 1000), "dim": (2, 4, 8, 16)}
Loss = Callable[[float, float, float], float]  # of examples, rows, dim


def write_sweep(
  root: Path,
  loss: Loss,
  progressive: Callable[[float], float] | None = None,
  seeds: int = 3,
  level: float = 5e-4,
  axes: tuple[str, ...] = ("rows", "dim"),
  order: str = "time",
  examples: list[int] | None = None,
  sizes: Mapping[str, tuple[float, ...]] | None = None,
  lengths: tuple[int, ...] = (),
) -> Path:
  """A sweep around `BASE` as the trainer leaves it, with NE from `loss` and log loss .6 times NE; FLOPs an example are 100 dim.

  Args:
    root: its directory.
    loss: NE by examples, rows and dim.
    progressive: the log loss of training examples before their step, by examples; not recorded when None.
    seeds: runs of each point.
    level: standard deviation of log NE: an offset of the run, and a third of it at each evaluation.
    axes: the model axes, beside `data`.
    order: of the training examples.
    examples: of the evaluations.
    sizes: of the axes; `SIZES` when None.
    lengths: of the runs of the data axis, each trained anew on the most recent rows; the losses before an end are then a third higher.
  """
  rng, points, header = np.random.default_rng(0), [], record.header()
  examples = examples or EXAMPLES
  grid = {"data": lengths or (examples[-1],), **(sizes or SIZES)}
  for axis in ("data", *axes):
    for size in grid[axis]:
      for seed in range(seeds):
        place = BASE | ({axis: float(size)} if axis != "data" else {})
        length = size if axis == "data" else examples[-1]
        name = f"r{place['rows']:g}d{place['dim']:g}s{seed}" + ("" if length == examples[-1] else f"n{length}")
        points.append({"workload": "clicks", "axis": axis, "size": size, "seed": seed, "learner": "dlrm", "config_id": name})
        if (root / "runs" / name).exists():
          continue
        noise = level * (rng.standard_normal() + 0.3 * rng.standard_normal(len(examples)))
        curve = []
        for n, z in zip(examples, noise, strict=True):
          if n > length:
            break
          early = 4 / 3 if lengths and n < length else 1.0
          ne = float(early * loss(n, place["rows"], place["dim"]) * np.exp(z))
          numbers = {"log_loss": 0.6 * ne, "ne": ne, "roc_auc": 0.8, "calibration": 1.0, "excess": None, "excess_tail": None}
          recent = None if progressive is None else float(progressive(n))
          curve.append({"examples": n, **numbers, "excess_ideal": None, "progressive_log_loss_recent": recent, "wall_s": 1.0})
        model = {"embed_dim": int(place["dim"]), "num_rows": int(place["rows"])}
        config = {"model": model, "train": {"seed": seed, "order": order} | ({"window": "recent"} if lengths else {}), "data": "clicks"}
        change = {"flops_per_example": {"total": 100.0 * place["dim"]}, "tables": [{"num_rows": int(place["rows"])}], "config": config}
        params = int(place["rows"] * place["dim"]) + 2000
        write_run(root / "runs" / name, name, curve, "dlrm", seed, "clicks", params, None, base_rate=0.3, **header, **change)
  record.write_json(root / "sweep.json", header | {"points": points})
  return root


def additive(n: float, rows: float, dim: float) -> float:
  """A loss that the law of all passes describes."""
  return 0.7 + 1.0 * rows**-0.5 + 0.1 / dim + 5.0 * n**-0.4


def steepening(n: float, rows: float, dim: float) -> float:
  """Nearly flat, and faster and faster near the end."""
  return 0.96 + 0.3 * n**-0.3 + 0.2 / rows + 0.02 / dim - 0.045 * (n / 2**20) ** 1.5


def drifting(n: float, rows: float, dim: float) -> float:
  """Up, down, up and far down, as the log of shared data's `tx_sweep.parquet`."""
  at = np.log2([2**14, 2**15, 2**17, 2**19, 2**20])
  return float(np.interp(np.log2(n), at, [0.92, 1.58, 1.2, 1.32, 0.67])) + 0.5 / rows + 0.05 / dim


def saturated(n: float, rows: float, dim: float) -> float:
  """Flat from a sixteenth of the examples on."""
  return 0.8 + 0.5 * rows**-1.0 + 0.05 * dim**-2.0 + 2e4 * n**-1.5


def interacting(n: float, rows: float, dim: float) -> float:
  """The dim helps the more, the more examples there are: no sum of terms."""
  return 0.75 + 1.0 * rows**-0.5 + 4.0 * n**-0.35 * (1.0 + 0.9 * (dim / 8.0) ** -0.8 * (n / 2**14) ** 0.3)


def dropping(n: float, rows: float, dim: float) -> float:
  """A law, but the last evaluations are far below it."""
  return additive(n, rows, dim) * (0.93 if n >= 2**19.4 else 1.0)


def flat(n: float, rows: float, dim: float) -> float:
  """Nothing lowers it but the first examples."""
  return 0.9 + 2e4 * n**-1.5
