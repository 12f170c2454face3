"""The report on work directories that the tests write: laws found in them, files, the page's independence of any network, bad input."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from page_links import Links
from places import ROOT
from report_case import GRID

from analysis.load import load
from analysis.questions.curves import curves
from analysis.questions.parts import data_exponents, part_sizes
from analysis.questions.sweep_laws import data_laws, pooled_noise
from analysis.report import program, tables
from analysis.report.paper_tables import exponent_table, parts_table
from dlrm_jax.common import flags, record


def fits_of(root: Path, **wanted) -> list[dict]:
  return [f for f in record.read_json(root / "report" / "laws.json")["fits"] if all(f[k] == v for k, v in wanted.items())]


@pytest.mark.parametrize(("workload", "beta"), [("s=1.111", 0.1), ("s=1.25", 0.2)])
@pytest.mark.parametrize("learner", ["dlrm", "per_id"])
def test_data_exponents_of_planted_workloads(planted, workload, beta, learner):
  (fit,) = fits_of(planted, workload=workload, learner=learner, axis="data", x="examples")
  assert (fit["law"], fit["metric"], fit["x_min"], fit["num_seeds"], fit["method"]) == ("power", "excess", 2**17, 2, "gls")
  np.testing.assert_allclose(fit["params"]["beta"]["estimate"], beta, atol=0.004)
  np.testing.assert_allclose(fit["theory_beta"], beta, rtol=1e-12)
  assert fit["num_points"] == 2 * sum(n >= 2**17 for n in GRID)


def test_rows_axis_has_its_constant_and_its_theory(planted):
  fits = fits_of(planted, workload="s=1.25", axis="rows", x="examples")
  assert [f["size"] for f in fits] == [100, 400, 1600, 6400]
  for fit in fits:
    assert fit["law"] == "power_constant"
    np.testing.assert_allclose(fit["theory_gamma"], 0.2 * fit["size"] ** -0.25, rtol=1e-12)
    np.testing.assert_allclose(fit["params"]["gamma"]["estimate"], fit["theory_gamma"], rtol=0.02)
  (over_sizes,) = fits_of(planted, workload="s=1.25", axis="rows", x="size")
  np.testing.assert_allclose(over_sizes["params"]["beta"]["estimate"], 0.25, atol=0.02)
  assert over_sizes["at_examples"] == GRID[-1] and over_sizes["theory_beta"] == 0.25


def test_sizes_are_listed_beside_theory(planted):
  saved = [s for s in record.read_json(planted / "report" / "laws.json")["parts"] if s["workload"] == "s=1.25"]
  assert [s["size"] for s in saved] == [100, 400, 1600, 6400]
  for s in saved:
    np.testing.assert_allclose(s["excess"], s["floor"] + 1.05 * s["excess_ideal"], rtol=2e-3)
    assert s["seeds"] == 2


def test_real_log_is_fitted_with_a_constant_on_ne(real):
  (fit,) = fits_of(real, axis="dim", size=4, x="examples")
  assert (fit["law"], fit["metric"], fit["theory_beta"]) == ("power_constant", "ne", None)
  assert fit["x_min"] >= GRID[-1] / 64
  np.testing.assert_allclose([fit["params"][n]["estimate"] for n in ("beta", "gamma")], [0.3, 0.77], rtol=0.03)
  (over_sizes,) = fits_of(real, axis="rows", x="size")
  np.testing.assert_allclose(over_sizes["params"]["beta"]["estimate"], 0.5, atol=0.05)
  assert {f["x"] for f in fits_of(real, axis="overarch", size=None)} == {"size", "params", "flops"}


def test_an_axis_that_does_nothing_gets_no_exponent(real):
  (fit,) = fits_of(real, axis="mlp", x="size")
  assert fit["status"].startswith("refused") or fit["status"] == "not_identifiable"
  assert not fit["params"] or fit["params"]["beta"]["ci_high"] is None or fit["params"]["beta"]["ci_low"] is None


def test_what_is_left_out_is_named(planted, real, capsys):
  assert record.read_json(planted / "report" / "laws.json")["not_done"] == ["later"]
  assert "1 of 25 runs not done yet: later" in (planted / "report" / "index.html").read_text()
  assert record.read_json(real / "report" / "laws.json")["diverged"] == ["mlp2n1"]
  assert "mlp2n1" not in set(pl.read_csv(real / "report" / "points.csv", schema_overrides={"label": pl.String})["config_id"])
  assert "mlp2n1" in (real / "report" / "index.html").read_text()
  (fit,) = fits_of(real, axis="mlp", size=2, x="examples")
  assert fit["num_seeds"] == 1 and fit["method"] == "gls"  # the seeds of the other curves tell its noise


@pytest.mark.parametrize("name", ["planted", "real"])
def test_page_needs_no_network_and_holds_every_figure(name, request):
  folder = request.getfixturevalue(name) / "report"
  text = (folder / "index.html").read_text()
  links = Links()
  links.feed(text)
  assert [a for a in links.fetched if not a.startswith("data:")] == []
  assert not re.search(r"@import|url\(\s*['\"]?http", text.split("<script", 1)[0])
  figures = {p.stem for p in folder.glob("*.svg")}
  assert figures == {p.stem for p in folder.glob("*.png")}
  axes = {"planted": {"rows"}, "real": {"rows", "dim", "overarch", "mlp"}}[name]
  assert figures == {"data_law", "data_efficiency", "compute", "compute_by", "residuals"} | {
    f"{kind}_{axis}" for kind in ("data", "model") for axis in axes
  }
  assert links.charts == len(figures)
  saved = json.loads(re.search(r'id="report">(.*?)</script>', text).group(1))
  assert set(saved["specs"]) == figures and set(saved["themes"]) == {"light", "dark"}
  assert "prefers-color-scheme: dark" in text and "vegaEmbed" in text
  for path in folder.glob("*.png"):
    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" and path.stat().st_size > 10_000
  for path in folder.glob("*.svg"):
    assert path.read_text().startswith("<svg") and "</svg>" in path.read_text()


def test_headline_figure_carries_the_exponents(planted):
  drawn = (planted / "report" / "data_law.svg").read_text()
  for text in ("DLRM: β = 0.1", "per-id estimator: β = 0.2", "theory: exponent 0.200", "s = 1.111", "examples seen", "1M"):
    assert text in drawn, text


def test_points_csv_holds_every_evaluation(planted):
  frame = pl.read_csv(planted / "report" / "points.csv", schema_overrides={"label": pl.String})
  in_order = load(planted).points.filter(pl.col("config_id") != "later")["config_id"].to_list()
  assert list(dict.fromkeys(frame["config_id"])) == in_order
  assert len(frame) == 24 * len(GRID)
  assert {"workload", "axis", "size", "seed", "learner", "config_id", "examples", "excess", "params_total"} <= set(frame.columns)


def test_law_table_on_standard_output(planted, capsys):
  sweep = load(planted)
  given = curves(sweep, "auto", 2.0**18, None)
  rows = data_laws(given, pooled_noise(given))
  tables.print_tables(rows, [exponent_table(data_exponents(sweep, rows)), parts_table(part_sizes(sweep))])
  out = capsys.readouterr().out
  assert "262k to 4.19M" in out and "excess" in out and "0.100" in out and "Intervals, gls" in out


def test_a_single_run_is_enough(tmp_path, planted):
  source = next((planted / "runs").glob("dlrmdata*n0"))
  for name in ("record.json", "curve.jsonl"):
    (tmp_path / name).write_bytes((source / name).read_bytes())
  program.main(program.ReportConfig(workdir=str(tmp_path), output=str(tmp_path / "out")))
  (fit,) = record.read_json(tmp_path / "out" / "laws.json")["fits"]
  assert fit["axis"] == "data" and fit["method"] == "gls_residuals" and fit["num_seeds"] == 1
  assert (tmp_path / "out" / "data_law.png").exists()
  page = (tmp_path / "out" / "index.html").read_text()
  assert "1 run, 1 workload, axis data" in page and "<summary>1 run</summary>" in page


def broken(root: Path, **files: str) -> Path:
  for name, text in files.items():
    path = root / name.replace("__", "/").replace("_json", ".json").replace("_curve", ".jsonl")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
  return root


@pytest.mark.parametrize(
  ("files", "message"),
  [
    ({}, "no finished run"),
    ({"sweep_json": '{"points": [{}, {}]}'}, "no finished run .* plans 2 points"),
    ({"runs__a__record_json": "{"}, "record.json: not valid JSON"),
    ({"runs__a__record_json": "{}"}, "record.json: has no size, config_id"),
    ({"runs__a__record_json": '{"config_id": "a", "examples": 9, "status": "done"}'}, "curve.jsonl: no such file"),
    ({"runs__a__record_json": "{}", "sweep_json": '{"points": [{"axis": "rows"}]}'}, "point 0 has no workload, size, seed"),
    (
      {
        "runs__a__record_json": "{}",
        "sweep_json": '{"points": [{"workload":"w","axis":"depth","size":1,"seed":0,"learner":"dlrm","config_id":"a"}]}',
      },
      "axis=depth: must be among data, rows",
    ),
  ],
)
def test_bad_work_directories(tmp_path, files, message):
  with pytest.raises(flags.UserError, match=message) as error:
    program.main(program.ReportConfig(workdir=str(broken(tmp_path, **files))))
  assert "\n" not in str(error.value)
  assert not (tmp_path / "report").exists()


def test_command_line_refuses(tmp_path):
  words = [sys.executable, "-m", "analysis.report", f"--workdir={tmp_path / 'nowhere'}"]
  done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT)
  assert done.returncode == 2 and done.stderr.count("\n") == 1 and "no such directory" in done.stderr
