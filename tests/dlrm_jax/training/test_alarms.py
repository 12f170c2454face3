"""Alarms on records and curves made by hand: each of them raised, and each of them not raised just below its bound."""

import math
import subprocess
import sys
from typing import Any

import pytest

from dlrm_jax.common import axis_names
from dlrm_jax.training import alarms

RATE = 0.2
ENTROPY = -(RATE * math.log(RATE) + (1 - RATE) * math.log(1 - RATE))  # 0.5004


def row(examples: int, log_loss: float, **changes: Any) -> dict[str, Any]:
  """A row of a curve."""
  return {"examples": examples, "log_loss": log_loss, "ne": log_loss / ENTROPY, "progressive_log_loss": log_loss} | changes


def record_of(log_loss: float | None = 0.45, **changes: Any) -> dict[str, Any]:
  """A record without an alarm, unless `changes` bring one."""
  good = {
    "status": "done",
    "log_loss": log_loss,
    "ne": log_loss and log_loss / ENTROPY,
    "base_rate": RATE,
    "base_rate_log_loss": ENTROPY,
    "logistic_log_loss": 0.46,
    "logistic_ne": 0.46 / ENTROPY,
    "calibration": 1.02,
    "eval_examples": 100_000,
    "restored_examples": 0,
  }
  return good | changes


FALLING = [row(1000, 0.49), row(2000, 0.47), row(4000, 0.45)]


def codes(out: dict[str, Any], curve: list[dict[str, Any]] | None = None) -> list[str]:
  return [alarm.code for alarm in alarms.alarms_of(out, FALLING if curve is None else curve)]


def test_a_good_run_has_none():
  assert codes(record_of()) == []


CASES = [
  # (code, a record just beyond the bound, its curve, one just within it, its curve)
  (alarms.DIVERGED, {"status": "diverged", "log_loss": None, "ne": None, "calibration": None}, None, {}, None),
  (alarms.WORSE_THAN_BASE_RATE, {"base_rate_log_loss": 0.4499}, None, {"base_rate_log_loss": 0.4501}, None),
  # a standard error is .00226 of .45 and .00224 of .4436, so two of a difference are .0064
  (alarms.WORSE_THAN_LOGISTIC, {"logistic_log_loss": 0.4435}, None, {"logistic_log_loss": 0.4438}, None),
  (
    alarms.WORSE_THAN_LOGISTIC,
    {"eval_examples": 10**8, "logistic_log_loss": 0.4494},
    None,
    {"eval_examples": 10**8, "logistic_log_loss": 0.4497},
    None,
  ),
  (alarms.ONE_CLASS, {"roc_auc": None}, None, {"roc_auc": 0.5}, None),
  (alarms.NE_ABOVE_1, {"ne": 1.0001}, None, {"ne": 0.9999}, None),
  # ln 2 + 2 * .5004 = 1.694
  (
    alarms.EXPLODES,
    {},
    [row(1000, 0.49, progressive_log_loss=1.70), *FALLING[1:]],
    {},
    [row(1000, 0.49, progressive_log_loss=1.68), *FALLING[1:]],
  ),
  # 2% of .45 is .0090; a standard error is hypot(.45, .4 * ln 4) / sqrt(100,000) = .0023, so three of a difference are .0096
  (alarms.RISES, {}, [row(1000, 0.45), row(2000, 0.4599)], {}, [row(1000, 0.45), row(2000, 0.4593)]),
  (
    alarms.RISES,
    {"eval_examples": 10**8},
    [row(1000, 0.45), row(2000, 0.4591)],
    {"eval_examples": 10**8},
    [row(1000, 0.45), row(2000, 0.4589)],
  ),
  # the error that a record holds is used: two and three of .0001 are below 0.1% of the logistic loss and 2% of the first one
  (
    alarms.WORSE_THAN_LOGISTIC,
    {"logistic_log_loss": 0.4494, "logistic_error": 1e-4},
    None,
    {"logistic_log_loss": 0.4494, "logistic_error": 4e-4},
    None,
  ),
  (
    alarms.RISES,
    {"eval_examples": 1000},
    [row(1000, 0.45), row(2000, 0.4599, rise_error=0.003)],
    {"eval_examples": 1000},
    [row(1000, 0.45), row(2000, 0.4599, rise_error=0.004)],
  ),
  (alarms.CALIBRATION, {"calibration": 1.26}, None, {"calibration": 1.24}, None),
  (alarms.CALIBRATION, {"calibration": 0.79}, None, {"calibration": 0.81}, None),
]


@pytest.mark.parametrize(("code", "beyond", "its_curve", "within", "other_curve"), CASES)
def test_each_alarm_both_ways(
  code: str,
  beyond: dict[str, Any],
  its_curve: list[dict[str, Any]] | None,
  within: dict[str, Any],
  other_curve: list[dict[str, Any]] | None,
):
  assert codes(record_of(**beyond), its_curve) == [code]
  assert codes(record_of(**within), other_curve) == []


def test_the_bounds_follow_the_number_of_held_out_examples():
  """Of 300 held-out rows neither a rise of 5% nor a calibration of 1.3 says anything."""
  curve = [row(1000, 0.45), row(2000, 0.4725)]
  assert codes(record_of(), curve) == [alarms.RISES]
  assert codes(record_of(eval_examples=300), curve) == []
  few = [row(1000, 0.45, eval_examples=300), row(2000, 0.4725)]  # the early evaluation was on fewer rows
  assert codes(record_of(), few) == []
  # the last evaluation is of more rows, on which the loss is another one: those that both have in common are compared
  common = [row(1000, 0.45, common_log_loss=0.45), row(2000, 0.4725, common_log_loss=0.44)]
  assert codes(record_of(), common) == []
  common[1]["common_log_loss"] = 0.4725
  assert codes(record_of(), common) == [alarms.RISES]
  assert codes(record_of(calibration=1.3)) == [alarms.CALIBRATION]
  assert codes(record_of(calibration=1.3, eval_examples=300)) == []


def test_the_largest_rise_is_named_wherever_it_is():
  """The curve of a kept sweep of a real log: its last evaluation is its best one."""
  curve = [row(n, ne * ENTROPY) for n, ne in ((1000, 0.92), (2000, 1.58), (4000, 1.2), (8000, 1.32), (16_000, 0.67))]
  (alarm,) = alarms.alarms_of(record_of(0.67 * ENTROPY, logistic_log_loss=None), curve)
  assert alarm.code == alarms.RISES
  assert "0.4604 after 1,000 examples, 0.7906 after 2,000 (+71.7%)" in alarm.text


def test_what_every_sentence_says():
  bad = record_of(0.6, logistic_log_loss=0.45, logistic_ne=0.9, calibration=3.0, base_rate_log_loss=0.5)
  texts = {alarm.code: alarm.text for alarm in alarms.alarms_of(bad, [row(1000, 0.5, progressive_log_loss=38.0), row(2000, 0.6)])}
  assert list(texts) == [code for code in alarms.CODES if code not in (alarms.ONE_CLASS, alarms.DIVERGED)]  # in this order
  assert "0.6000" in texts[alarms.WORSE_THAN_BASE_RATE] and "click rate 0.2 gives 0.5000" in texts[alarms.WORSE_THAN_BASE_RATE]
  assert "0.6000 against 0.4500 (NE 1.1990 against 0.9000)" in texts[alarms.WORSE_THAN_LOGISTIC]
  assert "38 nats" in texts[alarms.EXPLODES] and "dlrm_jax.data.describe" in texts[alarms.EXPLODES]
  assert "--lr_find" in texts[alarms.NE_ABOVE_1] and "--lr_find" in texts[alarms.CALIBRATION]
  for text in texts.values():
    assert "\n" not in text and text == text.strip()


def test_an_ne_above_1_may_be_the_click_rate_s():
  """The held-out click rate is higher than that of training, so that even the base rate is above 1; the model is better than it."""
  (alarm,) = alarms.alarms_of(record_of(0.6, ne=1.2, base_rate_log_loss=0.7, logistic_log_loss=0.65), [row(1000, 0.6)])
  assert alarm.code == alarms.NE_ABOVE_1 and "another click rate" in alarm.text


def test_records_of_earlier_versions_have_alarms():
  """They hold no baselines: the log loss of the base rate is log loss / NE."""
  old = {"status": "done", "log_loss": 0.6, "ne": 1.2, "calibration": 1.0, "base_rate": RATE, "eval_examples": 1000}
  assert codes(old, [row(1000, 0.6)]) == [alarms.WORSE_THAN_BASE_RATE, alarms.NE_ABOVE_1]
  assert codes({"status": "done", "log_loss": 0.45, "ne": 0.9}) == []
  assert codes({"status": "done"}, []) == []
  assert codes({"status": "failed", "error": {}}, []) == []


def test_undefined_numbers_are_no_alarm_and_no_error():
  nothing = dict.fromkeys(record_of()) | {"status": "done"}
  assert codes(nothing, [dict.fromkeys(row(1, 1.0)) | {"examples": n} for n in (1, 2)]) == []
  for rate in (0.0, 1.0):
    assert codes(record_of(base_rate=rate, ne=None, base_rate_log_loss=None)) == []


def test_a_run_that_branched_off_another_has_no_first_losses():
  curve = [row(1000, 0.49, progressive_log_loss=38.0)]
  assert codes(record_of(), curve) == [alarms.EXPLODES]
  assert codes(record_of(restored_examples=500), curve) == []


@pytest.mark.parametrize(("calibration", "label"), [(None, 0), (0.99, 1)])
def test_held_out_rows_of_one_class_are_named_first(calibration: float | None, label: int):
  """The record of a log that is sorted by its label. Alarms that depend on the held-out loss would blame the model."""
  changes = {"roc_auc": None, "calibration": calibration, "progressive_log_loss": 0.05}
  curve = [row(4096, 4.85, **changes), row(185_472, 12.7, **changes)]
  out = record_of(0.0104, ne=0.02, roc_auc=None, calibration=calibration, logistic_log_loss=0.001)
  (alarm,) = alarms.alarms_of(out, curve)
  assert alarm.code == alarms.ONE_CLASS and f"every label is {label}" in alarm.text and "--eval_from" in alarm.text
  running = {"base_rate": RATE, "eval_examples": 100_000, "restored_examples": 0}
  assert [alarm.code for alarm in alarms.alarms_of(running, curve)] == [alarms.ONE_CLASS] and alarms.ONE_CLASS in alarms.EARLY
  assert codes(record_of(roc_auc=None, log_loss=None), []) == []  # nothing was held out


def test_repeated_rows_are_the_likely_cause_of_a_rise_after_the_first_pass():
  """The curve of a run of four passes over 270k rows; and one that rises within its first pass."""
  losses = ((185_472, 0.5087), (262_144, 0.5022), (370_816, 0.5204), (524_288, 0.5051), (1_048_576, 0.5221), (1_079_980, 0.5194))
  curve = [row(n, loss, epochs=n / 269_995) for n, loss in losses]
  (alarm,) = alarms.alarms_of(record_of(0.5194, ne=0.9, base_rate_log_loss=0.576, logistic_log_loss=None), curve)
  assert alarm.code == alarms.RISES and "drift" not in alarm.text
  assert "rows are trained on again (3.88 passes by then; try --epochs=1)" in alarm.text
  assert alarm.text.endswith("the best loss, 0.5022, was after 262,144 examples")
  first = [row(1000, 0.45, epochs=0.1), row(2000, 0.55, epochs=0.2), row(20_000, 0.46, epochs=2.0)]
  (alarm,) = alarms.alarms_of(record_of(), first)
  assert "drift" in alarm.text and "again" not in alarm.text


def test_reports_get_alarms_without_jax():
  words = "import sys; from dlrm_jax.training import alarms; sys.exit('jax' in sys.modules)"
  assert subprocess.run([sys.executable, "-c", words], check=False).returncode == 0


def test_lines_count_the_runs_of_each_code():
  """In the order of the codes. Runs of one name, such as those at several learning rates, count apart; a run without alarms counts too."""
  rises, worse = alarms.Alarm(alarms.RISES, "it rises"), alarms.Alarm(alarms.WORSE_THAN_LOGISTIC, "it is worse")
  names = {"1": "a", "2": "a", "3": "b", "4": "has no result"}
  assert alarms.lines_of(names, {"3": [], "2": [rises, worse], "1": [rises]}) == [
    "alarm worse_than_logistic: 1 of 3 runs, such as a: it is worse",
    "alarm evaluation_rises: 2 of 3 runs, such as a: it rises",
  ]


@pytest.mark.parametrize("name", ["log_loss", "common_log_loss", "examples", "progressive_log_loss"])
@pytest.mark.parametrize("value", [None, math.nan, 0.0])
def test_rows_without_a_number_are_left_out(name: str, value: float | None):
  """Curves of diverged runs have such fields. A loss is 0 where all held-out labels are alike and logits are large."""
  rising = [row(1000, 0.3), row(2000, 0.5), row(4000, 0.3)]
  odd = row(500, 0.4) | {name: value}
  assert codes(record_of(), [odd, *rising]) == codes(record_of(), rising) == [alarms.RISES]
  codes(record_of(), [each | {name: value} for each in rising])  # without an error
  codes(record_of(), [odd | {"progressive_log_loss": 50.0} for each in rising])


def test_runs_that_are_small_on_purpose_are_not_counted_as_worse_than_the_regression():
  rises, worse = alarms.Alarm(alarms.RISES, "it rises"), alarms.Alarm(alarms.WORSE_THAN_LOGISTIC, "it is worse")
  names = {"1": "rows=64", "2": "rows=512", "3": "base"}
  assert alarms.lines_of(names, {"1": [worse, rises], "2": [worse], "3": [worse]}, {"1", "2"}) == [
    "alarm worse_than_logistic: 1 of 1 runs (2 more are below the largest size of their axis), such as base: it is worse",
    "alarm evaluation_rises: 1 of 3 runs, such as rows=64: it rises",
  ]
  assert alarms.lines_of(names, {"1": [worse], "2": [worse], "3": []}, {"1", "2"}) == []


def test_which_runs_of_a_sweep_are_small_on_purpose():
  """The base run has the largest size of the rows axis, though not of dim; a batch size is no size of a model."""
  rows = [{"workload": "w", "axis": axis, "size": size, "config_id": name} for axis, size, name in (
    ("data", 9, "base"), ("rows", 64, "r64"), ("rows", 512, "base"), ("dim", 4, "d4"), ("dim", 8, "base"), ("dim", 16, "d16"),
    ("batch_size", 1, "b1"), ("batch_size", 2, "base"),
  )]  # fmt: skip
  grid = [{"workload": "w", "axis": "rows*dim", "size": k, "sizes": {"rows": r, "dim": d}, "config_id": name} for k, r, d, name in (
    (0, 2, 4, "r2"), (1, 4, 4, "d4"), (2, 4, 9, "all"),
  )]  # fmt: skip
  assert axis_names.below_largest(rows) == {"r64", "d4"}
  assert axis_names.below_largest(rows + grid) == {"r64", "d4", "r2"}
  assert axis_names.below_largest([*rows, {"workload": "x", "axis": "rows", "size": 64, "config_id": "r64"}]) == {"d4"}
