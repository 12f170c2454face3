"""The report on sweeps with grids, hardware axes, several learning rates, lengths trained anew, runs that failed, and on old sweeps."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from report_case import write_run

from analysis.load import load
from analysis.report import program
from dlrm_jax.common import flags, record

EXAMPLES = [2**k for k in range(14, 21)]
FACTORS = (0.5, 1.0, 2.0, 4.0)
BEST = {2: 1.0, 4: 2.0, 8: 4.0}  # learning rate by dim; at 8 the largest tried


def add(root: Path, points: list[dict], axis: str, size: float, ne: float, seed: int = 0, label: str = "", **change: Any) -> str:
  """A run of a click log whose NE falls to `ne`, and its point."""
  name = f"run{len(points)}"
  new = {"label": label or f"{size:g}", "sizes": change.pop("sizes", {axis: size}), "lr_factor": change.pop("lr_factor", 1.0)}
  at = change.pop("at", EXAMPLES)
  curve = []
  for n in at:
    numbers = {
      "log_loss": 0.6,
      "ne": ne + 0.05 * (n / 2**14) ** -0.5,
      "roc_auc": 0.8,
      "calibration": 1.0,
      "excess": None,
      "excess_tail": None,
    }
    curve.append({"examples": n, **numbers, "excess_ideal": None, "wall_s": 1.0})
  train = {"seed": seed, "learner": "dlrm", "lr_schedule": change.pop("lr_schedule", "constant")}
  config = {"model": {}, "train": train, "planted": None, "data": "clicks"}
  write_run(root / "runs" / name, name, curve, "dlrm", seed, "clicks", 10_000 + int(size) * (axis != "data"), None, config=config, **change)
  points.append({"workload": "clicks", "axis": axis, "size": size, "seed": seed, "learner": "dlrm", "config_id": name} | new)
  return name


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
  root, points = tmp_path_factory.mktemp("axes"), []
  for seed in (0, 1):
    for dim, best in BEST.items():
      for factor in FACTORS:  # NE is least at the best factor
        loss = 0.8 + 0.05 / dim + 0.01 * np.log2(factor / best) ** 2 + 1e-4 * seed
        status = {"status": "diverged"} if (dim, factor, seed) == (4, 4.0, 1) else {}
        if (dim, factor) == (4, 4.0):
          loss -= 0.1  # would be best, but one of its seeds diverged
        add(root, points, "dim", dim, loss, seed, lr_factor=factor, **status)
    for position, (rows, dim) in enumerate([(10, 2), (10, 4), (20, 2), (20, 4)]):
      add(root, points, "rows*dim", position, 0.9 - 0.001 * rows * dim, seed, f"{rows}*{dim}", sizes={"rows": rows, "dim": dim})
    for devices, speed in [(1, 1000.0), (2, 1800.0), (4, 3000.0)]:
      add(root, points, "devices", devices, 0.8, seed, examples_per_s=speed + seed)
    for position, (placement, speed) in enumerate([("row", 900.0), ("table", 1200.0)]):
      add(root, points, "placement", position, 0.8, seed, placement, examples_per_s=speed)
  failed = add(root, points, "dim", 16, 0.7, status="failed", error={"type": "ValueError", "message": "no", "traceback": "..."})
  (root / "runs" / failed / "curve.jsonl").unlink()
  record.write_json(root / "sweep.json", record.header() | {"points": points})
  program.main(program.ReportConfig(workdir=str(root)))
  return root


def laws_of(root: Path) -> dict[str, Any]:
  return record.read_json(root / "report" / "laws.json")


def test_the_best_learning_rate_is_kept_at_each_point(root, capsys):
  chosen = {(c["axis"], c["size"]): c for c in laws_of(root)["learning_rates"]}
  assert {key: c["lr_factor"] for key, c in chosen.items()} == {("dim", dim): best for dim, best in BEST.items()}
  assert {key[1]: c["at_end"] for key, c in chosen.items()} == {2: False, 4: False, 8: True}
  means = {c["lr_factor"]: c["loss"] for c in chosen["dim", 2]["losses"]}
  assert set(means) == set(FACTORS)
  np.testing.assert_allclose(means[1.0], 0.8 + 0.025 + 5e-5 + 0.05 * 64**-0.5, rtol=1e-12)
  page = (root / "report" / "index.html").read_text()
  assert "clicks / dlrm / dim=8: the best learning rate is the largest tried, x4" in page
  assert "dim=2: the best learning rate" not in page
  kept = [f for f in laws_of(root)["fits"] if f["axis"] == "dim" and f["x"] == "size"]
  assert [(f["num_points"], f["num_seeds"]) for f in kept] == [(6, 2)]
  assert len(pl.read_csv(root / "report" / "points.csv", schema_overrides={"label": pl.String}).filter(pl.col("axis") == "dim")) == (
    3 * 4 * 2 - 1
  ) * len(EXAMPLES)  # every one


def test_the_best_rate_has_no_law_where_it_is_at_the_ends(root):
  """At dim 4 the rate of which a seed diverged is left out, at dim 8 the largest tried is best: one minimum is no law."""
  (law,) = laws_of(root)["rate_laws"]
  assert [(entry["label"], entry["reason"]) for entry in law["sizes"]] == [
    ("2", ""),
    ("4", "least at the largest tried"),
    ("8", "least at the largest tried"),
  ]
  assert law["exponent"] is None and law["rate"] == "factor"
  assert law["verdict"] == "no law of the best rate along embedding dim: 1 of 3 sizes have a minimum, a power needs 2"
  page = (root / "report" / "index.html").read_text()
  assert "The best learning rate along each axis" in page and "4, 8: least at the largest tried" in page


def test_grids_and_hardware_get_no_law(root):
  laws = laws_of(root)
  assert {f["axis"] for f in laws["fits"]} == {"dim"}
  figures = {path.stem for path in (root / "report").glob("*.svg")}
  assert figures >= {"grid_rows_dim", "throughput_devices", "throughput_placement", "data_dim", "model_dim"}
  assert not figures & {"model_devices", "data_devices", "data_placement", "model_placement", "data_rows*dim"}
  drawn = (root / "report" / "grid_rows_dim.svg").read_text()
  assert all(label in drawn for label in ("10*2", "20*4"))
  assert "table" in (root / "report" / "throughput_placement.svg").read_text()


def test_throughput_of_hardware_axes(root):
  got = {(e["axis"], e["label"]): e for e in laws_of(root)["throughput"]}
  assert [(label, e["runs"]) for (_, label), e in got.items()] == [("1", 2), ("2", 2), ("4", 2), ("row", 2), ("table", 2)]
  np.testing.assert_allclose([got["devices", d]["examples_per_s"] for d in "124"], [1000.5, 1800.5, 3000.5])
  np.testing.assert_allclose([got["devices", d]["speedup"] for d in "124"], [1, 1800.5 / 1000.5, 3000.5 / 1000.5])
  np.testing.assert_allclose([got["devices", d]["efficiency"] for d in "124"], [1, 1800.5 / 1000.5 / 2, 3000.5 / 1000.5 / 4])
  assert got["placement", "table"]["efficiency"] is None
  np.testing.assert_allclose(got["placement", "table"]["speedup"], 1200 / 900)


def test_failed_and_diverged_runs_are_counted_apart_and_named(root):
  laws, page = laws_of(root), (root / "report" / "index.html").read_text()
  sweep = load(root)
  (diverged,), (failed,) = laws["diverged"], laws["failed"]
  assert (sweep.diverged, sweep.failed) == ((diverged,), (failed,))
  assert [record.read_json(root / "runs" / name / "record.json")["status"] for name in (diverged, failed)] == ["diverged", "failed"]
  total = len(list(root.glob("runs/*")))
  assert laws["num_runs"] == total - 2
  assert f"1 of {total} runs failed, left out of every fit: {failed}" in page
  assert f"1 of {total} runs diverged, left out of every fit: {diverged}" in page
  assert not {diverged, failed} & set(pl.read_csv(root / "report" / "points.csv", schema_overrides={"label": pl.String})["config_id"])
  assert [f["size"] for f in laws["fits"] if f["x"] == "examples"] == [2, 4, 8]


def test_lengths_trained_anew_are_read_at_their_ends(tmp_path):
  """Under a horizon the curve of a run is no data curve: the law is that of the ends."""
  points: list[dict] = []
  for seed in (0, 1):
    for k in range(14, 21):
      add(tmp_path, points, "data", 2**k, 0.7 + 1e-5 * seed, seed, at=[n for n in EXAMPLES if n <= 2**k], lr_schedule="cosine")
  record.write_json(tmp_path / "sweep.json", record.header() | {"points": points})
  program.main(program.ReportConfig(workdir=str(tmp_path)))
  fits = laws_of(tmp_path)["fits"]
  assert {(f["axis"], f["x"]) for f in fits} == {("data", "size"), ("data", "flops")}
  (fit,) = [f for f in fits if f["x"] == "size"]
  np.testing.assert_allclose(fit["params"]["beta"]["estimate"], 0.5, rtol=1e-3)
  np.testing.assert_allclose(fit["params"]["gamma"]["estimate"], 0.7, rtol=1e-3)
  page = (tmp_path / "report" / "index.html").read_text()
  assert "clicks, dlrm: data exponent 0.5" in page
  assert set(json.loads(re.search(r'id="report">(.*?)</script>', page).group(1))["specs"]) == {"model_data"}  # type: ignore[union-attr]


def test_old_sweeps_read_as_new_ones(tmp_path):
  """Without label, sizes and factor; and where the cap was above all cardinalities, the rows are those that the largest table has."""
  points: list[dict] = []
  for rows in (13, 52, 100_000):
    add(tmp_path, points, "rows", rows, 0.8 + 0.1 / min(rows, 209), tables=[{"num_rows": min(rows, c)} for c in (22, 209)])
  new = points[-1] | {"size": 209.0, "label": "209"}  # the same run as a later version plans it
  for point in points:
    for name in ("label", "sizes", "lr_factor"):
      del point[name]
  record.write_json(tmp_path / "sweep.json", record.header() | {"points": [*points, new]})
  got = load(tmp_path).points
  assert got.select("size", "label", "lr_factor").rows() == [(13, "13", 1.0), (52, "52", 1.0), (209, "209", 1.0)]
  assert [json.loads(text) for text in got["sizes"]] == [{"rows": 13}, {"rows": 52}, {"rows": 209}]


@pytest.mark.parametrize(
  ("status", "message"),
  [("diverged", "no run to report on: 1 diverged, 0 failed"), ("failed", "0 diverged, 1 failed"), ("lost", "has status lost")],
)
def test_nothing_to_report_on(tmp_path, status, message):
  points: list[dict] = []
  add(tmp_path, points, "data", EXAMPLES[-1], 0.8, status=status)
  record.write_json(tmp_path / "sweep.json", record.header() | {"points": points})
  with pytest.raises(flags.UserError, match=message):
    program.main(program.ReportConfig(workdir=str(tmp_path)))


def test_axes_that_are_not_there_are_refused(tmp_path):
  points: list[dict] = []
  add(tmp_path, points, "rows*depth", 0, 0.8, sizes={"rows": 1, "depth": 2})
  record.write_json(tmp_path / "sweep.json", record.header() | {"points": points})
  with pytest.raises(flags.UserError, match=r"point 0 has axis=rows\*depth: must be among data, rows"):
    load(tmp_path)
