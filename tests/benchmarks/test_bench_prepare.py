"""`benchmarks.prepare` and `benchmarks.fed`: the made-up log is one that is accepted, the rows hold what was run."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import fed
from benchmarks import prepare as bench
from benchmarks.measure import criteo_like
from dlrm_jax.common import flags, markdown
from dlrm_jax.common.flags import UserError
from dlrm_jax.data.prepare.program import PrepareConfig, prepare


@pytest.fixture(scope="module")
def log(tmp_path_factory) -> Path:
  """Two blocks of lines: 40,000."""
  path = tmp_path_factory.mktemp("log") / "log.tsv"
  criteo_like.write(path, 5_000_000)
  return path


@pytest.fixture(scope="module")
def prepared(log) -> Path:
  prepare(flags.parse(["x", "--format=criteo_tsv", f"--input={log}", f"--output={log.parent / 'out'}", "--workers=1"], PrepareConfig))
  return log.parent / "out"


def test_the_log_is_like_criteos(log, prepared):
  lines = [line.split("\t") for line in log.read_text().splitlines()]
  contents = json.loads((prepared / "dataset.json").read_text())
  assert contents["rejects"]["total"] == 0
  assert sum(entry["rows"] for entry in contents["splits"].values()) == len(lines) == 40_000
  empty = sum(not cell for line in lines for cell in line) / (40 * len(lines))
  assert 0.13 < empty < 0.17  # 14.6% of the cells of the real log's first 10,109 lines
  first, second = ({line[16] for line in half} for half in (lines[:20_000], lines[20_000:]))
  assert len(second - first) > 0.2 * len(second)  # the second time other values of C3 come
  assert {line[22] for line in lines[:20_000]} == {line[22] for line in lines[20_000:]}  # C9 has three


def test_prepare_is_timed_beside_polars(log, tmp_path, capsys):
  (tmp_path / "x.md").write_text("a\n<!-- prepare -->\nold\n<!-- /prepare -->\nb\n")
  words = [f"--output={tmp_path}/p.json", f"--input={log}", "--rounds=1", f"--markdown={tmp_path}/x.md"]
  bench.main(flags.parse(["bench", *words], bench.PrepareConfig))
  rows = json.loads((tmp_path / "p.json").read_text())["results"]
  assert [row["name"] for row in rows] == ["polars", "hash", "frequency"]
  for row in rows:
    assert row["input_bytes"] == log.stat().st_size
    assert row["bytes_per_s"] == pytest.approx(row["input_bytes"] / row["wall_s"])
    assert 2**26 < row["peak_rss_bytes"] < 2**30
    assert row["speed_over_polars"] == pytest.approx(rows[0]["cpu_s"] / row["cpu_s"])
  text = (tmp_path / "x.md").read_text()
  assert text.startswith("a\n<!-- prepare -->\n| on one core |") and text.endswith("<!-- /prepare -->\nb\n") and "old" not in text
  assert sorted(path.name for path in tmp_path.iterdir()) == ["p.json", "x.md"]
  assert "of polars" in capsys.readouterr().out


def test_bad_flags_of_prepare(tmp_path):
  for words, message in (
    ([f"--input={tmp_path}/absent"], "--input=.*absent: must be a file"),
    (["--gb=0"], "--gb=0.0: must be a list of numbers above 0"),
    (["--core=9999"], "--core=9999: must be among"),
  ):
    with pytest.raises(UserError, match=message):
      flags.parse(["bench", "--output=x.json", *words], bench.PrepareConfig)
  (tmp_path / "y.md").write_text("<!-- /prepare --><!-- prepare -->")
  with pytest.raises(UserError, match="must have the lines <!-- prepare --> and <!-- /prepare -->"):
    markdown.check_markers(f"{tmp_path}/y.md", "prepare")


def test_training_from_disk_beside_memory(prepared, tmp_path):
  words = [f"--output={tmp_path}/f.json", f"--data={prepared}", "--steps=2", "--rounds=3", "--batch_size=256", "--num_rows=100"]
  fed.main(flags.parse(["fed", "--preset=W1", *words, "--bottom=16,16", "--overarch=16,1"], fed.FedConfig, fed.PRESETS))
  rows = json.loads((tmp_path / "f.json").read_text())["results"]
  assert [row["name"] for row in rows] == ["disk", "memory"]
  assert rows[1]["speed_of_memory"] == rows[1]["cpu_speed_of_memory"] == 1
  assert all(row["batch_size"] == 256 and row["step_ms_p50"] > 0 for row in rows)
  with pytest.raises(UserError, match="--rounds=1000: must be fewer: out has 36000 examples, 1025024 are needed"):
    fed.measure(flags.parse(["fed", "--preset=W1", *words, "--batch_size=256", "--rounds=1000"], fed.FedConfig, fed.PRESETS))


def test_both_ways_take_the_same_batches(prepared, monkeypatch):
  """Every batch is trained on twice, first from disk."""
  seen: list[list[float]] = []
  real = fed.make_learner

  def make_learner(runs, source):
    learner = real(runs, source)

    def train(state, batches):
      seen.extend(np.asarray(batch.dense_bm)[:, 0].tolist() for (batch,) in batches)
      return learner.train(state, batches)

    return dataclasses.replace(learner, train=train)

  monkeypatch.setattr(fed, "make_learner", make_learner)
  words = [f"--data={prepared}", "--steps=2", "--rounds=2", "--batch_size=256", "--num_rows=100", "--bottom=16,16", "--overarch=16,1"]
  fed.measure(flags.parse(["fed", "--preset=W1", *words, "--output=x"], fed.FedConfig, fed.PRESETS))
  assert len(seen) == 12
  for first in range(0, 12, 4):
    assert seen[first : first + 2] == seen[first + 2 : first + 4]
  assert seen[0] != seen[1] and seen[0] != seen[4]
