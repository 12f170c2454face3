"""One run from flags to record: what is written, that it learns, that it stops where it must, that bad input leaves nothing."""

import dataclasses
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest

from dlrm_jax import train
from dlrm_jax.common import flags, record
from dlrm_jax.common.flags import UserError
from dlrm_jax.config import ModelConfig, PlantedConfig, RunConfig, TrainConfig
from dlrm_jax.data.planted.clicks import Planted
from dlrm_jax.data.prepare.program import PrepareConfig, prepare
from dlrm_jax.identity import config_id
from dlrm_jax.presets import PRESETS
from dlrm_jax.training import evaluation, loop
from dlrm_jax.training.eval_plan import eval_points
from dlrm_jax.training.learner import make_learner

TINY = RunConfig(
  model=ModelConfig(embed_dim=4, num_rows=500, overarch=(8, 1)),
  train=TrainConfig(num_examples=10_000, batch_size=256, eval_examples=4096, first_eval=1000, table_lr=0.2),
  planted=PlantedConfig(zipf_s=1.25),
)


def program(*words: str) -> subprocess.CompletedProcess[str]:
  return subprocess.run([sys.executable, "-m", *words], capture_output=True, text=True, check=False, env=os.environ | {"COLUMNS": "200"})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
  directory = tmp_path_factory.mktemp("run")
  return directory, loop.train(TINY, directory)


def test_eval_points_are_log_spaced_whole_batches_and_end_at_the_end():
  assert eval_points(10_000, 256, 1000, 1) == [1024, 2048, 4096, 8192, 10_000]
  assert eval_points(500, 256, 1000, 2) == [500]
  assert eval_points(1024, 1024, 100, 3) == [1024]


def test_record_and_curve_say_what_happened(run: tuple[Path, dict]):
  directory, out = run
  written = record.read_json(directory / "record.json")
  curve = record.read_curve(directory / "curve.jsonl")
  assert [row["examples"] for row in curve] == [1024, 1536, 2048, 3072, 4096, 5888, 8192, 10_000]
  assert written["status"] == "done"
  assert written["examples"] == 10_000
  assert written["config_id"] == config_id(TINY)
  assert written["config"]["train"]["batch_size"] == 256
  assert written["params"] == {"embedding": 8 * 500 * 5, "dense": 28 * 8 + 8 + 8 + 1, "total": 8 * 500 * 5 + 241}
  assert written["flops_total"] == written["flops_per_example"]["total"] * 10_000
  assert {"cpu", "cores", "platform", "num_devices"} <= set(written["hardware"])
  assert written["software"]["jax"] == jax.__version__
  for name in ("log_loss", "ne", "roc_auc", "calibration", "excess", "progressive_log_loss", "progressive_ne"):
    assert written[name] == curve[-1][name] == out[name]
  assert written["roc_auc_error"] == 0
  assert written["excess_tail"] is None  # the tail is all there is
  assert written["theory"]["beta_data"] == pytest.approx(0.2)


def test_it_learns(run: tuple[Path, dict]):
  curve = record.read_curve(run[0] / "curve.jsonl")
  assert curve[-1]["excess"] < 0.75 * curve[0]["excess"]
  assert curve[-1]["excess"] > 0.8 * curve[-1]["excess_ideal"]
  assert curve[-1]["roc_auc"] > curve[0]["roc_auc"] > 0.5


def test_the_same_seed_gives_the_same_bits_and_another_does_not(run: tuple[Path, dict], tmp_path: Path):
  again = loop.train(TINY, tmp_path / "again")
  other = loop.train(dataclasses.replace(TINY, train=dataclasses.replace(TINY.train, seed=1)), tmp_path / "other")
  assert (again["log_loss"], again["excess"]) == (run[1]["log_loss"], run[1]["excess"])
  assert other["log_loss"] != again["log_loss"]


def test_padding_does_not_count():
  """A partial batch trains as a smaller batch of the same examples would; what is in the padding does not matter."""
  source = Planted(TINY.planted)
  padded = next(source.train_batches(0, 256, 100))
  assert float(padded.weight_b.sum()) == 100
  states = []
  for size, batch in ((256, padded), (100, jax.tree.map(lambda x: x[:100], padded))):
    config = dataclasses.replace(TINY, train=dataclasses.replace(TINY.train, batch_size=size))
    learner = make_learner([config], source)
    states.append(jax.device_get(learner.train(learner.start(), [(batch,)])))
  assert states[0].progress.loss_sum == pytest.approx(states[1].progress.loss_sum, rel=1e-5)
  for a, b in zip(jax.tree.leaves(states[0].dense), jax.tree.leaves(states[1].dense), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
  for name in ("rows", "first_order"):
    a, b = (s.tables.groups["replicated"].stacks[name].rows_vd for s in states)
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_step(tmp_path: Path):
  config = dataclasses.replace(
    TINY, train=dataclasses.replace(TINY.train, dense_optimizer="sgd", table_optimizer="sgd", table_lr=1e30, dense_lr=1e30)
  )
  out = loop.train(config, tmp_path)
  assert out["status"] == "diverged"
  assert out["diverged_metric"] == "train log_loss"
  assert 0 < out["diverged_step"] < 40
  assert out["log_loss"] is None
  assert record.read_json(tmp_path / "record.json")["status"] == "diverged"
  with pytest.raises(UserError, match=r"train log_loss was not finite at step \d+"):
    train.main(dataclasses.replace(config, workdir=str(tmp_path / "cli")))


def test_an_evaluation_that_is_not_finite_stops_the_run_too(tmp_path: Path):
  """One step: its own loss is finite, the weights it leaves are not."""
  settings = dataclasses.replace(TINY.train, num_examples=256, dense_optimizer="sgd", table_optimizer="sgd", table_lr=1e30, dense_lr=1e30)
  out = loop.train(dataclasses.replace(TINY, train=settings), tmp_path)
  assert (out["status"], out["diverged_metric"], out["diverged_step"]) == ("diverged", "eval log_loss", 0)
  assert out["log_loss"] is None
  assert record.read_curve(tmp_path / "curve.jsonl") == []


def write_log(directory: Path, *prepare_words: str) -> Path:
  """A small prepared data set: one feature decides the click, one is noise."""
  rng = np.random.default_rng(0)
  item, user, age = rng.integers(0, 30, 3000), rng.integers(0, 200, 3000), rng.integers(18, 70, 3000)
  label = rng.uniform(size=3000) < np.where(item % 3 == 0, 0.7, 0.2)
  lines = [f"{int(y)},i{i},u{u},{a}" for y, i, u, a in zip(label, item, user, age, strict=True)]
  (directory / "log.csv").write_text("clicked,item,user,age\n" + "\n".join(lines) + "\n")
  (directory / "log.toml").write_text('label = "clicked"\ncategorical = ["item", "user"]\n[dense]\nage = {}\n')
  words = ["--format=csv", f"--input={directory}/log.csv", f"--schema={directory}/log.toml", f"--output={directory}/set", "--workers=1"]
  prepare(flags.parse(["prepare", *words, *prepare_words], PrepareConfig))
  return directory / "set"


def test_a_click_log_of_ones_own_is_learned(tmp_path: Path):
  config = dataclasses.replace(TINY, data=str(write_log(tmp_path)))
  out = loop.train(config, tmp_path / "run")
  assert out["examples"] == 2700  # 10,000 were asked for: there is one pass
  assert out["eval_examples"] == 300
  assert out["config"]["train"]["num_examples"] == 2700
  assert out["roc_auc"] > 0.68
  assert out["excess"] is None and out["theory"] is None and out["config"]["planted"] is None
  assert [t["num_rows"] for t in out["tables"]] == [31, 201]


def test_hashed_ids_need_hashed_rows(tmp_path: Path):
  """Hashes are not ranks of frequency: keeping the smallest would throw nearly all of them into one row."""
  config = dataclasses.replace(TINY, data=str(write_log(tmp_path, "--vocabulary=hash")))
  with pytest.raises(UserError, match="--rows_by=top: the ids of .* are hashes"):
    loop.train(config, tmp_path / "run")
  out = loop.train(dataclasses.replace(config, model=dataclasses.replace(config.model, rows_by="hash")), tmp_path / "run")
  assert out["roc_auc"] > 0.68


def test_per_id_learner_writes_the_same_kind_of_record(tmp_path: Path):
  out = loop.train(dataclasses.replace(TINY, train=dataclasses.replace(TINY.train, learner="per_id")), tmp_path)
  assert out["params"] is None
  curve = record.read_curve(tmp_path / "curve.jsonl")
  assert curve[-1]["excess"] == pytest.approx(curve[-1]["excess_ideal"], rel=0.15)
  assert curve[-1]["excess"] == out["excess"]


def test_all_parts_on_reports_the_tail_apart(tmp_path: Path):
  planted = PlantedConfig(zipf_s=1.25, pair_variance=0.3, dense_variance=0.3, score_variance=0.2)
  out = loop.train(dataclasses.replace(TINY, planted=planted), tmp_path)
  assert 0 < out["excess_tail"] < out["excess"]
  assert out["flops_per_example"]["bottom"] > 0


def test_program_prints_one_line_and_refuses_to_write_over_a_run(tmp_path: Path):
  words = ["dlrm_jax.train", "--preset=tiny", "--num_examples=4096", f"--workdir={tmp_path}/run"]
  done = program(*words)
  assert done.returncode == 0, done.stderr
  assert done.stdout.count("\n") == 1
  assert "roc_auc=0." in done.stdout
  assert re.match(r"log_loss=0\.\d+  ne=\d\.\d+  base_rate_ne=\d\.\d+  roc_auc=", done.stdout), done.stdout
  assert re.search(r"calibration=\d\.\d+ \(mean prediction / click rate\)", done.stdout)
  kept = (tmp_path / "run" / "record.json").read_bytes()
  assert json.loads(kept)["command"][:3] == ["python", "-m", "dlrm_jax.train"]
  again = program(*words)
  assert again.returncode == 2
  assert again.stderr == f"error: --workdir={tmp_path}/run: holds a finished run (record.json); choose another directory\n"
  assert (tmp_path / "run" / "record.json").read_bytes() == kept


@pytest.mark.parametrize(
  ("words", "message"),
  [
    ([], "--workdir=: must be a directory for record.json and curve.jsonl"),
    (["--workdir=W", "--data=absent"], "absent: no such directory"),
    (["--workdir=W", "--bottom=16,4", "--embed_dim=4"], "--bottom=16,4: the data has no dense inputs"),
    (
      ["--workdir=W", "--learner=per_id", "--planted_pair_variance=0.1"],
      "--learner=per_id: the exact estimator knows planted tail data only",
    ),
    (["--workdir=W", "--num_rows=2000000000"], "--num_rows=2000000000: 8 tables have 16000000000 rows together"),
    (["--workdir=W", "--planted_bias=nan"], "flag --planted_bias=nan: expected a finite number"),
    (["--workdir=/proc/none", "--preset=tiny"], "/proc/none: No such file or directory"),
  ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
  words: list[str], message: str, tmp_path: Path, refusal: Callable[..., str], monkeypatch: pytest.MonkeyPatch
):
  monkeypatch.chdir(tmp_path)
  shown = refusal(train.main, RunConfig, PRESETS, words)
  assert message in shown, shown
  assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("steps_per_call", [3, 8])
def test_several_steps_a_call_change_no_metric(run: tuple[Path, dict], tmp_path: Path, steps_per_call: int):
  """Evaluations fall inside groups of steps, the last group is short and the last batch padded."""
  directory, _ = run
  loop.train(dataclasses.replace(TINY, steps_per_call=steps_per_call), tmp_path)
  expected, got = (record.read_curve(where / "curve.jsonl") for where in (directory, tmp_path))
  assert [row["examples"] for row in got] == [row["examples"] for row in expected]
  for name in ("log_loss", "excess", "roc_auc"):
    np.testing.assert_allclose([row[name] for row in got], [row[name] for row in expected], rtol=1e-5)


@pytest.mark.parametrize(("steps_per_call", "kept_bytes"), [(1, evaluation.KEPT_BYTES), (4, 0)])
def test_nothing_is_compiled_after_the_first_evaluation(
  tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps_per_call: int, kept_bytes: int
):
  compiled, seen = [], []
  monkeypatch.setattr(evaluation, "KEPT_BYTES", kept_bytes)
  jax.monitoring.register_event_duration_secs_listener(
    lambda event, *_, **__: compiled.append(event) if "backend_compile" in event else None
  )
  evaluate = loop.evaluate
  monkeypatch.setattr(loop, "evaluate", lambda *args: (evaluate(*args), seen.append(len(compiled)))[0])
  train = dataclasses.replace(TINY.train, num_examples=10_240)  # whole batches: the padding of a short one has programs of its own
  config = dataclasses.replace(TINY, steps_per_call=steps_per_call, train=train, model=dataclasses.replace(TINY.model, num_rows=501))
  try:
    loop.train(config, tmp_path)
  finally:
    jax.monitoring.clear_event_listeners()
  assert len(seen) == 8 and seen[0] > 0
  assert seen[1:] == seen[1:2] * 7  # the first evaluations compile small programs of jax's own
  assert len(compiled) == seen[1]


def test_the_estimator_takes_several_batches_a_call(tmp_path: Path):
  """As under the presets that have `steps_per_call`: one after the other."""
  base = dataclasses.replace(TINY, train=dataclasses.replace(TINY.train, learner="per_id"))
  one, three = (loop.train(dataclasses.replace(base, steps_per_call=k), tmp_path / str(k)) for k in (1, 3))
  assert one["excess"] == three["excess"] and one["status"] == "done"
