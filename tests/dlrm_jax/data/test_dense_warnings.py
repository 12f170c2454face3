"""Warnings about dense columns fire where they should and nowhere else, in `prepare`, `describe` and `train`."""

import sys

import numpy as np
import polars as pl
import pytest

from dlrm_jax import train
from dlrm_jax.common import flags, record
from dlrm_jax.config import RunConfig
from dlrm_jax.data.dataset import open_dataset
from dlrm_jax.data.dense_warnings import dense_warnings
from dlrm_jax.data.describe import program as describe
from dlrm_jax.data.prepare import program as prepare
from dlrm_jax.data.prepare import statistics
from dlrm_jax.data.prepare.dense import DenseColumn
from dlrm_jax.presets import PRESETS

N = 20_000
RNG = np.random.default_rng(0)
MINUTE = RNG.integers(0, 1440, N).astype(float)


def warned(numbers: np.ndarray, **options: object) -> list[str]:
  """The warnings about a column `x` of these training rows, without the name."""
  column = DenseColumn("x", **options)
  measured = statistics.measure(column, iter([np.asarray(numbers, np.float64)]), len(numbers))
  dense = [
    one.as_json() | ({} if one.transform == "missing" else {"statistics": measured["statistics"]}) for one in column.inputs(measured)
  ]
  feature = {"name": "x.bins", "bins": {"column": "x", "edges": measured["bins"]}, "statistics": measured["statistics"]}
  found = dense_warnings({"columns": {"dense": dense, "categorical": [{"name": "c"}, *([feature] if column.num_bins else [])]}})
  assert all(line.startswith("dense column 'x' ") and "\n" not in line for line in found)
  return [line.removeprefix("dense column 'x' ") for line in found]


def empty(numbers: np.ndarray, share: float) -> np.ndarray:
  return np.where(np.random.default_rng(1).random(len(numbers)) < share, np.nan, numbers)


GOOD = {
  "normal": RNG.normal(0, 1, N),
  "far normal": RNG.normal(1e6, 1e-3, N),
  "minute": MINUTE,
  "exponential": RNG.exponential(50, N),
  "lognormal": RNG.lognormal(3, 2, N),
  "counts": RNG.poisson(0.3, N),
  "pareto": RNG.pareto(1.2, N),
  "flag": RNG.random(N) < 0.3,
  "rare flag": np.arange(N) == 77,
  "half empty": empty(RNG.normal(0, 1, N), 0.5),
  "week": 1 + RNG.integers(0, 53, N),
}


@pytest.mark.parametrize("name", list(GOOD))
def test_defaults_are_quiet_about_usual_columns(name):
  assert warned(GOOD[name]) == []
  assert warned(GOOD[name], transform="quantile") == []
  assert warned(GOOD[name], transform="bins") == []
  assert warned(GOOD[name], bins=8) == []


@pytest.mark.parametrize("name", ["normal", "flag", "rare flag", "counts", "half empty"])
def test_none_is_quiet_about_scaled_columns(name):
  assert warned(GOOD[name], transform="none") == []
  assert warned(GOOD[name], transform="log1p") == []


@pytest.mark.parametrize("name", ["far normal", "minute", "exponential", "lognormal", "week"])
def test_unscaled(name):
  (line,) = warned(GOOD[name], transform="none")
  assert line.startswith("is not scaled: with transform = 'none' its mean is ") and line.endswith('use transform = "standard"')
  assert warned(MINUTE, transform="none")[0].startswith("is not scaled: with transform = 'none' its mean is 7")


def test_the_border_of_unscaled():
  x = RNG.normal(0, 1, N)
  assert warned(x * 4.9 / x.std(), transform="none") == []
  assert len(warned(x * 5.2 / x.std(), transform="none")) == 1
  assert len(warned(x + 5.2, transform="none")) == 1
  assert warned(np.expm1(x + 5), transform="log1p") == []
  assert len(warned(np.expm1(x + 15), transform="log1p")) == 1


@pytest.mark.parametrize("transform", ["standard", "none", "log1p", "quantile", "bins"])
def test_constant(transform):
  (line,) = warned(np.full(N, 2.5), transform=transform)
  assert line == "is 2.5 in all training rows, which teaches nothing: take it out of [dense]"
  almost = np.full(N, 2.5)
  almost[3] = 0
  assert warned(almost, transform=transform) == []
  holes = empty(np.full(N, 2.5), 0.3)  # one number, or nothing
  if transform in ("standard", "quantile"):
    assert warned(holes, transform=transform) == []
    assert len(warned(holes, transform=transform, indicator=False)) == 1
    assert len(warned(holes, transform=transform, indicator=False, missing=3)) == 1
  else:
    assert warned(holes, transform=transform) == []
  if transform == "none":
    assert len(warned(holes, transform=transform, missing=2.5)) == 1


def test_heavy_tails():
  signed = RNG.standard_cauchy(N)
  (line,) = warned(signed)
  assert line.startswith("has a heavy tail: with transform = 'standard' its farthest number is ") and '"quantile"' in line
  assert len(warned(signed, transform="none")) == 1
  assert warned(signed, transform="quantile") == warned(signed, transform="bins") == []
  assert warned(np.abs(signed)) == []  # its logarithm has none
  one = RNG.normal(0, 1, N)
  one[5] = 25
  assert len(warned(one)) == 1
  one[5] = 15
  assert warned(one) == []


def test_empty_cells():
  normal = RNG.normal(0, 1, N)
  assert warned(empty(normal, 0.88)) == []
  (line,) = warned(empty(normal, 0.92))
  assert line.startswith("is empty in 9") and "indicator" not in line
  (line,) = warned(empty(normal, 0.92), transform="none")
  assert "set indicator = true" in line
  assert len(warned(empty(normal, 0.92), transform="bins")) == 1
  for transform in ("standard", "none", "log1p", "quantile", "bins"):
    assert warned(np.full(N, np.nan), transform=transform) == ["is empty in all training rows: take it out of [dense]"]


@pytest.mark.parametrize("transform", ["standard", "none", "log1p", "quantile", "bins"])
def test_time_stamps(transform):
  for low, high in ((1.7e9, 1.72e9), (1.7e12, 1.72e12)):
    (line,) = warned(np.floor(RNG.uniform(low, high, N)), transform=transform)
    assert line.startswith("looks like time stamps (Unix ") and "[time]" in line
  dates = np.array([20240101.0, 20240217, 20231130])[RNG.integers(0, 3, N)]
  (line,) = warned(dates, transform=transform)
  assert "dates as YYYYMMDD" in line
  assert not any("time" in line for line in warned(RNG.uniform(0, 4e9, N), transform=transform))


def test_all_three_programs_say_it_once(tmp_path, monkeypatch, capsys):
  """In one line each, with the column's name as it is; nothing about the good column."""
  name = "minute [of] 'day', é"
  pl.DataFrame({"y": np.arange(N) % 3 == 0, "c": np.arange(N) % 5, name: MINUTE, "z": GOOD["normal"]}).write_parquet(
    tmp_path / "log.parquet"
  )
  (tmp_path / "s.toml").write_text(
    f'label = "y"\ncategorical = ["c"]\n[dense]\n"{name}" = {{ transform = "none" }}\nz = {{ transform = "none" }}\n'
  )
  data, run = tmp_path / "data", tmp_path / "run"
  log = [f"--input={tmp_path}/log.parquet", f"--schema={tmp_path}/s.toml"]
  programs = (
    (prepare.main, prepare.PrepareConfig, None, ["--format=parquet", *log, f"--output={data}", "--workers=1"]),
    (describe.main, describe.DescribeConfig, None, [str(data)]),
    (
      train.main,
      RunConfig,
      PRESETS,
      ["--preset=tiny", f"--data={data}", f"--workdir={run}", "--num_examples=2000", "--kernels=xla"],
    ),
  )
  for main, cls, presets, words in programs:
    monkeypatch.setattr(sys, "argv", ["program", *words])
    capsys.readouterr()
    flags.run(main, cls, presets)
    said = capsys.readouterr().err
    lines = [line for line in said.splitlines() if line.startswith("warning: ")]
    assert len(lines) == 1, said
    assert lines[0].startswith(f"warning: dense column {name!r} is not scaled: with transform = 'none' its mean is 7")
    assert lines[0] == f"warning: {open_dataset(data).warnings[0]}"
  assert record.read_json(data / "describe" / "describe.json")["warnings"] == list(open_dataset(data).warnings)
  assert "is not scaled" in (data / "describe" / "index.html").read_text()
