"""What runs of several epochs show: a loss that rises, one that stays, one that the law of repeated data describes."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from analysis.fitting.laws import LAWS
from analysis.load import Sweep
from analysis.questions.repeats import Repeats, repeats
from analysis.report.tables import repeats_table

UNIQUE = (2**15, 2**17, 2**19)
PASSES = (0.5, 2**-0.5, 1.0, 2**0.5, 2.0, 8**0.5, 4.0)
TRUTH = {"B": 2.0, "E": 0.02, "beta": 0.3, "R_star": 1.5}


def sweep_of(kind: str, seeds: int = 3, uniques: tuple[int, ...] = UNIQUE, again: bool = True) -> Sweep:
  """Runs of four epochs with rows for each of two models; an odd model's loss rises, falls or stays, the other falls by the law."""
  rng = np.random.default_rng(6)
  points, curves, runs, configs = [], [], [], {}
  for rows in (30.0, 2.0**20):
    for seed in range(seeds):
      for unique in uniques:
        name = f"{rows:g}-{seed}-{unique}"
        sizes = {"data": float(unique), "rows": rows}
        place = {"workload": "s=1.111", "axis": "data*rows", "size": float(len(points)), "label": f"{unique}*{rows:g}"}
        points.append(place | {"sizes": json.dumps(sizes), "seed": seed, "learner": "dlrm", "lr_factor": 1.0, "config_id": name})
        configs[name] = {"train": {"epochs": 4 if again else 1, "num_examples": unique}}
        runs.append({"config_id": name, "planted": True, "horizon": False})
        epochs = np.array(PASSES)
        loss = LAWS["repeated"].predict(TRUTH, np.column_stack([np.full(len(epochs), float(unique)), epochs]))
        if rows > 30 and kind == "rises":
          loss = loss * np.exp(0.2 * np.maximum(epochs - 1, 0))
        if rows > 30 and kind == "stays":
          loss = LAWS["repeated"].predict(TRUTH, np.column_stack([np.full(len(epochs), float(unique)), np.minimum(epochs, 1)]))
        loss = loss * np.exp(0.003 * rng.standard_normal() + 0.001 * rng.standard_normal(len(epochs)))
        curves += [
          {"config_id": name, "examples": round(unique * e), "excess": value, "ne": None, "epochs": e}
          for e, value in zip(PASSES, loss.tolist(), strict=True)
        ]
  frames = [pl.DataFrame(rows, infer_schema_length=None) for rows in (points, runs, curves)]
  return Sweep(Path("here"), *frames, (), (), (), {}, configs, {})


def models_of(kind: str, **change) -> tuple[Repeats, Repeats]:
  few, many = repeats(sweep_of(kind, **change))
  assert (few.model, many.model) == ("rows 30", "rows 1,048,576")
  return few, many


def test_the_law_is_found_and_said_in_unique_examples():
  few, _ = models_of("rises")
  r_star = few.fit.params["R_star"]
  assert few.fit.status == "ok" and few.fit.method == "gls" and r_star.ci_low < 1.5 < r_star.ci_high
  worth = 1 + r_star.estimate * (1 - np.exp(-3 / r_star.estimate))  # the truth is 2.3
  assert few.verdict.startswith(f"4 epochs are worth {worth:.2f} [2.") and "times as many unique examples as one (R_star 1." in few.verdict
  assert [row.what for row in few.rows] == ["falls"] * 3 and few.rows[0].epochs == (1.0, 2.0, 4.0) and few.rows[0].lowest == 4.0


def test_a_rise_is_outside_the_law():
  _, many = models_of("rises")
  assert many.fit.refused and [row.what for row in many.rows] == ["rises"] * 3
  most = max(many.rows, key=lambda row: row.change)
  assert many.verdict.startswith("the loss rises when examples are repeated, at every number of unique examples, most from ")
  assert f"to {most.losses[-1]:.4g} after 4 epochs of {most.unique:,} examples: outside the law of repeated data" in many.verdict
  (cells,) = [row for row in repeats_table([many]).rows if row[3] == "524k"]
  ratio = np.exp(many.rows[-1].change)
  assert cells[2] == "rows 1,048,576" and cells[-1] == "rises" and cells[-2].startswith(f"{ratio:.3f} [") and cells[-3] == "1"
  assert repeats_table([many]).columns[6:9] == ["1 epoch", "2 epochs", "4 epochs"]


def test_a_change_is_judged_by_the_seeds():
  """The t interval of the log ratio, the variance pooled over three numbers of unique examples of three seeds: 6 degrees of freedom."""
  _, many = models_of("stays")
  assert [row.what for row in many.rows] == ["stays"] * 3
  sweep = sweep_of("stays")
  table = sweep.evaluations().filter(pl.col("label").str.ends_with("*1.04858e+06"), pl.col("epochs").is_in([1.0, 4.0]))
  change = table.sort("config_id", "epochs").group_by("config_id", maintain_order=True).agg(pl.col("excess").log().diff().last())
  change = change.with_columns(unique=pl.col("config_id").str.split("-").list.last())
  deviation = np.sqrt(change.group_by("unique").agg(pl.col("excess").var())["excess"].mean())
  assert many.rows[0].half == pytest.approx(2.446912 * deviation / np.sqrt(3), rel=1e-6)
  assert many.fit.params["R_star"].ci_high < 0.2 and many.verdict.startswith("4 epochs are worth 1.0")


def test_one_seed_has_half_a_per_cent():
  few, many = models_of("rises", seeds=1)
  assert [row.what for row in few.rows] == ["falls"] * 3 and [row.what for row in many.rows] == ["rises"] * 3
  assert many.rows[0].half is None and repeats_table([many]).rows[0][-2] == f"{np.exp(many.rows[0].change):.3f}"
  assert [row.what for row in models_of("stays", seeds=1)[1].rows] == ["stays"] * 3


def test_two_numbers_of_unique_examples_are_too_few_for_the_law():
  few, _ = models_of("rises", uniques=UNIQUE[:2])
  assert few.verdict == "no law of repeated data: a column of x has fewer than 3 distinct values, law repeated needs them in each"


def test_runs_of_one_epoch_are_no_repeated_data():
  assert repeats(sweep_of("rises", again=False)) == []


def test_an_open_lower_end_is_a_limit_from_above():
  """R_star from 0 to .5 says that 4 epochs are worth at most 1 + .5 (1 - exp(-6)) of one."""
  _, many = models_of("stays")
  params = many.fit.params | {"R_star": dataclasses.replace(many.fit.params["R_star"], ci_low=None, ci_high=0.5)}
  said = dataclasses.replace(many, fit=dataclasses.replace(many.fit, params=params, status="not_identifiable")).verdict
  assert said.startswith("4 epochs are worth at most 1.50 times as many unique examples as one (R_star 0.")
