"""Words against points: every claim in the sentences, tables and figure labels of a report, and of advice, is computed again from the
curves of the sweep, without the code that made it. The sweeps are of many kinds, most of them such that laws go wrong.
"""

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
from made_sweep import additive, drifting, dropping, flat, interacting, saturated, steepening, write_sweep

from analysis import advise as advise_program
from analysis.fitting.fit_law import fit_law
from analysis.fitting.result import Estimate, interval_text
from analysis.questions.advice import UNDECIDED
from analysis.questions.sweep_laws import LawRow
from analysis.report import document
from analysis.report.analysis import Analysis, analyse
from analysis.report.findings import findings
from analysis.report.plots import law_texts
from analysis.report.tables import law_cells
from dlrm_jax.common import flags, record

N = r"(-?\d[\d,]*\.?\d*(?:e[-+]?\d+)?)"
KINDS = {
  "additive": {"loss": additive},
  "one seed": {"loss": additive, "seeds": 1},
  "noisy": {"loss": additive, "level": 0.02},
  "steepening": {"loss": steepening},
  "steepening, one seed": {"loss": steepening, "seeds": 1},
  "drifting": {"loss": drifting, "seeds": 1, "progressive": lambda n: 0.45 - 0.03 * np.log2(n / 2**14)},
  "drifting, three seeds": {"loss": drifting, "progressive": lambda n: 0.45 - 0.03 * np.log2(n / 2**14)},
  "saturated": {"loss": saturated},
  "interacting": {"loss": interacting},
  "dropping": {"loss": dropping},
  "dropping, one seed": {"loss": dropping, "seeds": 1},
  "flat": {"loss": flat},
  "flat and noisy": {"loss": flat, "level": 0.01},
}
SLOW = {"steepening, one seed", "drifting, three seeds", "dropping, one seed", "flat and noisy"}  # each has a fellow in the fast tests
SILENT = {"steepening", "steepening, one seed", "drifting", "drifting, three seeds", "interacting", "dropping", "dropping, one seed"}


class Points:
  """The measured NE of a sweep, read from its files."""

  def __init__(self, root: Path):
    self.runs, self.names = {}, {}
    for point in record.read_json(root / "sweep.json")["points"]:
      lines = [json.loads(line) for line in (root / "runs" / point["config_id"] / "curve.jsonl").read_text().splitlines()]
      self.runs.setdefault((point["axis"], float(point["size"])), []).append(lines)
      self.names[point["config_id"]] = lines

  def mean(self, axis: str, size: float) -> tuple[np.ndarray, np.ndarray, float]:
    """Examples, geometric mean NE over the seeds, and the standard deviation of a seed's log NE (NaN with one)."""
    runs = self.runs[axis, size]
    n = np.array([line["examples"] for line in runs[0]], float)
    logs = np.log([[line["ne"] for line in run] for run in runs])
    return n, np.exp(logs.mean(axis=0)), float(logs.std(axis=0, ddof=1).mean()) if len(runs) > 1 else float("nan")

  def sizes(self, axis: str) -> list[float]:
    return sorted(size for name, size in self.runs if name == axis)

  @property
  def base(self) -> tuple[np.ndarray, np.ndarray, float]:
    return self.mean("data", self.sizes("data")[-1])


def numbers(match: re.Match) -> list[float]:
  return [float(text.replace(",", "")) for text in match.groups()]


def slope(n: np.ndarray, ne: np.ndarray) -> float:
  return float(-np.polyfit(np.log(n), np.log(ne), 1)[0])


@pytest.fixture(scope="module", params=[pytest.param(kind, marks=[pytest.mark.slow] if kind in SLOW else []) for kind in KINDS])
def made(request, tmp_path_factory) -> tuple[str, Path, Points, Analysis]:
  root = write_sweep(tmp_path_factory.mktemp("made"), **KINDS[request.param])
  return request.param, root, Points(root), analyse(root)


def sentences_of(found: Analysis) -> list[str]:
  return [*findings(found), *(note for advice in found.advice for note in advice.notes)]


def check_gain(text: str, points: Points) -> int:
  """`makes the loss L, G lower [a, b] than the measured M`: M is the base's, G follows from L and M, and lies inside its interval."""
  found = 0
  pattern = rf"{N}% lower \[{N}%, {N}%\] than the measured {N}"
  for match in re.finditer(pattern, text):
    gain, low, high, measured = numbers(match)
    np.testing.assert_allclose(measured, points.base[1][-1], rtol=1e-4)
    assert low <= gain <= high and low > 0
    if loss := re.search(rf"makes the loss {N}, {match.group(1)}%", text):
      np.testing.assert_allclose(gain, 100 * (1 - numbers(loss)[0] / measured), atol=0.02)
    found += 1
  assert ("lower [" in text) == bool(found)
  return found


def test_gains_are_against_the_measured_base(made):
  kind, _, points, found = made
  texts = sentences_of(found)
  gains = sum(check_gain(text, points) for text in texts)
  assert gains == 0 or kind not in SILENT, (kind, texts)
  if kind in ("additive", "one seed"):
    assert gains == 1
    assert found.advice[0].choice == "rows"  # ten times 1000 rows lower the truth the most
    truth = 1 - additive(2**20, 10_000, 8) / additive(2**20, 1000, 8)
    (match,) = (m for text in texts for m in re.finditer(rf"{N}% lower \[{N}%, {N}%\]", text))
    gain, low, high = numbers(match)
    assert low / 100 <= truth <= high / 100 and abs(gain / 100 - truth) < 0.3 * truth


def test_where_law_and_base_disagree_no_gain_is_stated(made):
  _, _, points, found = made
  for advice in found.advice:
    if match := re.search(rf"gives {N} \[{N}, {N}\] for the base run, where {N} was measured", advice.verdict):
      law, low, high, measured = numbers(match)
      np.testing.assert_allclose(measured, points.base[1][-1], rtol=1e-4)
      assert low <= law <= high and not low <= measured <= high and advice.choice == UNDECIDED and "lower" not in advice.verdict


def test_no_effect_is_said_of_sizes_that_seeds_cannot_tell_apart_alone(made):
  kind, _, points, found = made
  for text in sentences_of(found):
    if match := re.search(r"(rows|dim): no effect on the loss beyond the noise", text):
      ends = [points.mean(match.group(1), size)[1][-1] for size in points.sizes(match.group(1))]
      sd = points.mean(match.group(1), points.sizes(match.group(1))[0])[2]
      assert np.isfinite(sd) and np.ptp(np.log(ends)) < 4 * sd, (kind, text)
    if match := re.search(r"(rows|dim): one seed", text):
      assert len(next(iter(points.runs.values()))) == 1, (kind, text)
    if match := re.search(rf"(rows|dim): the measured loss does not fall, {N} at", text):
      ends = [points.mean(match.group(1), size)[1][-1] for size in points.sizes(match.group(1))]
      assert ends[-1] > ends[0], (kind, text)


def test_backtests_name_what_was_measured(made):
  _, _, points, found = made
  for advice in found.advice:
    for text in advice.notes:
      if match := re.search(rf"the law predicts {N} at {N} ?(?:examples)?, where {N} was measured \(\+?{N}%\)", text):
        predicted, at, measured, error = numbers(match)
        along = "data" if "examples" in text else re.search(r"fitted to (\w+) up to", text).group(1)  # type: ignore[union-attr]
        size = points.sizes("data")[-1] if along == "data" else at
        np.testing.assert_allclose(measured, points.mean(along, size)[1][-1], rtol=1e-4)
        np.testing.assert_allclose(error, 100 * (predicted / measured - 1), atol=0.02)
      else:
        assert "Backtest" not in text


def test_a_law_is_called_ok_only_where_it_passes_the_points(made):
  """The law of every curve that is `ok`: its constant is not above a measured loss, and it meets the last points."""
  kind, _, points, found = made
  for row in (r for r in found.rows if r.fit.status in ("ok", "on_bound", "not_identifiable")):
    n, ne, sd = points.mean(row.axis, row.size)
    kept = (n >= row.fit.x_min) & (n <= row.fit.x_max)
    n, ne = n[kept], ne[kept]
    sd = 0.0 if np.isnan(sd) else sd
    room = 4 * sd + 0.05 * np.ptp(np.log(ne)) + 5e-4
    assert np.log(row.fit.value("gamma")) < np.log(ne.min()) + room, (kind, row.fit)
    off = np.log(row.fit.predict(n) / ne)
    assert abs(off[-1]) < room and np.abs(off[-3:]).mean() < room, (kind, row.fit.status, off)
  if kind in SILENT:
    assert not any(r.fit.status == "ok" and (r.axis, r.x) == ("data", "examples") for r in found.rows) or kind == "interacting", kind


def test_saturated_curves_are_flat_at_their_measured_end(made):
  """The last third of the points falls less than half as steeply as the first, or by less than noise."""
  kind, _, points, found = made
  said = [row for row in found.schemes if row.resource == "data" and row.scheme != "best"]
  assert said
  for row in said:
    n, ne, sd = points.mean(row.scheme, points.sizes(row.scheme)[-1])
    kept = n >= n[-1] / 64
    n, ne = n[kept], ne[kept]
    third = round(len(n) / 3)
    start, before, end = slope(n[:third], ne[:third]), slope(n[: -third + 1], ne[: -third + 1]), slope(n[-third:], ne[-third:])
    noise = 0.0 if np.isnan(sd) else 4 * sd / np.log(n[-1] / n[-third])
    if row.regime == "saturated":
      assert end < max(0.5 * start, 1e-3) + noise and end < before + noise, (kind, row.scheme, start, end)
    if row.regime == "steepening":
      assert end > before, (kind, row.scheme, before, end)
    if row.regime == "rises":
      assert end < 0
  if kind == "saturated":
    assert {row.regime for row in said} == {"saturated"}
  if kind in ("additive", "one seed"):
    assert not {row.regime for row in said} & {"saturated", "cannot tell", "steepening"}


def test_rises_of_the_held_out_loss_are_those_of_the_curves(made):
  kind, _, points, found = made
  text = " ".join(findings(found))
  match = re.search(rf"rises by {N}% from {N} to {N} examples", text)
  assert bool(match) == kind.startswith("drifting"), kind
  if match:
    rise, low, high = numbers(match)
    mean = np.exp(np.mean([[np.log(line["ne"]) for line in lines] for lines in points.names.values()], axis=0))  # over all runs of the log
    at = dict(zip(points.base[0], mean, strict=True))
    np.testing.assert_allclose(rise, 100 * (at[high] / at[low] - 1), atol=0.06)


def test_figures_say_what_the_tables_say(made):
  """Every label of a law is the table's interval or its status."""
  _, _, _, found = made
  for row in found.laws:
    cells, texts = law_cells(row), " ".join(law_texts(row))
    if row.fit.refused:
      assert row.fit.status.removeprefix("refused: ") in texts and "β" not in texts
    elif row.fit.status == "misfit":
      assert "β" not in texts and "misses the points" in texts and cells[8] == "misfit"
    else:
      assert interval_text(row.fit.params["beta"], 3) in texts and cells[7] == interval_text(row.fit.params["beta"], 3)
      assert interval_text(row.fit.params["gamma"], 3) in texts
      assert ("not identifiable" in texts) == (row.fit.status == "not_identifiable")


def test_data_exponents_are_said_of_laws_that_hold(made):
  kind, _, _, found = made
  rows = [row for row in found.rows if row.axis == "data"]
  text = [line for line in findings(found) if "data exponent" in line]
  assert bool(text) == (rows[0].fit.status in ("ok", "on_bound", "not_identifiable")), (kind, text)
  assert bool([line for line in findings(found) if "no data law" in line]) == (not text)


def test_a_misfit_names_the_shuffled_order_where_all_seeds_read_one_order(tmp_path):
  """A wiggle of the log that all seeds share; with one seed, or an order of its own for each, there is nothing to advise."""

  def wave(n: float, rows: float, dim: float) -> float:
    return additive(n, rows, dim) * (1 + 0.01 * np.sin(2 * np.log(n)))

  for order, seeds, want in (("time", 3, True), ("shuffled", 3, False), ("time", 1, False)):
    found = analyse(write_sweep(tmp_path / f"{order}{seeds}", wave, order=order, seeds=seeds, axes=()))
    (text,) = [line for line in findings(found) if "no data law" in line]
    assert ("Remedy: an order of its own for each seed (--order=shuffled)" in text) == want, text


def test_advise_says_the_same_and_refuses_where_it_cannot(made, tmp_path, capsys):
  kind, root, points, found = made
  config = advise_program.AdviseConfig(workdir=str(root), budget_examples=10.0 * 2**20, output=str(tmp_path / "a.json"))
  (advice,) = found.advice
  if advice.choice == "refused":
    with pytest.raises(flags.UserError, match="No advice: ") as error:
      advise_program.main(config)
    assert str(error.value) == f"clicks: {advice.verdict}" and "No advice" not in capsys.readouterr().out
  else:
    advise_program.main(config)
  shown, (saved,) = capsys.readouterr().out, record.read_json(tmp_path / "a.json")["advice"]
  check_gain(saved["verdict"], points)
  assert saved["choice"] == advice.choice and (saved["choice"] == "refused" or saved["verdict"].split()[0] in shown)
  assert kind not in SILENT or saved["choice"] in ("refused", "undecided"), (kind, saved["verdict"])


def test_alarms_of_runs_are_shown_with_their_figures(tmp_path):
  """Two runs are worse than the logistic regression of their record, of two that are not small on purpose; none is where there is none."""
  root = write_sweep(tmp_path, additive, seeds=1)
  assert not [line for line in analyse(root).warnings if line.startswith("alarm")]
  paths = [root / "runs" / name / "record.json" for name in ("r1000d8s0", "r1000d16s0", "r60d8s0")]
  for path in paths:
    entry = record.read_json(path)
    record.write_json(path, entry | {"logistic_log_loss": 0.9 * entry["log_loss"], "logistic_ne": 0.9 * entry["ne"]})
  (line,) = [line for line in analyse(root).warnings if line.startswith("alarm")]
  assert "worse_than_logistic: 2 of 2 runs (1 more are below the largest size of their axis), such as clicks / dlrm / data=" in line
  losses = {round(record.read_json(path)["log_loss"], 4) for path in paths[:1]}
  (match,) = re.finditer(rf"log loss is {N} against {N}", line)
  assert numbers(match)[0] in losses


def test_epochs_after_the_first_are_in_no_data_law(tmp_path):
  root = write_sweep(tmp_path, additive, seeds=1)
  for path in root.glob("runs/*/curve.jsonl"):
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
      line["epochs"] = line["examples"] / 2**19
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
  found = analyse(root)
  assert {row.fit.x_max for row in found.rows} == {2.0**19}
  assert any("12 evaluations of 6 runs come after the first epoch and are in no law" in line for line in found.warnings)


def test_an_exponent_that_the_points_leave_open_has_no_number():
  """Nothing but noise along the sizes: neither a value of beta nor the alpha that goes with it is shown."""
  open_end = Estimate(5.25, 40.0, None, None)
  row = LawRow("clicks", "dlrm", "dim", None, "flops", "ne", fit_law(np.arange(1.0, 9.0), 3.0 * np.arange(1.0, 9.0) ** -0.5, "power"))
  row = dataclasses.replace(row, fit=dataclasses.replace(row.fit, params={"alpha": Estimate(1.5e50, 1e49, None, None), "beta": open_end}))
  assert law_cells(row)[7] == "? [?, ?]" and law_cells(row)[10] == "-" and not any("e+50" in text for text in law_texts(row))
  half = dataclasses.replace(row.fit, params=row.fit.params | {"beta": Estimate(5.25, 40.0, 1.0, None)})
  assert law_cells(dataclasses.replace(row, fit=half))[7] == "5.25 [1, ?]"


def test_the_setting_has_the_losses_of_base_rate_and_logistic_regression(tmp_path):
  root = write_sweep(tmp_path, additive, axes=())
  for path in root.glob("runs/*/record.json"):
    record.write_json(path, record.read_json(path) | {"base_rate_ne": 1.0125, "logistic_ne": 0.8765})
  table = document._setting(analyse(root).everything)
  cells = dict(zip(table.columns, table.rows[0], strict=True))
  assert cells["base rate's NE"] == "1.0125" and cells["logistic regression's NE"] == "0.8765"
  assert "decay examples" in cells and "tables' warm-up examples" in cells and "alarm" in table.note
