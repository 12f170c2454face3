"""`python -m analysis.optimum` on rows, passes and sweeps: table, file, figure, where the approaches agree, bad input in one line."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from made_sweep import write_sweep
from places import REAL, ROOT

from analysis import optimum as program
from analysis.fitting.laws import LAWS
from analysis.fitting.optimum_law import Budget, optimum_of
from analysis.fitting.result import Estimate
from analysis.questions.approaches import Approach
from analysis.questions.approaches_text import agreement
from dlrm_jax.common import flags, record

TRUTH = {"A": 406.4, "B": 410.7, "E": 1.69, "alpha": 0.34, "beta": 0.28}
LAW = LAWS["chinchilla"]


def loss_of(n: np.ndarray, d: np.ndarray, seed: int, level: float = 0.002) -> np.ndarray:
  return LAW.predict(TRUTH, np.column_stack([n, d])) * np.exp(level * np.random.default_rng(seed).standard_normal(len(n)))


def write_rows(path: Path, cost: float = 6.0) -> Path:
  """Runs at six budgets, C = cost N D, at nine sizes around the best; the third column is C."""
  c = np.repeat(np.geomspace(1e18, 1e21, 6), 9)
  best = np.array([optimum_of(TRUTH, Budget(v, cost))["N"] for v in c])
  n = best * np.tile(np.geomspace(0.15, 6, 9), 6)
  d = c / cost / n
  lines = [f"{a!r},{b!r},{e!r},{y!r}" for a, b, e, y in zip(n.tolist(), d.tolist(), c.tolist(), loss_of(n, d, 1).tolist(), strict=True)]
  path.write_text("\n".join(["params,tokens,flops,loss", *lines]) + "\n")
  return path


def write_passes(path: Path, seeds: int = 2) -> Path:
  lines = ["N,D,L,run"]
  for k, size in enumerate(np.geomspace(3e7, 3e9, 9).tolist()):
    for s in range(seeds):
      at = size * np.geomspace(2, 300, 12)
      loss = loss_of(np.full(12, size), at, 10 * k + s, 0.001)
      lines += [f"{size!r},{d!r},{y!r},run {k} {s}" for d, y in zip(at.tolist(), loss.tolist(), strict=True)]
  path.write_text("\n".join(lines) + "\n")
  return path


def config_of(path: Path, **change) -> program.OptimumConfig:
  return program.OptimumConfig(**{"input": str(path), "params": "params", "examples": "tokens", "loss": "loss"} | change)


PASSES = {"params": "N", "examples": "D", "loss": "L", "run": "run"}


def test_rows_give_approaches_2_and_3(tmp_path, capsys):
  out = tmp_path / "o.json"
  program.main(config_of(write_rows(tmp_path / "r.csv"), budget_flops=1e22, output=str(out)))
  saved = record.read_json(out)
  one, two, three = saved["approaches"]
  assert one["refused"] and not one["params"]
  want = optimum_of(TRUTH, Budget(1e22))
  for found in (two, three):
    for name in ("a", "N", "D", "D_per_N", "loss"):
      estimate = found["params"][name]
      assert estimate["ci_low"] < want[name] < estimate["ci_high"], (found["approach"], name)
  assert [p["points"] for p in saved["profiles"]] == [9] * 6 and not any(p["left_out"] for p in saved["profiles"])
  assert saved["fits"][0]["law"] == "chinchilla" and saved["flops_per_param"] == 6
  text = " ".join(capsys.readouterr().out.split())
  assert "Approach 1 gives nothing: it takes training curves: name the passes with --run." in text
  assert "Approaches 2 and 3 agree on the exponent a: their 95% intervals overlap." in text
  assert "The largest point has 1e+21 FLOPs" in text and "1e+18 (9)" in text


def test_flops_of_a_column_are_a_power_of_the_parameters(tmp_path, capsys):
  """C = 20 N D of the file is found from --flops, and stated by --flops_per_param without."""
  path, out = write_rows(tmp_path / "r.csv", 20.0), tmp_path / "o.json"
  found = []
  for change in ({"flops": "flops"}, {"flops_per_param": 20.0}):
    program.main(config_of(path, approach="2", budget_flops=1e21, output=str(out), **change))
    saved = record.read_json(out)
    np.testing.assert_allclose([saved["flops_per_param"], saved["flops_power"]], [20.0, 1.0], rtol=1e-9)
    found.append(saved["approaches"][0]["params"]["N"]["estimate"])
  np.testing.assert_allclose(found, optimum_of(TRUTH, Budget(1e21, 20.0))["N"], rtol=0.1)
  np.testing.assert_allclose(found[0], found[1], rtol=1e-6)


def test_passes_give_all_three_and_a_page(tmp_path, capsys):
  page, out = tmp_path / "p.html", tmp_path / "o.json"
  program.main(config_of(write_passes(tmp_path / "p.csv"), **PASSES, figure=str(page), output=str(out)))
  saved = record.read_json(out)
  assert [a["refused"] for a in saved["approaches"]] == ["", "", ""] and len(saved["winners"]) >= 3
  want = optimum_of(TRUTH, Budget(saved["budget_flops"]))
  for found in saved["approaches"]:
    assert abs(found["params"]["a"]["estimate"] - want["a"]) < 0.04
    np.testing.assert_allclose(found["params"]["N"]["estimate"], want["N"], rtol=0.3)
  text = page.read_text()
  assert "Training curves, least loss dashed" in text and "IsoFLOP profiles and their minima" in text
  assert "Approaches 1 and 2, 1 and 3, 2 and 3 agree on the exponent a" in text
  assert "sizes are a factor of 1.78 apart" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(("suffix", "start"), [(".svg", b"<svg"), (".png", b"\x89PNG")])
def test_figures_of_rows(tmp_path, suffix, start):
  path = tmp_path / f"f{suffix}"
  program.main(config_of(write_rows(tmp_path / "r.csv"), figure=str(path), budget_flops=1e22))
  assert path.read_bytes().startswith(start)


def test_a_sweep_gives_all_three(tmp_path, capsys):
  """FLOPs of an example are 100 dim, and so is N but for a factor: the exponent is beta/(alpha + beta) = .4."""

  def ne(examples: float, rows: float, dim: float) -> float:
    return 0.4 + 0.19 * dim**-0.6 + 6.0 * examples**-0.4

  sizes = {"dim": tuple(int(8 * 2 ** (k / 2)) for k in range(13))}
  examples = [int(2 ** (k / 2)) for k in range(24, 49)]
  root = write_sweep(tmp_path / "s", ne, seeds=2, level=2e-4, axes=("dim",), sizes=sizes, examples=examples)
  out = tmp_path / "o.json"
  program.main(program.OptimumConfig(workdir=str(root), output=str(out)))
  saved = record.read_json(out)
  for found in saved["approaches"]:
    assert abs(found["params"]["a"]["estimate"] - 0.4 / saved["flops_power"]) < 0.1, found
  assert "N, D and the loss are params_total, examples, ne" in " ".join(capsys.readouterr().out.split())
  with pytest.raises(flags.UserError, match="--axis=mlp: must be among dim"):
    program.main(program.OptimumConfig(workdir=str(root), axis="mlp"))
  with pytest.raises(flags.UserError, match="--workload=x: must be among"):
    program.main(program.OptimumConfig(workdir=str(root), workload="x"))


def test_rows_cost_no_flops(tmp_path):
  root = write_sweep(tmp_path / "s", lambda n, rows, dim: 0.4 + rows**-0.5 + n**-0.3, seeds=1, axes=("rows",))
  with pytest.raises(flags.UserError, match="params_total of axis rows: the FLOPs of an example do not grow with it"):
    program.main(program.OptimumConfig(workdir=str(root)))


def estimated(a: float, half: float, n: float = 1e9) -> dict[str, Estimate]:
  return {"a": Estimate(a, half / 2, a - half, a + half), "N": Estimate(n, n / 10, n / 1.2, n * 1.2)}


def test_approaches_that_disagree_are_said_to():
  found = [Approach(1, "", estimated(0.5, 0.03)), Approach(2, "", estimated(0.52, 0.03)), Approach(3, "", estimated(0.7, 0.02, 1e10))]
  lines = agreement(found, Budget(1e20), 1e20)
  assert lines[0] == "Approaches 1 and 3, 2 and 3 disagree on the exponent a: their 95% intervals do not overlap; those of 1 and 2 do."
  assert lines[1].startswith("Approaches 1 and 3, 2 and 3 disagree on N at this budget")
  assert lines[2].startswith("At least one approach is off by more than its interval")
  assert len(agreement(found[:2], Budget(1e20), 1e20)) == 2


def test_published_runs_by_approaches_2_and_3(tmp_path, capsys):
  """Hoffmann et al. 2022 give a = .49 by approach 2 and .46 by 3, Besiroglu et al. 2024 .512 [.455, .558] by 3. Ours holds .49 and .512."""
  points = REAL / "laws" / "chinchilla_240.csv"
  if not points.exists():
    pytest.skip(f"{points} is not here")
  out = tmp_path / "o.json"
  columns = {"params": "N", "examples": "D", "loss": "L"}
  program.main(config_of(points, **columns, approach="all", budget_flops=5.76e23, huber=True, output=str(out)))
  _, two, three = record.read_json(out)["approaches"]
  for found in (two, three):
    assert found["params"]["a"]["ci_low"] < 0.49 < 0.512 < found["params"]["a"]["ci_high"] < 0.6
    assert found["params"]["N"]["ci_low"] < 7.319e10 < found["params"]["N"]["ci_high"]
  np.testing.assert_allclose(
    [three["params"][name]["estimate"] for name in ("N", "D", "D_per_N", "loss")], [7.319e10, 1.312e12, 17.92, 1.9739], rtol=1e-3
  )
  text = " ".join(capsys.readouterr().out.split())
  assert "FLOPs (11 points) are left out: its parabola is flat within its error" in text


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"input": ""}, "--input, --workdir: give one of the two"),
    ({"workdir": "x"}, "--input, --workdir: give one of the two"),
    ({"params": ""}, "--params=: must be a name of a column"),
    ({"loss": "tokens"}, "--params=params: must be a column of its own"),
    ({"approach": "4"}, "--approach=4: must be among 1, 2, 3, all"),
    ({"figure": "x.pdf"}, "--figure=x.pdf: must be a name that ends in .svg, .png, .html"),
    ({"output": "x.svg", "figure": "./x.svg"}, "--figure=./x.svg: must be another file than --output"),
    ({"least_sizes": 2}, "--least_sizes=2: must be at least 3"),
    ({"tolerance": 1.5}, "--tolerance=1.5: must be below 1"),
    ({"axis": "dim"}, "--axis=dim: must be left out with --input"),
    ({"budgets": (1e18, 1e18)}, "must be farther apart than twice --tolerance"),
    ({"budgets": (1.15e18, 1e18)}, "must be farther apart than twice --tolerance"),
    ({"budgets": (1e18, 1e18), "run": "r"}, "must be numbers that differ"),
    ({"input": "", "workdir": "x", "params": "", "examples": "", "loss": "loss"}, "--loss=loss: must be left out with --workdir"),
    ({"params": "n"}, "--params=n: no such column in .*it has params, tokens, flops, loss"),
    ({"run": "seed"}, "--run=seed: no such column"),
    ({"run": "flops"}, "--run=flops: run .* has 9 values of params, a run has one size"),
    ({"approach": "1"}, "approach 1: it takes training curves"),
    ({"approach": "2", "budgets": (1e30,)}, "approach 2: no run is within 10% of a budget"),
    ({"approach": "2", "budgets": (1e18, 1e21)}, "approach 2: 2 of 2 budgets have a minimum, 3 or more are needed"),
  ],
)
def test_bad_input_in_one_line(tmp_path, change, message):
  path = write_rows(tmp_path / "r.csv")
  with pytest.raises(flags.UserError, match=message) as error:
    program.main(config_of(path, **change))
  assert "\n" not in str(error.value)


@pytest.mark.parametrize(
  ("rows", "message"),
  [
    (["1e7,1e9,1,0"], "1 of 1 rows have a value that is no positive finite number"),
    (["1e7,1e9,1,3,r", "1e7,1e9,1,3,r"], ":2: 5 columns, the header has 4"),
    ([], "no points below the header"),
  ],
)
def test_bad_rows(tmp_path, rows, message):
  path = tmp_path / "r.csv"
  path.write_text("\n".join(["params,tokens,flops,loss", *rows]))
  with pytest.raises(flags.UserError, match=message):
    program.main(config_of(path))


def test_budgets_are_named_and_those_without_runs_too(tmp_path, capsys):
  budgets = tuple(np.geomspace(1e18, 1e21, 6)[:4].tolist())
  program.main(config_of(write_rows(tmp_path / "r.csv"), approach="2", budgets=(*budgets, 1e25)))
  text = " ".join(capsys.readouterr().out.split())
  assert "4 budgets, 36 runs" in text and "Approach 2: 1e+25 FLOPs are left out: no run has them." in text


def test_a_ray_has_no_law_no_profile_and_no_figure(tmp_path):
  """Runs that all have D = 20 N: one size a budget, and a joint law that is refused."""
  n = np.geomspace(1e8, 1e11, 12)
  path = tmp_path / "r.csv"
  path.write_text("\n".join(["params,tokens,loss", *(f"{a},{20 * a},{400 * a**-0.34 + 1.7}" for a in n)]))
  with pytest.raises(flags.UserError, match="approach 2: no budget has 5 sizes within 10% of it; approach 3: all runs are on one ray"):
    program.main(config_of(path, figure=str(tmp_path / "f.svg")))
  assert not (tmp_path / "f.svg").exists()


def test_command_line(tmp_path):
  path = write_rows(tmp_path / "r.csv")
  words = [sys.executable, "-m", "analysis.optimum", f"--input={path}", "--params=params", "--examples=tokens", "--loss=loss"]
  done = subprocess.run([*words, "--approach=2"], capture_output=True, text=True, cwd=ROOT)
  assert done.returncode == 0 and "isoFLOP profiles" in done.stdout, done.stderr
  bad = subprocess.run([*words, "--approach=1"], capture_output=True, text=True, cwd=ROOT)
  assert bad.returncode == 2 and bad.stderr.count("\n") == 1
