"""NE and excess of the same points: the verdict follows what was planted, and its words have the numbers."""

import numpy as np
import polars as pl
import pytest

from analysis.questions.curves import Curve
from analysis.questions.ne_laws import NeLaw, ne_laws
from analysis.report.paper_tables import ne_table

EXAMPLES = np.round(2.0 ** np.arange(17, 25, 0.5)).astype(int)
BAYES, ENTROPY = 0.55, 0.59


def curve_of(kind: str, seeds: int = 3, number: int = 0) -> Curve:
  """A curve whose excess is .1 N^-.1, or a sum with a steeper part, and NE on hard labels of it, or of something else."""
  rng = np.random.default_rng(number)
  rows = []
  for seed in range(seeds):
    excess = 0.1 * EXAMPLES**-0.1 * np.exp(0.002 * rng.standard_normal() + 0.0007 * rng.standard_normal(len(EXAMPLES)))
    tail = excess
    if kind == "parts":
      excess = excess + 1e3 * EXAMPLES**-1.0
    labels = 1e-4 * np.cumsum(rng.standard_normal(len(EXAMPLES))) / 4 + 5e-5 * rng.standard_normal(len(EXAMPLES))
    log_loss = BAYES + excess + labels + (3 * EXAMPLES**-0.4 if kind == "another law" else 0.0)
    log_loss = log_loss + (5e-3 * rng.standard_normal(len(EXAMPLES)) if kind == "noise" else 0.0)
    for i, n in enumerate(EXAMPLES):
      numbers = {"excess": excess[i], "excess_tail": tail[i] if kind == "parts" else None, "log_loss": log_loss[i]}
      rows.append(
        {"config_id": f"r{seed}", "seed": seed, "examples": int(n), "ne": log_loss[i] / ENTROPY, "order": None, "planted": True} | numbers
      )
  points = pl.DataFrame(rows, schema_overrides={"excess_tail": pl.Float64})
  limited = kind == "limited"
  return Curve("s=1.111", "dlrm", "data", float(EXAMPLES[-1]), "excess", "power", points, False, limited, None)


def law_of(kind: str, **change) -> NeLaw:
  (law,) = ne_laws([curve_of(kind, **change)])
  return law


def test_ne_of_a_power_follows_it():
  law = law_of("power", number=1)
  assert law.agrees and law.bayes == pytest.approx(BAYES / ENTROPY, abs=2e-4)
  assert law.verdict.startswith("NE follows the law of the excess: exponent 0.") and " times as wide, since the constant" in law.verdict
  assert f"theory has {law.bayes:.4f}" in law.verdict and f"[{law.ne.params['beta'].ci_low:.3g}, " in law.verdict
  assert law.as_dict()["agrees"] and law.as_dict()["tail"] is None
  (cells,) = ne_table([law]).rows
  assert cells[:4] == ["s=1.111", "dlrm", "data", "23.7M"] and cells[-2:] == [f"{law.bayes:.4f}", law.verdict]


def test_verdicts_of_twenty_curves():
  """The planted law is confirmed in most of 20 draws: 95% intervals of two parameters that move together."""
  assert sum(bool(law_of("power", number=n).agrees) for n in range(1, 21)) >= 18


def test_another_law_is_seen():
  law = law_of("another law")
  assert law.agrees is False and law.verdict.startswith("NE does not follow the law of the excess: exponent 0.")
  value, low, high = law.difference
  assert law.verdict.endswith(f"; the exponents differ by {value:.3f} [{low:.3f}, {high:.3f}]")


def test_a_sum_of_parts_is_said_to_be_one():
  law = law_of("parts")
  assert law.agrees is None and law.excess.status == "misfit" and law.tail.status == "ok"
  assert law.verdict.startswith("the whole excess is no power of examples, so that the exponent of NE, 0.")
  tail, gamma = law.tail.params["beta"], law.ne.params["gamma"]
  assert f"not that of the tail, {tail.estimate:.3g} [{tail.ci_low:.3g}, {tail.ci_high:.3g}]; nor is its constant, " in law.verdict
  assert gamma.ci_low > law.bayes and law.verdict.endswith(f", that of theory, {law.bayes:.4f}")


def test_noise_leaves_the_exponent_of_ne_open():
  law = law_of("noise")
  assert law.ne.status == "not_identifiable" and law.verdict.startswith("NE does not determine its exponent, ")


def test_the_interval_of_a_difference_of_normal_estimates_is_theirs():
  """With symmetric intervals, that of the difference is the root of the sum of their squares."""
  law = law_of("power")
  (b, low, high), (b0, low0, high0) = ((p.estimate, p.ci_low, p.ci_high) for p in (f.params["beta"] for f in (law.ne, law.excess)))
  value, below, above = law.difference
  assert value == pytest.approx(b - b0)
  assert (value - below) ** 2 == pytest.approx((b - low) ** 2 + (high0 - b0) ** 2)
  assert (above - value) ** 2 == pytest.approx((high - b) ** 2 + (b0 - low0) ** 2)


def test_limited_rows_and_click_logs_have_no_comparison():
  assert ne_laws([curve_of("limited")]) == []
  logs = curve_of("power")
  clicks = Curve(
    "clicks", "dlrm", "data", 1.0, "ne", "power_constant", logs.points.with_columns(excess=pl.lit(None, pl.Float64)), False, False, None
  )
  assert ne_laws([clicks]) == []
