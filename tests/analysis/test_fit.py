"""`python -m analysis.fit` on files: groups, seeds, two columns of x, robust loss and bootstrap, bad input."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from places import ROOT

from analysis import fit as program
from analysis.fitting.fit_law import fit_law
from analysis.questions.csv_points import left_out
from dlrm_jax.common import flags, record

X = 2.0 ** np.arange(16, 28)


def noise(seed: int, scale: float, size: int = len(X)) -> np.ndarray:
  return np.exp(scale * np.random.default_rng(seed).standard_normal(size))


def config_of(path: Path, output: Path, **change) -> program.FitConfig:
  return program.FitConfig(**{"input": str(path), "x": ("x",), "y": "y", "output": str(output)} | change)


def write_csv(path: Path, rows: list[str]) -> Path:
  path.write_text("\n".join(rows) + "\n")
  return path


def test_program_fits_each_group(tmp_path, capsys):
  rows = ["model,n,loss,seed"]
  for model, beta in (("a", 0.1), ("b", 0.2)):
    rows += [f"{model},{x},{2.0 * x**-beta * s},{i}" for i, s in enumerate((0.99, 1.01)) for x in X]
  out = tmp_path / "fits.json"
  path = write_csv(tmp_path / "p.csv", rows)
  program.main(config_of(path, out, x=("n",), y="loss", law="power", group="model", seed="seed"))
  saved = record.read_json(out)
  assert {"schema_version", "command", "hardware", "software"} <= set(saved)
  assert [f["group"] for f in saved["fits"]] == ["a", "b"]
  np.testing.assert_allclose([f["params"]["beta"]["estimate"] for f in saved["fits"]], [0.1, 0.2], rtol=1e-9)
  assert all(set(f["params"]["alpha"]) == {"estimate", "std_error", "ci_low", "ci_high"} for f in saved["fits"])
  assert "Intervals, gls" in capsys.readouterr().out


def test_program_says_that_points_are_taken_as_independent(tmp_path, capsys):
  rows = ["x,y", *(f"{x},{2.0 * x**-0.1 * e}" for x, e in zip(X, noise(0, 0.01), strict=True))]
  program.main(config_of(write_csv(tmp_path / "p.csv", rows), tmp_path / "o.json", law="power"))
  assert "taken as separate runs" in capsys.readouterr().out


@pytest.mark.parametrize(
  ("rows", "change", "message"),
  [
    (["x,y"], {}, "no points"),
    ([], {}, "empty"),
    (["x,z", "1,2"], {}, "--y=y: no such column in .*it has x, z"),
    (["x,y", "1,2", "3,four"], {}, r":3: column y holds 'four', a number"),
    (["x,y", "1,2,3"], {}, ":2: 3 columns, the header has 2"),
    (["x,y", *(f"{x},{x**0.1}" for x in X)], {}, "group all: refused: y does not fall"),
    (["x,y", *(f"{x}," for x in X)], {}, "12 of 12 values of y are not finite"),
    (["x,y", "1,2"], {"seed": "s"}, "--seed=s: no such column"),
  ],
)
def test_program_refuses_bad_input_in_one_line(tmp_path, rows, change, message):
  path = tmp_path / "p.csv"
  path.write_text("\n".join(rows))
  with pytest.raises(flags.UserError, match=message) as error:
    program.main(config_of(path, tmp_path / "o.json", **change))
  assert "\n" not in str(error.value)


def test_command_line(tmp_path):
  path = write_csv(tmp_path / "p.csv", ["x,y", *(f"{x},{5.0 * x**-0.3 + 0.7}" for x in X)])
  words = [sys.executable, "-m", "analysis.fit", f"--input={path}", "--x=x", "--y=y", f"--output={tmp_path / 'o.json'}"]
  done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT)
  assert done.returncode == 0, done.stderr
  np.testing.assert_allclose(json.loads((tmp_path / "o.json").read_text())["fits"][0]["params"]["gamma"]["estimate"], 0.7, rtol=1e-6)
  bad = subprocess.run([*words, "--law=cubic"], capture_output=True, text=True, cwd=ROOT)
  assert bad.returncode == 2 and bad.stderr.count("\n") == 1 and "--law=cubic" in bad.stderr


def test_the_input_is_never_written_over(tmp_path):
  path = tmp_path / "points.csv"
  path.write_text("x,y\n" + "".join(f"{x},{x**-0.3}\n" for x in range(1, 9)))
  before = path.read_bytes()
  for output, message in ((path, "is the input"), (tmp_path, "is a directory")):
    with pytest.raises(flags.UserError, match=message):
      program.main(config_of(path, output))
  assert path.read_bytes() == before


def test_noise_is_pooled_over_the_groups(tmp_path):
  """A group of one seed gets its interval from the seeds of the others."""
  rng, rows = np.random.default_rng(0), ["model,n,loss,seed"]
  for model, seeds in (("a", 3), ("b", 3), ("c", 1)):
    for seed in range(seeds):
      offset = 0.01 * rng.standard_normal()
      rows += [f"{model},{x},{2.0 * x**-0.1 * np.exp(offset + 0.001 * rng.standard_normal())},{seed}" for x in X]
  out = tmp_path / "fits.json"
  program.main(config_of(write_csv(tmp_path / "p.csv", rows), out, x=("n",), y="loss", law="power", group="model", seed="seed"))
  a, _, c = record.read_json(out)["fits"]
  assert (c["method"], c["num_seeds"]) == ("gls", 1)
  ratio = c["params"]["alpha"]["std_error"] / a["params"]["alpha"]["std_error"]
  np.testing.assert_allclose(ratio, np.sqrt(3), rtol=0.15)  # one pass instead of the mean of three


def test_robust_loss_takes_its_intervals_from_a_bootstrap(tmp_path):
  rng = np.random.default_rng(0)
  x = np.geomspace(1e4, 1e8, 40)
  y = (5.0 * x**-0.3 + 0.7) * np.exp(0.002 * rng.standard_normal(40))
  y[7] *= 1.5  # an outlier
  path = write_csv(tmp_path / "p.csv", ["x,y", *(f"{a},{b}" for a, b in zip(x, y, strict=True))])
  found = {}
  for loss in ("squares", "huber"):
    program.main(config_of(path, tmp_path / f"{loss}.json", loss=loss))
    (found[loss],) = record.read_json(tmp_path / f"{loss}.json")["fits"]
  assert found["huber"]["method"] == "bootstrap"
  beta = found["huber"]["params"]["beta"]
  assert beta["ci_low"] < 0.3 < beta["ci_high"] and abs(beta["estimate"] - 0.3) < abs(found["squares"]["params"]["beta"]["estimate"] - 0.3)


def test_bootstrap_agrees_with_the_profile_on_many_independent_points():
  x = np.tile(np.geomspace(1e4, 1e8, 30), 4)
  y = 3.0 * x**-0.1 * noise(5, 0.02, len(x))
  profile, drawn = (fit_law(x, y, "power", points="independent", draws=draws).params["beta"] for draws in (0, 2000))
  np.testing.assert_allclose(drawn.std_error, profile.std_error, rtol=0.1)
  np.testing.assert_allclose([drawn.ci_low, drawn.ci_high], [profile.ci_low, profile.ci_high], atol=0.15 * profile.std_error * 4)


@pytest.mark.parametrize(
  ("rows", "change", "reason"),
  [
    (12, {}, "12 points: a bootstrap, .* needs at least 30"),
    (40, {"seed": "seed"}, "points of one training pass are correlated"),
  ],
)
def test_bootstraps_that_would_cover_too_little_are_refused(tmp_path, rows, change, reason):
  lines = [f"{x},{x**-0.1 * (1 + 1e-3 * s)},{s}" for s in range(2) for x in np.geomspace(1e4, 1e8, rows // 2)]
  path = write_csv(tmp_path / "p.csv", ["x,y,seed", *lines])
  with pytest.raises(flags.UserError, match=reason):
    program.main(config_of(path, tmp_path / "o.json", bootstrap_draws=200, **change))


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"x": ("a", "b")}, "--x=a,b: must be 1 column for --law=power_constant"),
    ({"law": "chinchilla"}, "--x=x: must be 2 columns for --law=chinchilla"),
    ({"huber_delta": 0.0}, "--huber_delta=0.0: must be above 0"),
    ({"bootstrap_draws": 7}, "--bootstrap_draws=7: must be 0, or 100 or more"),
    ({"points": "some"}, "--points=some: must be among independent, curves"),
  ],
)
def test_settings_that_do_not_fit(tmp_path, change, message):
  with pytest.raises(flags.UserError, match=message):
    config_of(tmp_path / "p.csv", tmp_path / "o.json", **change)


def test_names_are_shown_as_they_are(tmp_path, capsys):
  """Brackets in a group are no markup of the terminal's."""
  rows = ["x,y,g", *(f"{x},{2.0 * x**-0.1},a[/b]" for x in X), *(f"{x},{2.0 * x**-0.1},[bold]c" for x in X)]
  program.main(config_of(write_csv(tmp_path / "p.csv", rows), tmp_path / "o.json", law="power", group="g"))
  shown = capsys.readouterr().out
  assert "a[/b]" in shown and "[bold]c" in shown


def test_units_far_from_one(tmp_path):
  rows = ["x,y", *(f"{x * 1e-200},{1e-280 * (5.0 * x**-0.3 + 0.7) * 1e3}" for x in X)]
  program.main(config_of(write_csv(tmp_path / "p.csv", rows), tmp_path / "o.json"))
  (fit,) = record.read_json(tmp_path / "o.json")["fits"]
  np.testing.assert_allclose(fit["params"]["beta"]["estimate"], 0.3, rtol=1e-5)
  np.testing.assert_allclose(fit["extrapolation"]["predict_x_max"], X[-1] * 1e-200, rtol=1e-9)


def test_a_name_twice_in_the_header_is_refused(tmp_path):
  path = write_csv(tmp_path / "p.csv", ["x,y, y ", *(f"{x},{2.0 * x**-0.1},{x**-0.2}" for x in X)])
  with pytest.raises(flags.UserError, match=r"p\.csv: the header has column y twice; rename one of them"):
    program.main(config_of(path, tmp_path / "o.json"))
  assert not (tmp_path / "o.json").exists()


def test_a_blank_group_is_a_group_of_its_own(tmp_path, capsys):
  rows = ["x,y,g", *(f"{x},{2.0 * x**-0.1},all" for x in X), *(f"{x},{2.0 * x**-0.3}, " for x in X)]
  program.main(config_of(write_csv(tmp_path / "p.csv", rows), tmp_path / "o.json", law="power", group="g"))
  fits = {f["group"]: f for f in record.read_json(tmp_path / "o.json")["fits"]}
  assert set(fits) == {"all", ""} and "(blank)" in capsys.readouterr().out
  np.testing.assert_allclose([fits[name]["params"]["beta"]["estimate"] for name in ("all", "")], [0.1, 0.3], rtol=1e-9)
  program.main(config_of(write_csv(tmp_path / "p.csv", rows[:13]), tmp_path / "o.json", law="power"))
  assert [f["group"] for f in record.read_json(tmp_path / "o.json")["fits"]] == ["all"]


def test_a_budget_is_split_by_believed_laws_alone(tmp_path, capsys):
  """Points of one ray are refused; points that no joint law describes get no split, with the reason."""
  n = np.geomspace(1e8, 1e11, 12)
  ray = ["n,d,y", *(f"{a},{20 * a},{400 * a**-0.34 + 1.7}" for a in n)]
  budget = {"x": ("n", "d"), "law": "chinchilla", "budget_flops": 5.76e23}
  with pytest.raises(flags.UserError, match="all runs are on one ray"):
    program.main(config_of(write_csv(tmp_path / "p.csv", ray), tmp_path / "o.json", **budget))
  grid = [(a, b) for a in np.geomspace(1e6, 1e9, 5) for b in np.geomspace(1e7, 1e10, 5)]
  bent = ["n,d,y", *(f"{a},{b},{2 + (a * b) ** -0.02 - 0.3 * np.log(b / 1e7) ** 2 / 50}" for a, b in grid)]
  program.main(config_of(write_csv(tmp_path / "p.csv", bent), tmp_path / "o.json", **budget))
  shown = capsys.readouterr().out
  assert "no split of 5.76e+23 FLOPs: the law misses the points" in shown and "are best spent" not in shown
  assert "compute_optimal" not in record.read_json(tmp_path / "o.json")


def test_a_blank_cell_drops_its_point_and_says_so(tmp_path, capsys):
  """Line 4 has no y and line 19 no x; a NaN that is written out is a measurement, and refuses its group as before."""
  rows = ["x,y,g", *(f"{x},{2.0 * x**-0.1},{g}" for g in "ab" for x in X)]
  rows[3], rows[18] = f"{X[2]}, ,a", f",{2.0 * X[5] ** -0.1},b"
  path, out = write_csv(tmp_path / "p.csv", rows), tmp_path / "o.json"
  program.main(config_of(path, out, law="power", group="g"))
  fits = record.read_json(out)["fits"]
  assert [(f["num_points"], f["status"], f["note"]) for f in fits] == [
    (11, "ok", "1 point left out: y is blank in line 4"),
    (11, "ok", "1 point left out: x is blank in line 19"),
  ]
  np.testing.assert_allclose([f["params"]["beta"]["estimate"] for f in fits], 0.1, rtol=1e-9)
  assert "a: 1 point left out: y is blank in line 4." in capsys.readouterr().out
  rows[3] = f"{X[2]},nan,a"
  program.main(config_of(write_csv(path, rows), out, law="power", group="g"))
  assert record.read_json(out)["fits"][0]["status"] == "refused: 1 of 12 values of y are not finite numbers"


def test_many_blank_cells_are_counted():
  blank = [("loss", number) for number in range(2, 9)] + [("examples", 20)]
  assert left_out(blank) == ("7 points left out: loss is blank in lines 2, 3, 4, 5, 6, ...; 1 point left out: examples is blank in line 20")


def test_a_robust_loss_of_few_points_gives_estimates_without_intervals(tmp_path, capsys):
  """The estimates are the optimum of all 29 points. One point more has the intervals of a bootstrap."""
  x = np.geomspace(1e4, 1e8, 30)
  y = (5.0 * x**-0.3 + 0.7) * noise(0, 0.002, 30)
  y[7] *= 1.5  # an outlier
  lines = ["x,y", *(f"{a},{b}" for a, b in zip(x, y, strict=True))]
  out = tmp_path / "o.json"
  program.main(config_of(write_csv(tmp_path / "p.csv", lines[:-1]), out, loss="huber"))
  (few,) = record.read_json(out)["fits"]
  assert (few["status"], few["method"]) == ("no_intervals", None)
  assert few["reason"].startswith("29 points: a robust loss takes its intervals from a bootstrap, which needs at least 30")
  assert all(p[k] is None for p in few["params"].values() for k in ("std_error", "ci_low", "ci_high"))
  assert abs(few["params"]["beta"]["estimate"] - 0.3) < 0.01
  shown = capsys.readouterr().out
  assert "no_intervals" in shown and "29 points: a robust loss" in shown
  program.main(config_of(write_csv(tmp_path / "p.csv", lines), out, loss="huber"))
  assert record.read_json(out)["fits"][0]["method"] == "bootstrap"
