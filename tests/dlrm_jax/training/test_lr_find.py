"""The search for learning rates on losses that are known, and runs that use it. `test_trials.py` has its trials."""

import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from dlrm_jax import train
from dlrm_jax.common import record, stopping
from dlrm_jax.common.flags import UserError
from dlrm_jax.config import ModelConfig, RunConfig, TrainConfig
from dlrm_jax.data.source import open_source
from dlrm_jax.training import found_rates, loop, lr_find, trials

BASE = RunConfig(
  model=ModelConfig(embed_dim=2, num_rows=200, overarch=(4, 1)),
  train=TrainConfig(num_examples=4096, batch_size=128, eval_examples=512, first_eval=1024),
)


def bowl(table_lr: float, dense_lr: float, decay: float = 1.0) -> lr_find.Losses:
  """Losses that are least at these rates, whose best table rate is coupled to the dense one, and infinite at dense rates above 8.

  Two parts of each, whose mean is the loss.
  """

  def loss(a: float, b: float, examples: int) -> float:
    x, y, z = math.log2(a / table_lr), math.log2(b / dense_lr), math.log2(examples / decay) / 3 if examples else 0
    return math.inf if b > 8 else 0.5 + 0.01 * (x * x + y * y - 0.8 * x * y + z * z)

  return lambda rates: [[1.25 * loss(*these), 0.75 * loss(*these)] for these in rates]


@pytest.mark.parametrize(("table_lr", "dense_lr"), [(0.1, 0.05), (0.0125, 0.00625), (3.2, 1.6), (0.1 / 64, 0.4), (0.05, 0.1)])
def test_the_search_ends_at_the_least_loss_however_far_it_is(table_lr: float, dense_lr: float):
  tried = lr_find.search(bowl(table_lr, dense_lr), (0.1, 0.05, 0))
  best = min(tried, key=lambda trial: trial.loss)
  assert (best.table_lr, best.dense_lr) == pytest.approx((table_lr, dense_lr))
  assert len({(trial.table_lr, trial.dense_lr) for trial in tried}) == len(tried) <= lr_find.MAX_TRIALS
  neighbours = {(best.table_lr * a, best.dense_lr * b) for a, b in ((2, 1), (0.5, 1), (1, 2), (1, 0.5), (2, 2), (0.5, 0.5))}
  rates = [(trial.table_lr, trial.dense_lr) for trial in tried]
  for neighbour in neighbours:  # it is at no edge of what was tried
    assert any(pair == pytest.approx(neighbour) for pair in rates)


def test_the_search_comes_back_from_rates_at_which_everything_diverges():
  tried = lr_find.search(bowl(0.1, 0.05), (1000.0, 500.0, 0))
  assert math.isinf(tried[0].loss)
  best = min(tried, key=lambda trial: trial.loss)
  assert best.loss < 0.55


def test_the_search_gives_up_where_nothing_is_finite():
  tried = lr_find.search(lambda rates: [[0.5, math.nan]] * len(rates), (0.1, 0.05, 64))
  assert len(tried) == lr_find.MAX_TRIALS and all(math.isinf(trial.loss) for trial in tried)


def test_a_loss_that_falls_for_ever_ends_the_search_too():
  tried = lr_find.search(lambda rates: [[a * b] for a, b, _ in rates], (0.1, 0.05, 0))
  assert len(tried) <= lr_find.MAX_TRIALS


def test_equal_losses_keep_the_rates_of_the_flags():
  assert min(lr_find.search(lambda rates: [[1.0]] * len(rates), (0.1, 0.05, 64)), key=lambda trial: trial.loss).table_lr == 0.1


def test_the_decay_is_found_first_and_alone_where_only_it_is_asked_for():
  tried = lr_find.search(bowl(0.4, 0.05, 1000 * 8**3), (0.1, 0.05, 1000), find_rates=False)
  assert [trial.decay_examples for trial in tried] == [1000, 8000, 125, 64_000, 512_000, 4_096_000]
  assert {(trial.table_lr, trial.dense_lr) for trial in tried} == {(0.1, 0.05)}
  assert lr_find.least(tried).decay_examples == 512_000
  both = lr_find.search(bowl(0.4, 0.05, 1000 * 8**3), (0.1, 0.05, 1000))
  assert both[: len(tried)] == tried
  best = lr_find.least(both)
  assert (best.table_lr, best.dense_lr, best.decay_examples) == pytest.approx((0.4, 0.05, 512_000))
  bounded = lr_find.search(bowl(0.4, 0.05, 1000 * 8**3), (0.1, 0.05, 1000), longest=70_000, find_rates=False)
  assert [trial.decay_examples for trial in bounded] == [1000, 8000, 125, 64_000]
  assert [trial.decay_examples for trial in lr_find.search(bowl(1, 1, 1.0), (1.0, 1.0, 8), find_rates=False)] == [8, 64, 1]


def trial_of(table_lr: float, *parts: float) -> lr_find.Trial:
  return lr_find.Trial(table_lr, 0.01, math.fsum(parts) / len(parts), 0, parts)


def test_rates_that_are_better_by_less_than_the_noise_are_not_taken():
  """The noise is that of the differences: parts that are hard for all trials are no reason to doubt. Checked by hand and with numpy."""
  first, better, best = trial_of(0.1, 0.7, 0.2, 0.5, 0.6), trial_of(0.2, 0.68, 0.19, 0.47, 0.57), trial_of(0.4, 0.66, 0.2, 0.48, 0.55)
  differences = np.subtract(first.parts, best.parts)
  assert lr_find.noise_of(first, best) == pytest.approx(differences.std(ddof=1) / 2)
  assert lr_find.noise_of(first, first) == 0.0 and lr_find.noise_of(first, lr_find.Trial(1.0, 1.0, 0.5)) == 0.0
  assert lr_find.pick([first, better, best]) == better  # .005 above the best, whose error is .0065; the first is .0275 above, error .0111
  assert lr_find.pick([first, best, better]) == better  # its rates are nearer to the first one's
  assert lr_find.pick([first, best]) == best
  noisy = trial_of(0.4, 0.9, 0.1, 0.45, 0.5)
  assert lr_find.pick([first, noisy]) == first
  diverged = lr_find.Trial(9.0, 9.0, math.inf)
  assert lr_find.pick([diverged, best]) == best and math.isinf(lr_find.pick([diverged] * 2).loss)
  kept = found_rates._words(lr_find.Found(first, (first, noisy), 64_000, 32_000, lr_find.noise_of(first, noisy)))
  assert kept.startswith(
    "rates: --table_lr=0.1 --dense_lr=0.01 are kept, with the loss 0.50000 on the later half of 64,000 training examples"
  )
  assert f"has 0.48750, which is no further below than the standard error {lr_find.noise_of(first, noisy):.5f}" in kept


def in_directory(directory: Path, **changes: object) -> RunConfig:
  return dataclasses.replace(BASE, workdir=str(directory), lr_find=True, **changes)


def test_a_run_is_trained_at_the_rates_that_were_best(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
  """Its first rates are much too low. The record says what was tried; the run is that of the same rates given as flags, bit for bit."""
  low = dataclasses.replace(BASE.train, table_lr=0.0005, dense_lr=0.0005)
  train.main(in_directory(tmp_path / "found", train=low))
  said = capsys.readouterr().err
  assert said.index("rates: short runs on the training examples choose both learning rates") < said.index("loss")
  out = record.read_json(tmp_path / "found" / "record.json")
  found = out["lr_find"]
  losses = [trial["loss"] for trial in found["tried"]]
  assert found["picked"]["loss"] < losses[0] and len(losses) >= 7
  assert (found["examples"], found["loss_examples"]) == (4096, 2048)
  settings = out["config"]["train"]
  assert (settings["table_lr"], settings["dense_lr"]) == (found["picked"]["table_lr"], found["picked"]["dense_lr"])
  assert settings["table_lr"] > 0.0005
  assert f"rates: --table_lr={settings['table_lr']:g} --dense_lr={settings['dense_lr']:g}" in said
  given = dataclasses.replace(BASE, train=dataclasses.replace(low, table_lr=settings["table_lr"], dense_lr=settings["dense_lr"]))
  same = loop.train(given, tmp_path / "given")
  assert (same["config_id"], same["log_loss"]) == (out["config_id"], out["log_loss"])
  assert same["lr_find"] is None


def test_a_search_is_made_once_for_a_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
  source = open_source(BASE)
  first = found_rates.at_found_rates(in_directory(tmp_path), source, quiet=True)
  monkeypatch.setattr(found_rates, "_found", lambda *_: pytest.fail("searched again"))
  assert found_rates.at_found_rates(in_directory(tmp_path), source, quiet=True) == first and not first.lr_find
  longer = dataclasses.replace(BASE.train, num_examples=8192, seed=3)
  again = found_rates.at_found_rates(in_directory(tmp_path, train=longer), source, quiet=True).train
  assert (again.table_lr, again.dense_lr) == (first.train.table_lr, first.train.dense_lr)
  other = in_directory(tmp_path, model=dataclasses.replace(BASE.model, embed_dim=4))
  with pytest.raises(UserError, match=r"lr_find.json: holds learning rates for another configuration; choose another --workdir"):
    found_rates.at_found_rates(other, source)
  (tmp_path / lr_find.FILE).write_text(json.dumps({"tried": 3}))
  with pytest.raises(UserError, match=r"lr_find.json: not a result of --lr_find \(TypeError: .*\); remove it"):
    found_rates.at_found_rates(in_directory(tmp_path), source)


def test_a_search_goes_on_after_any_trial_to_the_same_result():
  """Whatever trials had ended, the next search trains the others alone, and has the same trials in the same order."""
  for where in ((0.1, 0.05), (3.2, 1.6), (0.1 / 64, 0.4)):
    kept = list[tuple[lr_find.Trial, ...]]()
    whole = lr_find.search(bowl(*where, 4000), (0.1, 0.05, 500), keep=lambda tried, kept=kept: kept.append(tuple(tried)))
    assert kept == [whole[: n + 1] for n in range(len(whole))]
    for n in range(len(whole) + 1):
      trained = list[lr_find.Rates]()

      def losses(rates: Sequence[lr_find.Rates], trained: list[lr_find.Rates] = trained, where: tuple[float, float] = where):
        trained += rates
        return bowl(*where, 4000)(rates)

      assert lr_find.search(losses, (0.1, 0.05, 500), done=whole[:n]) == whole
      assert trained == [(trial.table_lr, trial.dense_lr, trial.decay_examples) for trial in whole[n:]]


def few_trials(monkeypatch: pytest.MonkeyPatch) -> None:
  monkeypatch.setattr(lr_find, "MAX_TRIALS", 8)


def trained_trials(monkeypatch: pytest.MonkeyPatch, end_at: int, end: Callable[[], object]) -> list[tuple[float, float]]:
  """Collects the rates of the trials that are trained from now on; where trial `end_at` would begin, `end` is called."""
  trained, train_some = list[tuple[float, float]](), trials.Trials._train

  def noted(self: trials.Trials, configs: Sequence[RunConfig]) -> list[list[float]]:
    if len(trained) == end_at:
      end()
    trained.extend((config.train.table_lr, config.train.dense_lr) for config in configs)
    return train_some(self, configs)

  monkeypatch.setattr(trials.Trials, "_train", noted)
  return trained


def test_a_search_that_was_stopped_or_killed_goes_on_with_the_next_trial(
  tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
  """A child that dies by SIGKILL at its fourth trial, a program that gets SIGTERM at the sixth, and the same command once more."""
  few_trials(monkeypatch)
  low = dataclasses.replace(BASE.train, table_lr=0.0005, dense_lr=0.0005)
  train.main(in_directory(tmp_path / "whole", train=low))
  whole = record.read_json(tmp_path / "whole" / "record.json")
  rates = [(trial["table_lr"], trial["dense_lr"]) for trial in whole["lr_find"]["tried"]]
  config = in_directory(tmp_path / "cut", train=low)

  environment = os.environ | {"PYTHONPATH": str(Path(train.__file__).parents[1])}
  command = [sys.executable, __file__, str(tmp_path / "cut")]
  killed = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
  assert killed.returncode == -signal.SIGKILL, killed.stderr
  kept = lr_find.read(tmp_path / "cut")
  assert kept is not None and kept.found is None and kept.tried == lr_find.read(tmp_path / "whole").tried[:3]  # type: ignore[union-attr]
  assert lr_find.picked_for(config) is None

  with monkeypatch.context() as patch:
    trained = trained_trials(patch, 2, lambda: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(stopping.Stopped, match=r"SIGTERM: the trials that have ended are kept in .*lr_find.json; the same command goes on"):
      train.main(config)
  assert trained == rates[3:6]  # the last of them was stopped
  assert not (tmp_path / "cut" / "record.json").exists()
  capsys.readouterr()

  with monkeypatch.context() as patch:
    trained = trained_trials(patch, 99, lambda: None)
    train.main(config)
  assert trained == rates[5:]
  assert "rates: going on after 5 trials, from " in capsys.readouterr().err
  out = record.read_json(tmp_path / "cut" / "record.json")
  assert (out["lr_find"], out["config_id"], out["log_loss"]) == (whole["lr_find"], whole["config_id"], whole["log_loss"])


def test_trials_of_another_search_are_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
  lr_find.write_tried(tmp_path, [lr_find.Trial(BASE.train.table_lr, BASE.train.dense_lr, 9.0)], "0123456789abcdef")
  config = found_rates.at_found_rates(in_directory(tmp_path), open_source(BASE))
  assert "lr_find.json is of another search: it begins anew" in capsys.readouterr().err
  kept = lr_find.read(tmp_path)
  assert kept is not None and kept.found is not None and kept.tried[0].loss < 0.7
  lr_find.write_tried(tmp_path, [], "0123456789abcdef")  # by a process that began together with this one
  assert lr_find.read(tmp_path) == kept and config.train.table_lr == kept.found.picked.table_lr


def _die_at_the_fourth_trial(workdir: str) -> None:
  """The program of the test above that is killed."""
  with pytest.MonkeyPatch.context() as patch:
    few_trials(patch)
    trained_trials(patch, 3, lambda: os.kill(os.getpid(), signal.SIGKILL))
    train.main(in_directory(Path(workdir), train=dataclasses.replace(BASE.train, table_lr=0.0005, dense_lr=0.0005)))


if __name__ == "__main__":
  _die_at_the_fourth_trial(sys.argv[1])
