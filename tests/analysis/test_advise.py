"""Advice on sweeps drawn from a known additive law: what to buy, how sure, what a target costs, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
from made_sweep import BASE, EXAMPLES, steepening, write_sweep

from analysis import advise as program
from analysis.load import load, same_rows
from analysis.questions.additive import MOST_SIZES, Model, Refused, models
from analysis.questions.advice import advise, to_reach
from dlrm_jax.common import flags, record

TRUTHS = {  # NE = .7 + A_rows rows^-.5 + A_dim dim^-1 + A_examples N^-.4
  "rows": {"rows": 1.5, "dim": 0.02, "examples": 2.0},
  "examples": {"rows": 0.05, "dim": 0.02, "examples": 12.0},
  "dim": {"rows": 0.05, "dim": 0.4, "examples": 2.0},
}
EXPONENTS = {"rows": 0.5, "dim": 1.0, "examples": 0.4}


def loss_of(scales: dict[str, float], **at: float) -> float:
  return 0.7 + sum(scale * at[name] ** -EXPONENTS[name] for name, scale in scales.items())


def write(root: Path, scales: dict[str, float], seeds: int = 3, level: float = 2e-4, axes: tuple[str, ...] = ("rows", "dim")) -> Path:
  """A sweep whose NE is `loss_of`."""
  return write_sweep(root, lambda n, rows, dim: loss_of(scales, rows=rows, dim=dim, examples=n), seeds=seeds, level=level, axes=axes)


def model_of(tmp_path: Path, truth: str, **change) -> Model:
  (model,) = models(load(write(tmp_path, TRUTHS[truth], **change)))
  return model


@pytest.mark.parametrize("truth", TRUTHS)
def test_buys_what_the_law_says(tmp_path, truth):
  """Ten times the FLOPs: ten times the examples, the rows (free) or the dim (FLOPs are in proportion)."""
  model = model_of(tmp_path, truth)
  advice, base = advise(model, 10.0), BASE | {"examples": EXAMPLES[-1]}
  assert advice.choice == truth and advice.verdict.startswith(f"Buy {truth}")
  for option in advice.options[:3]:
    want = loss_of(TRUTHS[truth], **base | {option.buy: base[option.buy] * 10})
    assert option.ci_low - 2e-3 <= want <= option.ci_high + 2e-3
    np.testing.assert_allclose(option.loss, want, rtol=0.01)
    assert option.free == (option.buy == "rows")
  np.testing.assert_allclose(advice.base["loss"], loss_of(TRUTHS[truth], **base), rtol=1e-3)
  assert advice.base["flops"] == 800.0 * EXAMPLES[-1] and advice.base["size_rows"] == 1000


def test_a_split_is_never_worse_than_its_parts_and_rows_cost_no_examples(tmp_path):
  advice = advise(model_of(tmp_path, "rows"), 10.0)
  by_name = {o.buy: o for o in advice.options}
  assert by_name["examples and rows"].loss < min(by_name["rows"].loss, by_name["examples"].loss)
  assert by_name["examples and rows"].examples == 10 * EXAMPLES[-1] and by_name["examples and rows"].size == 10_000
  split = by_name["examples and dim"]
  np.testing.assert_allclose(split.examples * split.size, 10 * EXAMPLES[-1] * 8, rtol=1e-6)
  assert split.size > 8  # where nothing of the axis is bought, the split is the examples and is not shown
  assert split.loss <= min(by_name["dim"].loss, by_name["examples"].loss) + 1e-12


def test_noise_that_hides_the_answer_is_said_so(tmp_path):
  advice = advise(model_of(tmp_path, "dim", level=0.2), 10.0)
  assert advice.choice == "undecided" and "cannot tell" in advice.verdict
  flat = {"rows": 1e-9, "dim": 1e-9, "examples": 1e-9}
  (model,) = models(load(write(tmp_path / "flat", flat, level=0.01)))
  assert "lowers the loss at all" in advise(model, 10.0).verdict


def test_one_seed_takes_its_noise_from_the_scatter_around_a_law(tmp_path):
  model = model_of(tmp_path, "rows", seeds=1)
  assert any("one seed: the noise of a pass is estimated" in note for note in model.notes) and advise(model, 10.0).choice == "rows"
  assert model.measured_error > 0


def test_target_loss(tmp_path):
  model = model_of(tmp_path, "examples")
  now = loss_of(TRUTHS["examples"], **BASE, examples=EXAMPLES[-1])
  assert "is reached by the base run" in to_reach(model, now + 0.01)
  assert "out of reach" in to_reach(model, 0.5)  # the constant is .7
  text = to_reach(model, loss_of(TRUTHS["examples"], **BASE, examples=4 * EXAMPLES[-1]))
  times = float(text.split("about ")[1].split(" times")[0])
  assert 2.0 < times <= 4.4  # four times by examples alone; rows are free


def test_rows_that_no_id_would_use_are_not_offered(tmp_path):
  root = write(tmp_path, TRUTHS["rows"])
  for path in root.glob("runs/*/record.json"):
    entry = record.read_json(path)
    if entry["tables"][0]["num_rows"] == 1000:
      entry["config"]["model"]["num_rows"] = 5000  # allowed, but there are 1000 ids
    record.write_json(path, entry)
  (model,) = models(load(root))
  assert model.axes == ("dim",) and any("every id has one of its own" in note for note in model.notes)


def test_axes_of_few_sizes_are_left_out_and_of_many_some_are_taken(tmp_path):
  with pytest.raises(flags.UserError, match=r"no axis of rows, dim, overarch, mlp with 3 sizes or more"):
    models(load(write(tmp_path, TRUTHS["rows"], axes=())))
  assert MOST_SIZES >= 8


def test_why_axes_were_left_out_is_said_where_none_is_left(tmp_path):
  root = write(tmp_path, TRUTHS["rows"], axes=("rows",))
  for path in root.glob("runs/*/record.json"):
    entry = record.read_json(path)
    entry["config"]["model"]["num_rows"] = 5000  # allowed, but there are 1000 ids
    record.write_json(path, entry)
  with pytest.raises(flags.UserError, match=r"nothing to advise on \(clicks: rows: every id has one of its own in the base run"):
    models(load(root))


def with_training(root: Path, **change) -> Path:
  """The sweep after a change of how its runs were trained."""
  for path in root.glob("runs/*/record.json"):
    entry = record.read_json(path)
    entry["config"]["train"] |= change
    record.write_json(path, entry)
  return root


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (
      {"window": "recent"},
      "with --window=recent only the end of a run counts, and one length of the data axis is there, where a law takes 4",
    ),
    ({"lr_schedule": "cosine"}, "with --lr_schedule=.* only the end of a run counts, and .*: add data to --axes, with --data_mode=retrain"),
  ],
)
def test_runs_that_count_by_their_ends_are_the_reason_for_no_advice(tmp_path, capsys, change, message):
  root = with_training(write(tmp_path, TRUTHS["rows"], seeds=1), **change)
  with pytest.raises(flags.UserError, match=f"^clicks: No advice: {message}"):
    program.main(program.AdviseConfig(workdir=str(root), budget_flops=8e9))
  assert "No advice" not in capsys.readouterr().out


LENGTHS = tuple(2**k for k in range(15, 21))


def of_recent_rows(root: Path, truth: str, **change) -> Path:
  scales = TRUTHS[truth]

  def loss(n: float, rows: float, dim: float) -> float:
    return loss_of(scales, rows=rows, dim=dim, examples=n)

  return write_sweep(root, loss, level=2e-4, lengths=LENGTHS, **change)


@pytest.mark.parametrize("truth", TRUTHS)
def test_lengths_of_the_most_recent_rows_are_a_data_curve(tmp_path, truth):
  """The law is fitted to the ends of the runs, whose intervals hold the truth. Sentences say which rows the examples are."""
  (model,) = models(load(of_recent_rows(tmp_path, truth)))
  advice, base = advise(model, 10.0), BASE | {"examples": EXAMPLES[-1]}
  assert advice.choice == truth
  assert ("1.05e+07 examples of the most recent rows makes the loss" in advice.verdict) == (truth == "examples")
  for option in advice.options[:3]:
    want = loss_of(TRUTHS[truth], **base | {option.buy: base[option.buy] * 10})
    assert option.ci_low <= want <= option.ci_high and option.ci_high / option.ci_low < 1.1
  np.testing.assert_allclose(advice.base["loss"], loss_of(TRUTHS[truth], **base), rtol=1e-3)
  (test,) = [test for test in advice.backtests if test.along == "examples"]
  assert (test.fitted_to, test.at) == (2**18, 2**20) and abs(test.error) < 0.005
  assert "more examples of the most recent rows are rows that reach further back in the log" in advice.notes
  assert any("nothing tells whether sizes and examples act on each other" in note for note in advice.notes)
  assert ("spent on examples of the most recent rows" in to_reach(model, advice.options[0].loss)) == (truth != "dim")


def test_curves_of_recent_rows_that_the_law_misses_get_no_advice(tmp_path):
  """The loss falls faster and faster with the rows' number."""
  (found,) = models(load(write_sweep(tmp_path, steepening, level=2e-4, lengths=LENGTHS)))
  assert isinstance(found, Refused) and found.reason.startswith("the law of all runs misses the points")


def test_one_seed_of_recent_rows_is_said_to_be_too_sure(tmp_path):
  (model,) = models(load(of_recent_rows(tmp_path / "one", "examples", seeds=1)))
  (several,) = models(load(of_recent_rows(tmp_path / "three", "examples")))
  assert [any("one seed" in note for note in of.notes) for of in (model, several)] == [True, False]


def test_lengths_of_a_schedule_that_ends_are_a_data_curve_unless_the_log_drifts(tmp_path):
  """Whole rows from the oldest on: not called recent, and refused where the passes drift."""
  scales = TRUTHS["examples"]

  def loss(n: float, rows: float, dim: float) -> float:
    return loss_of(scales, rows=rows, dim=dim, examples=n)

  root = with_training(write_sweep(tmp_path / "a", loss, level=2e-4, lengths=LENGTHS), window="oldest", lr_schedule="linear")
  (model,) = models(load(root))
  assert advise(model, 10.0).choice == "examples" and "recent" not in " ".join((advise(model, 10.0).verdict, *model.notes))
  root = write_sweep(tmp_path / "b", loss, level=2e-4, lengths=LENGTHS, progressive=lambda n: 0.9 - 0.04 * np.log2(n / 2**14))
  (found,) = models(load(with_training(root, window="oldest", lr_schedule="linear")))
  assert isinstance(found, Refused) and "the log drifts" in found.reason


def test_seeds_of_a_log_in_its_order_see_the_same_rows(tmp_path):
  root = write(tmp_path, TRUTHS["rows"], seeds=1)
  assert same_rows(load(root).evaluations())
  assert not same_rows(load(with_training(root, order="shuffled")).evaluations())
  assert not same_rows(load(with_training(root, order=None)).evaluations())  # unknown


def test_program(tmp_path, capsys):
  root = write(tmp_path, TRUTHS["rows"])
  out = tmp_path / "advice.json"
  program.main(program.AdviseConfig(workdir=str(root), budget_flops=8e9, target_loss=0.72, output=str(out)))
  shown, (saved,) = capsys.readouterr().out, record.read_json(out)["advice"]
  assert "Buy rows" in shown and "times the base run's FLOPs" in shown and saved["choice"] == "rows"
  np.testing.assert_allclose(saved["times"], 8e9 / (800.0 * EXAMPLES[-1]))
  assert [o["buy"] for o in saved["options"]][:4] == ["rows", "examples", "dim", "examples and rows"]


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({}, "--budget_flops, --budget_examples: give one of the two"),
    ({"budget_flops": 1e9, "budget_examples": 1e6}, "give one of the two"),
    ({"budget_flops": 1.0}, "--budget_flops=1: must be above the 8.38861e"),
    ({"budget_examples": 1e3}, r"--budget_examples=1000: must be above the 1.04858e\+06 of the base run"),
    ({"budget_examples": -1.0}, "--budget_examples=-1.0: must be above 0"),
  ],
)
def test_budgets_that_are_none(tmp_path, change, message):
  root = write(tmp_path, TRUTHS["rows"])
  with pytest.raises(flags.UserError, match=message):
    program.main(program.AdviseConfig(workdir=str(root), **change))
