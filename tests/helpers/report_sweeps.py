"""Writes two small sweeps as `sweeps.run` does, one planted and one of a click log, for the tests of reports."""

from pathlib import Path

import numpy as np
from report_case import GRID, write_run

from dlrm_jax.common import record


def write_planted(root: Path) -> Path:
  """Two workloads and two seeds. Axis data has both learners, axis rows has four sizes."""
  rng, points = np.random.default_rng(0), []
  for s in (10 / 9, 1.25):
    beta = (s - 1) / s
    cases = [("data", GRID[-1], learner) for learner in ("dlrm", "per_id")] + [("rows", rows, "dlrm") for rows in (100, 400, 1600, 6400)]
    for axis, size, learner in cases:
      for seed in (0, 1):
        floor = 0.2 * size ** -(s - 1) if axis == "rows" else None
        curve = []
        for n in GRID:
          ideal = 0.05 * n**-beta
          early = 1 + 3 * (n / 8192.0) ** -2  # what a trained model learns before the tail
          excess = (1.05 * ideal * early + (floor or 0.0)) * np.exp(0.0005 * rng.standard_normal())
          numbers = {"log_loss": 0.5 + excess, "ne": 0.9, "roc_auc": 0.7, "calibration": 1.0, "excess": excess, "excess_tail": None}
          curve.append({"examples": n, **numbers, "excess_ideal": ideal, "wall_s": n / 1e5})
        name = f"{learner}{axis}{size}s{s:.3f}n{seed}".replace(".", "p")
        theory = {"s": s, "beta_data": beta, "beta_rows": s - 1, "rows_floor": floor}
        params = None if learner == "per_id" else 1000 + 128 * (size if axis == "rows" else 10**6)
        write_run(root / "runs" / name, name, curve, learner, seed, "planted", params, theory)
        points.append({"workload": f"s={s:.4g}", "axis": axis, "size": size, "seed": seed, "learner": learner, "config_id": name})
  points.append({"workload": "s=1.25", "axis": "rows", "size": 25600, "seed": 0, "learner": "dlrm", "config_id": "later"})
  record.write_json(root / "sweep.json", record.header() | {"points": points})
  return root


def write_real(root: Path) -> Path:
  """One click log, four axes and two seeds. NE = .07 (n/1e3)**-.3 + .75 + a share that falls with size. One run diverged."""
  rng, points = np.random.default_rng(1), []
  for axis, sizes in {"rows": [100, 400, 1600, 6400], "dim": [4, 8], "overarch": [0.5, 1], "mlp": [0.25, 0.5, 1, 2]}.items():
    for size in sizes:
      for seed in (0, 1):
        share = 0.02 * (size / sizes[0]) ** -0.5 if axis != "mlp" else 0.0
        curve = []
        for n in GRID[::2]:
          ne = (0.75 + share + 0.07 * (n / 1e3) ** -0.3) * np.exp(2e-5 * rng.standard_normal())
          numbers = {"log_loss": 0.6 * ne, "ne": ne, "roc_auc": 0.8, "calibration": 1.0, "excess": None, "excess_tail": None}
          curve.append({"examples": n, **numbers, "excess_ideal": None, "wall_s": 1.0})
        name = f"{axis}{size}n{seed}".replace(".", "p")
        status = {"status": "diverged"} if name == "mlp2n1" else {}
        params = 1000 + 500 * sizes.index(size) + (10 * size if axis == "rows" else 0)
        write_run(root / "runs" / name, name, curve, "dlrm", seed, "clicks", int(params), None, **status)
        points.append({"workload": "clicks", "axis": axis, "size": size, "seed": seed, "learner": "dlrm", "config_id": name})
  record.write_json(root / "sweep.json", record.header() | {"points": points})
  return root
