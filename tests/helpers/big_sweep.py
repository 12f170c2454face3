"""Writes an invented sweep of many runs as `sweeps.run` does: for large reports, and for laws under correlated noise.

  python tests/helpers/big_sweep.py DIR [N]

It has two workloads, one planted and one of a click log, and three seeds. The axes are data, rows, dim, overarch and mlp. The model axes
have as many sizes as make N runs, by default 2,000. Losses follow power laws with a constant, times exp(noise). The same seed gives the
same files.
"""

import hashlib
import itertools
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from report_case import write_run

from dlrm_jax.common import record

SEEDS = 3
EXAMPLES = [int(n) for n in np.geomspace(2**13, 2**22, 15)]
ZIPF_S = 1.25
WORKLOADS = ("s=1.25", "clicks")
SIZES = {
  "rows": lambda i: int(100 * 1.12**i),
  "dim": lambda i: 4 + 4 * i,
  "overarch": lambda i: 0.125 * 1.05**i,
  "mlp": lambda i: 0.125 * 1.05**i,
}
# The loss that the smallest size adds, and the exponent by which it falls with size. The planted rows axis has theory's exponent.
COSTS = {"data": (0.0, 0.0), "rows": (0.02, 0.35), "dim": (0.015, 0.8), "overarch": (0.008, 0.5), "mlp": (0.004, 0.6)}
OFFSET, WANDER, WHITE, MEMORY = 1.0, 0.7, 0.3, 2.0  # deviations of the parts of the noise; correlation length in octaves


def noise(rng: np.random.Generator, examples: list[int]) -> np.ndarray:
  """The noise of one pass, with a deviation near 1.3: an offset of the whole pass, an AR(1) over log examples, and white noise."""
  octaves = np.diff(np.log2(examples))
  wander = [rng.standard_normal()]
  for step in octaves:
    keep = math.exp(-step / MEMORY)
    wander.append(keep * wander[-1] + math.sqrt(1 - keep**2) * rng.standard_normal())
  return OFFSET * rng.standard_normal() + WANDER * np.array(wander) + WHITE * rng.standard_normal(len(examples))


def points(count: int) -> Iterator[tuple[str, str, int, float, int]]:
  """The first `count` of (workload, axis, position, size, seed): the data axis has one size, the others have as many as it takes."""
  places = itertools.chain(
    [("data", 0, float(EXAMPLES[-1]))], ((a, i, float(f"{f(i):.6g}")) for i in itertools.count() for a, f in SIZES.items())
  )
  every = ((w, axis, i, size, seed) for axis, i, size in places for w in WORKLOADS for seed in range(SEEDS))
  return itertools.islice(every, count)


def losses(workload: str, axis: str, share: float, rng: np.random.Generator) -> list[dict[str, Any]]:
  """A curve: one evaluation for each of `EXAMPLES`. `share`: the size over the smallest one."""
  cost, exponent = COSTS[axis]
  rows, drawn = [], noise(rng, EXAMPLES)
  for n, z in zip(EXAMPLES, drawn):
    ideal = excess = None
    if workload == "clicks":
      ne = (0.75 + cost * share**-exponent + 0.07 * (n / 1e3) ** -0.3) * math.exp(2e-4 * z)
      log_loss = 0.6 * ne
    else:
      ideal = 0.05 * n ** -(1 - 1 / ZIPF_S)
      floor = 0.2 * (100 * share) ** -(ZIPF_S - 1) if axis == "rows" else 0.1 * cost * share**-exponent
      excess = (1.05 * ideal * (1 + 3 * (n / 8192) ** -2) + floor) * math.exp(0.004 * z)
      log_loss, ne = 0.5 + excess, (0.5 + excess) / 0.62
    numbers = {"log_loss": log_loss, "ne": ne, "roc_auc": 1.2 - 0.5 * ne, "roc_auc_error": 1e-4, "calibration": 1 + 1e-3 * z}
    rows.append({"examples": n, **numbers, "excess": excess, "excess_tail": None, "excess_ideal": ideal, "wall_s": n / 1e5})
  return rows


def tables_of(size: float, axis: str) -> list[dict[str, Any]]:
  rows, dim = (int(size) if axis == "rows" else 100_000), (int(size) if axis == "dim" else 32)
  return [{"name": f"tail{f}", "num_rows": rows, "dim": dim, "bag_length": 1, "placement": "replicated"} for f in range(8)]


def write(root: Path, count: int = 2000, seed: int = 0) -> Path:
  """Writes sweep.json and runs/*; returns `root`."""
  header, described = record.header(), []
  for place in points(count):
    workload, axis, _, size, run_seed = place
    name = hashlib.sha256(repr((place, seed)).encode()).hexdigest()[:16]
    rng = np.random.default_rng(int(name, 16))
    share = size / SIZES[axis](0) if axis in SIZES else 1.0
    tables, theory = tables_of(size, axis), None
    if workload != "clicks":
      floor = 0.2 * size ** -(ZIPF_S - 1) if axis == "rows" else None
      theory = {"s": ZIPF_S, "beta_data": 1 - 1 / ZIPF_S, "beta_rows": ZIPF_S - 1, "rows_floor": floor}
    dense = int(1000 * (share if axis in ("overarch", "mlp") else 1))
    params = dense + sum(t["num_rows"] * t["dim"] for t in tables)
    flops = float(6 * dense + 12 * tables[0]["dim"] * len(tables))
    change = {"tables": tables, "flops_per_example": {"total": flops}, "flops_total": flops * EXAMPLES[-1], "wall_s": EXAMPLES[-1] / 1e5}
    curve = losses(workload, axis, share, rng)
    write_run(root / "runs" / name, name, curve, "dlrm", run_seed, workload, params, theory, **header, **change)
    shown = {"size": size, "label": f"{size:.12g}", "sizes": {axis: size}, "lr_factor": 1.0, "seed": run_seed, "learner": "dlrm"}
    described.append({"workload": workload, "axis": axis, **shown, "examples": EXAMPLES[-1], "config_id": name, "base": workload})
  (root / "sweep.json").write_text(record.dumps(header | {"points": described}) + "\n")
  return root


if __name__ == "__main__":
  write(Path(sys.argv[1]), *(int(word) for word in sys.argv[2:3]))
