"""Loggers: they get the numbers of the curve, event files are as TensorBoard defines them, and a logger that fails costs a line."""

import csv
import dataclasses
import importlib.metadata
import json
import math
import struct
import sys
from pathlib import Path
from typing import Any

import pytest

from dlrm_jax import train
from dlrm_jax.common import record
from dlrm_jax.config import ModelConfig, PlantedConfig, RunConfig, TrainConfig
from dlrm_jax.presets import PRESETS
from dlrm_jax.training import loggers, loop

TINY = RunConfig(
  model=ModelConfig(embed_dim=4, num_rows=100, overarch=(8, 1)),
  train=TrainConfig(num_examples=2048, batch_size=256, eval_examples=1024, first_eval=256, evals_per_octave=1),
  planted=PlantedConfig(zipf_s=1.25, tail_fields=2),
)
TIMES = ("wall_s",)  # of a row of the curve


def curve_of(directory: Path) -> list[dict[str, Any]]:
  return record.read_curve(directory / "curve.jsonl")


def logged(rows: list[dict[str, Any]]) -> dict[tuple[int, str], float]:
  """What loggers must get of these rows of a curve."""
  return {(row["examples"], f"curve/{name}"): x for row in rows for name, x in row.items() if name != "examples" and x is not None}


def csv_of(directory: Path) -> dict[tuple[int, str], float]:
  with (directory / "log.csv").open() as file:
    rows = list(csv.DictReader(file))
  out = {(int(row["examples"]), row["name"]): float(row["value"]) for row in rows}
  assert len(out) == len(rows)
  return out


def crc32c(data: bytes) -> int:
  """CRC-32C (Castagnoli), bit by bit."""
  crc = 0xFFFFFFFF
  for byte in data:
    crc ^= byte
    for _ in range(8):
      crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
  return crc ^ 0xFFFFFFFF


def masked(data: bytes) -> int:
  crc = crc32c(data)
  return (crc >> 15 | crc << 17) + 0xA282EAD8 & 0xFFFFFFFF


def events_of(directory: Path) -> list[Any]:
  """The events of all event files: records of length, its checksum, data, their checksum."""
  event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")
  out = []
  for path in sorted((directory / "tensorboard").iterdir()):
    assert ".tfevents." in path.name  # what TensorBoard looks for
    data = path.read_bytes()
    while data:
      length, crc = struct.unpack("<QI", data[:12])
      assert crc == masked(data[:8])
      assert struct.unpack("<I", data[12 + length : 16 + length]) == (masked(data[12 : 12 + length]),)
      out.append(event_pb2.Event.FromString(data[12 : 12 + length]))
      data = data[16 + length :]
  return out


def test_csv_has_every_number_of_the_curve_and_no_other_number_changes(tmp_path: Path):
  plain = loop.train(TINY, tmp_path / "plain", quiet=True)
  out = loop.train(dataclasses.replace(TINY, log_to=("csv",)), tmp_path / "logged", quiet=True)
  assert (out["log_loss"], out["config_id"]) == (plain["log_loss"], plain["config_id"])
  got = csv_of(tmp_path / "logged")
  assert {key: x for key, x in got.items() if key[1].startswith("curve/")} == logged(curve_of(tmp_path / "logged"))
  losses = {examples: x for (examples, name), x in got.items() if name == "train/log_loss"}
  rows = curve_of(tmp_path / "logged")
  assert list(losses) == [row["examples"] for row in rows]
  assert losses == pytest.approx({row["examples"]: row["progressive_log_loss_recent"] for row in rows}, rel=1e-6)


def test_event_files_are_as_tensorboard_defines_them(tmp_path: Path):
  pytest.importorskip("tensorboardX")
  loop.train(dataclasses.replace(TINY, log_to=("tensorboard",)), tmp_path, quiet=True)
  events = events_of(tmp_path)
  got = {(event.step, value.tag): value.simple_value for event in events for value in event.summary.value}
  wanted = logged(curve_of(tmp_path))
  assert {key for key in got if key[1].startswith("curve/")} == set(wanted)
  for key, value in wanted.items():
    assert got[key] == pytest.approx(value, rel=1e-6), key  # event files have float32
  assert all(event.wall_time > 1.7e9 for event in events)
  assert not any(event.HasField("session_log") for event in events)


def test_a_run_that_goes_on_logs_each_number_once(tmp_path: Path):
  pytest.importorskip("tensorboardX")
  first = dataclasses.replace(TINY, checkpoint=True, log_to=("csv", "tensorboard"))
  first = dataclasses.replace(first, train=dataclasses.replace(TINY.train, num_examples=1024))
  loop.train(first, tmp_path / "a", quiet=True)
  made = loggers.CsvLogger(tmp_path / "a", 512, {})  # as if the run had been stopped after 512 examples
  made.log(1024, {"curve/ne": 7.0})
  made.close()
  rows = csv_of(tmp_path / "a")
  assert {examples for examples, _ in rows} == {256, 512, 1024} and rows[1024, "curve/ne"] == 7
  assert {name for examples, name in rows if examples == 1024} == {"curve/ne"}
  (tmp_path / "a" / "log.csv").write_text((tmp_path / "a" / "log.csv").read_text() + "1024,cur")  # killed while it wrote
  loggers.CsvLogger(tmp_path / "a", 600, {}).close()
  assert {examples for examples, _ in csv_of(tmp_path / "a")} == {256, 512}
  loggers.TensorBoardLogger(tmp_path / "a", 512, {}).close()
  starts = [event for event in events_of(tmp_path / "a") if event.HasField("session_log")]
  assert [(event.step, event.session_log.status) for event in starts] == [(513, 1)]  # START: later steps before it are dropped


def test_numbers_that_are_not_finite_are_left_out(tmp_path: Path):
  made = loggers.Loggers(["csv"])
  made.open(tmp_path, 0, {})
  made.log(5, {"a": 1.5, "b": math.nan, "c": None, "d": math.inf, "e": 2**53 + 1, 'f,"g"': 3.0})
  made.log(6, {"a": math.nan})
  made.close()
  assert csv_of(tmp_path) == {(5, "a"): 1.5, (5, "e"): float(2**53 + 1), (5, 'f,"g"'): 3.0}


class Failing:
  """A logger that fails from its second number on."""

  calls = 0

  def __init__(self, directory: Path, start: int, config: Any):
    json.dumps(config)
    Failing.calls = 0

  def log(self, examples: int, values: Any) -> None:
    Failing.calls += 1
    if Failing.calls > 1:
      raise RuntimeError("no\nroom")

  def close(self) -> None:
    raise AssertionError("a logger that failed is not called again")


def test_a_logger_of_another_package_may_fail_and_the_run_goes_on(tmp_path: Path, monkeypatch, capsys):
  point = importlib.metadata.EntryPoint("mine", f"{__name__}:Failing", loggers.GROUP)
  monkeypatch.setitem(sys.modules, __name__, sys.modules[Failing.__module__])
  monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [point] if group == loggers.GROUP else [])
  out = loop.train(dataclasses.replace(TINY, log_to=("mine", "csv")), tmp_path, quiet=True)
  assert out["status"] == "done"
  assert Failing.calls == 2
  said = [line for line in capsys.readouterr().err.splitlines() if "--log_to" in line]
  assert said == ["--log_to=mine: RuntimeError: no room; the run goes on without it"]
  assert {key for key in csv_of(tmp_path) if key[1].startswith("curve/")} == set(logged(curve_of(tmp_path)))


def test_a_logger_that_cannot_start_costs_a_line(tmp_path: Path, capsys):
  (tmp_path / "log.csv").mkdir()
  assert loop.train(dataclasses.replace(TINY, log_to=("csv",)), tmp_path, quiet=True)["status"] == "done"
  assert "--log_to=csv: IsADirectoryError: " in capsys.readouterr().err


def test_an_absent_library_and_an_unknown_name_are_refused_before_anything_is_written(tmp_path: Path, monkeypatch, refusal):
  words = ["--preset=small", f"--workdir={tmp_path}/run"]
  shown = refusal(train.main, RunConfig, PRESETS, [*words, "--log_to=wandb"])
  assert shown == "error: --log_to=wandb: must be among csv, tensorboard, or an entry point of the group dlrm_jax.loggers\n"
  monkeypatch.setitem(sys.modules, "tensorboardX", None)
  shown = refusal(train.main, RunConfig, PRESETS, [*words, "--log_to=tensorboard"])
  assert "--log_to=tensorboard: " in shown and "pip install 'dlrm-jax[tensorboard]' installs tensorboardX" in shown
  assert not (tmp_path / "run").exists()
