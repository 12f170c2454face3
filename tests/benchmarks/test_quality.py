"""`benchmarks.quality`: the logs it reads, the rows it reports, and the outside judge on data whose click rates are known."""

import datetime
import json
import math
import subprocess
from pathlib import Path

import numpy as np
import pytest

from benchmarks import quality
from dlrm_jax.common import flags, record
from dlrm_jax.common.flags import UserError
from dlrm_jax.data.prepare.program import PrepareConfig, prepare
from tests.helpers.places import ROOT

PEERS = ROOT / ".venv-peers/bin/python"
SCHEMA = 'label = "y"\ncategorical = ["u", "v"]\n'


def write_log(path: Path, rows: int = 6000) -> np.ndarray:
  """A csv whose click rate depends on u alone. Returns the true rates of the last tenth of the rows."""
  rng = np.random.default_rng(3)
  u, v = rng.integers(0, 5, rows), rng.integers(0, 7, rows)
  rate = np.array([0.05, 0.2, 0.4, 0.6, 0.9])[u]
  y = rng.random(rows) < rate
  path.write_text("y,u,v\n" + "".join(f"{int(a)},{b},{c}\n" for a, b, c in zip(y, u, v)))
  return rate[-rows // 10 :]


def logs_of(text: str, tmp_path: Path) -> list[quality.Log]:
  (tmp_path / "logs.toml").write_text(text)
  return quality.read_logs(tmp_path / "logs.toml")


def test_paths_are_relative_to_the_file(tmp_path):
  (log,) = logs_of('[a]\nformat = "csv"\ninput = "x.csv"\nschema = "s.toml"\nshuffled = true\ntrain = ["--preset=tiny"]\n', tmp_path)
  assert log == quality.Log("a", "csv", tmp_path / "x.csv", tmp_path / "s.toml", (), True, ("--preset=tiny",))


@pytest.mark.parametrize(
  ("text", "words"),
  [
    ("", "names no log"),
    ("a = 1", r"\[a\]: must be a table"),
    ('[a]\nformat = "csv"', "format and input are required"),
    ('[a]\nformat = 1\ninput = "x"', "format = 1: there are format"),
    ('[a]\nformats = "csv"', "formats = 'csv'"),
    ("[a", "not valid TOML"),
  ],
)
def test_a_bad_file_of_logs_is_one_line(text, words, tmp_path):
  with pytest.raises(UserError, match=words) as caught:
    logs_of(text, tmp_path)
  assert "\n" not in str(caught.value)


def test_a_shuffled_log_has_the_same_lines_in_another_order(tmp_path):
  write_log(tmp_path / "x.csv", 500)
  (log,) = logs_of('[a]\nformat = "csv"\ninput = "x.csv"\nshuffled = true\n', tmp_path)
  before = (tmp_path / "x.csv").read_text().splitlines()
  after = quality._shuffled(log, tmp_path / "y.csv").read_text().splitlines()
  assert after[0] == before[0] and sorted(after) == sorted(before) and after != before


def test_the_table_has_a_line_a_log_and_a_cell_a_way():
  facts = {"log": "a", "train_rows": 1000, "eval_rows": 100, "prepare_s": 2.4}
  rows = [
    {"name": "defaults", **facts, "ne": 0.8123, "roc_auc": 0.7, "wall_s": 3.0},
    {"name": "logistic", **facts, "ne": 0.9, "roc_auc": None, "wall_s": None},
  ]
  text = quality.section(rows, {"command": "c", "hardware": {"cpu": "x"}, "software": {}} | record_header(), datetime.date(2026, 1, 2))
  assert "| a | 1,000 | 2 | 0.8123 (0.700) | 0.9000 (nan) | 3 |" in text


def record_header() -> dict:
  from dlrm_jax.machine import hardware

  return hardware.header()


@pytest.mark.slow
@pytest.mark.skipif(not PEERS.exists(), reason="the peers' environment is absent (`make peers`)")
def test_the_outside_regression_finds_the_known_rates(tmp_path):
  rate_n = write_log(tmp_path / "x.csv")
  (tmp_path / "s.toml").write_text(SCHEMA)
  words = ["x", "--format=csv", f"--input={tmp_path / 'x.csv'}", f"--schema={tmp_path / 's.toml'}", f"--output={tmp_path / 'data'}"]
  prepare(flags.parse(words, PrepareConfig))
  command = [str(PEERS), "-m", "benchmarks.peers.outside_logistic", str(tmp_path / "data")]
  found = json.loads(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout)
  lines = (tmp_path / "x.csv").read_text().splitlines()[-len(rate_n) :]
  label_n = np.array([line[0] == "1" for line in lines])
  ideal = -np.mean(np.where(label_n, np.log(rate_n), np.log1p(-rate_n)))
  assert found["rows"] == len(rate_n)
  assert math.isclose(found["log_loss"], ideal, abs_tol=0.01)


def test_what_was_done_is_not_done_again(tmp_path):
  calls = []
  for _ in range(2):
    assert quality._timed(tmp_path / "t.json", lambda: calls.append(1) or 2.5) == 2.5
  assert len(calls) == 1 and record.read_json(tmp_path / "t.json") == {"seconds": 2.5}
