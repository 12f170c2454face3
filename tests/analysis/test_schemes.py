"""Schemes by resource on a sweep with known laws: exponents, efficiency, regimes, the page's sections, values published."""

import numpy as np
import polars as pl
import pytest
from made_sweep import additive, steepening, write_sweep
from report_sweeps import write_planted, write_real

from analysis.fitting.fit_law import fit_law
from analysis.fitting.result import estimate_text
from analysis.fitting.thinning import evenly
from analysis.load import load
from analysis.questions.curves import curves
from analysis.questions.published import PAPER
from analysis.questions.schemes import BEST, in_unit, scheme_rows
from analysis.questions.sweep_laws import data_laws, pooled_noise, size_laws
from analysis.report import paper_tables
from analysis.report.analysis import analyse
from analysis.report.efficiency import envelope
from analysis.report.tables import short


@pytest.fixture(scope="module", params=[write_planted, write_real], ids=["planted", "clicks"])
def rows(request, tmp_path_factory):
  sweep = load(request.param(tmp_path_factory.mktemp("sweep")))
  given = curves(sweep, "auto", None, None)
  laws = data_laws(given, pooled_noise(given))
  return sweep, laws, scheme_rows(sweep, laws, size_laws(sweep, "auto"), "auto")


def test_every_scheme_has_its_resources(rows):
  sweep, _, found = rows
  planted = "s=1.25" in set(sweep.points["workload"])
  for workload in set(sweep.points["workload"]):
    mine = {(r.scheme, r.resource) for r in found if r.workload == workload}
    schemes = {"data", "rows"} if planted else {"rows", "dim", "overarch", "mlp"}
    assert mine >= {(scheme, resource) for scheme in schemes for resource in ("data", "compute")}
    assert mine >= {(BEST, resource) for resource in ("data", "params", "compute")} and ("data", "params") not in mine


def test_rows_are_the_laws_of_the_largest_size(rows):
  _, laws, found = rows
  for row in found:
    if row.resource == "data" and row.scheme != BEST:
      mine = [r for r in laws if (r.workload, r.axis, r.learner) == (row.workload, row.scheme, "dlrm")]
      assert row.fit.value("beta") == max(mine, key=lambda r: r.size).fit.value("beta")


def test_efficiency_is_the_resource_needed_for_one_loss(rows):
  _, _, found = rows
  for resource in ("data", "compute"):
    for workload in {r.workload for r in found}:
      mine = [r for r in found if (r.workload, r.resource) == (workload, resource) and r.efficiency is not None]
      if not mine:
        continue
      assert max(r.efficiency for r in mine) == pytest.approx(1.0)
      reached = [float(r.fit.predict(np.array([r.fit.x_max]))[0]) for r in found if r in mine]
      target = max(reached)
      grids = {r.scheme: np.geomspace(r.fit.x_min, r.fit.x_max, 20_001) for r in mine}
      needed = {r.scheme: float(grids[r.scheme][np.argmax(r.fit.predict(grids[r.scheme]) <= target * (1 + 1e-9))]) for r in mine}
      for r in mine:
        assert r.efficiency == pytest.approx(min(needed.values()) / needed[r.scheme], rel=2e-3)


def test_planted_theory_stands_beside_the_fit(rows):
  sweep, _, found = rows
  if "s=1.25" not in set(sweep.points["workload"]):
    pytest.skip("of the planted sweep")
  (row,) = [r for r in found if (r.workload, r.scheme, r.resource) == ("s=1.25", "data", "data")]
  np.testing.assert_allclose(row.theory_beta, 0.2, rtol=1e-12)
  np.testing.assert_allclose(row.fit.value("beta"), 0.2, atol=0.01)
  table = paper_tables.scheme_table(found)
  (cells,) = [c for c in table.rows if c[:3] == ["s=1.25", "data", "data"]]
  assert cells[8] == "0.200" and cells[9] == "0.07 x^-0.10 + 0.98"


def test_frontier_table_merges_what_wins_on(rows):
  _, _, found = rows
  best = [r for r in found if r.scheme == BEST and r.resource == "compute"]
  table = paper_tables.frontier_table(found)
  for row in best:
    named = [[f"{w['axis']} {w['label']}" for w in alike] for alike in row.frontier.alike]
    assert [alike[0] for alike in named] == [f"{w['axis']} {w['label']}" for w in row.frontier.winner]
    names = [alike[0] if len(alike) == 1 else f"alike: {', '.join(alike)}" for alike in named]
    changes = [name for i, name in enumerate(names) if i == 0 or names[i - 1] != name]
    assert [c[3] for c in table.rows if c[:2] == [row.workload, "compute"]] == changes


def test_the_loss_of_a_winner_is_its_own(rows):
  """At the end of each row: the mean over seeds of the configuration that it names, after the examples that it names."""
  sweep, _, found = rows
  evaluations = sweep.evaluations()
  shown = {tuple(c[:4]): c for c in paper_tables.frontier_table(found).rows}
  assert shown
  for row in (r for r in found if r.scheme == BEST and r.resource != "data"):
    last = row.frontier.winner[-1]
    mine = evaluations.filter(axis=last["axis"], size=last["size"], examples=last["examples"], workload=row.workload, learner="dlrm")
    np.testing.assert_allclose(row.frontier.winner_loss[-1], mine[row.metric].mean(), rtol=1e-12)
    (cells,) = [c for c in shown.values() if c[:2] == [row.workload, "parameters" if row.resource == "params" else "compute"]][-1:]
    assert cells[4:6] == [short(last["examples"]), f"{mine[row.metric].mean():.5g}"] and cells[6].endswith("%, each by one seed")


@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize("loss", [additive, steepening])
def test_one_configuration_has_one_law(tmp_path, loss, seeds):
  """Its FLOPs are 800 times its examples, so that the best for any budget is the curve, and all laws are the law of the curve."""
  found = analyse(write_sweep(tmp_path, loss, seeds=seeds, axes=()))
  (law,) = found.rows
  x, mean = np.unique(found.curves[0].arrays[0]), {}
  assert {(r.scheme, r.resource) for r in found.schemes} == {(s, r) for s in ("data", BEST) for r in ("data", "compute")}
  for row in found.schemes:
    assert estimate_text(row.fit, "beta") == estimate_text(law.fit, "beta") and row.fit.status == law.fit.status
    assert row.fit.params["gamma"] == law.fit.params["gamma"] and row.regime == found.schemes[0].regime
    per = 800.0 if row.resource == "compute" else 1.0
    np.testing.assert_allclose(row.fit.predict(per * x), law.fit.predict(x), rtol=1e-9)
    np.testing.assert_allclose([row.fit.x_min, row.fit.x_max], [per * law.fit.x_min, per * law.fit.x_max])
    if row.frontier is not None:
      mean[row.resource] = row.frontier.loss.mean(axis=0)
      np.testing.assert_allclose(row.frontier.budget / per, [w["examples"] for w in row.frontier.winner])
      curve = found.sweep.evaluations().group_by("examples").agg(pl.col("ne").mean()).sort("examples")
      np.testing.assert_allclose(mean[row.resource], curve["ne"], rtol=1e-12)
  assert [c[6] for c in paper_tables.frontier_table(found.schemes).rows] == ["one seed" if seeds == 1 else "100%"]


def test_a_unit_changes_no_law():
  """Bent and M4 laws, too: their scales of x move with it."""
  x = 2.0 ** np.arange(14, 30)
  for law in ("power", "power_constant", "broken_power", "m4"):
    fit = fit_law(x, 30.0 * x**-0.4 + 0.1, law)
    np.testing.assert_allclose(in_unit(fit, 800.0).predict(800 * x), fit.predict(x), rtol=1e-9)


def test_envelope_is_never_above_a_curve():
  """By hand: straight on logarithms between points, beyond its end a curve's loss stays bought; one curve is its own envelope."""
  curves = {1: {1.0: 4.0, 4.0: 1.0}, 2: {2.0: 3.0, 8.0: 2.0, 16.0: 0.5}}
  means = [{"axis": "dim", "size": s, "flops": c, "value": v} for s, curve in curves.items() for c, v in curve.items()]
  np.testing.assert_allclose(envelope(means, "flops"), [(1, 4), (2, 2), (4, 1), (8, 1), (16, 0.5)])
  rising = [{"axis": "dim", "size": 1, "flops": c, "value": v} for c, v in ((1.0, 2.0), (2.0, 1.0), (4.0, 1.5))]
  np.testing.assert_allclose(envelope(rising, "flops"), [(1, 2), (2, 1), (4, 1.5)])


def test_costs_that_hardly_move_make_no_exponent(tmp_path):
  """FLOPs are 100 dim, over dims of 6 to 12 a factor of 2; over dims of 2 to 16 a factor of 8."""
  narrow = analyse(write_sweep(tmp_path / "narrow", additive, axes=("dim",), sizes={"dim": (6, 8, 10, 12)}))
  wide = analyse(write_sweep(tmp_path / "wide", additive, axes=("dim",)))
  fits = {(name, r.x): r.fit for name, one in (("narrow", narrow), ("wide", wide)) for r in one.sizes}
  assert fits["narrow", "flops"].status == "refused: flops span a factor of 2, an exponent against them needs 3"
  assert not fits["narrow", "size"].refused and not fits["wide", "flops"].refused


def test_published_values():
  """Of shared data's second-hand table: data 0.07 D^-0.10 + 0.98, compute 0.11 C^-0.14 + 0.98, parameters saturated at 0.98."""
  assert [p.text for p in PAPER.values()] == ["0.07 x^-0.10 + 0.98", "0.11 x^-0.14 + 0.98", "saturated, 0.98"]


def test_evenly():
  assert evenly([1, 2, 3], 5) == [1, 2, 3]
  assert evenly(list(range(101)), 5) == [0, 25, 50, 75, 100]
