"""Schemes by resource on a sweep with known laws: exponents, efficiency, regimes, the page's sections, values published."""

import numpy as np
import pytest
from report_sweeps import write_planted, write_real

from analysis.load import evenly, load
from analysis.questions.curves import curves
from analysis.questions.published import PAPER
from analysis.questions.schemes import BEST, scheme_rows
from analysis.questions.sweep_laws import data_laws, pooled_noise, size_laws
from analysis.report import paper_tables


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
    names = [f"{w['axis']} {w['label']}" for w in row.frontier.winner]
    changes = [name for i, name in enumerate(names) if i == 0 or names[i - 1] != name]
    assert [c[3] for c in table.rows if c[:2] == [row.workload, "compute"]] == changes


def test_published_values():
  """Of shared data's second-hand table: data 0.07 D^-0.10 + 0.98, compute 0.11 C^-0.14 + 0.98, parameters saturated at 0.98."""
  assert [p.text for p in PAPER.values()] == ["0.07 x^-0.10 + 0.98", "0.11 x^-0.14 + 0.98", "saturated, 0.98"]


def test_evenly():
  assert evenly([1, 2, 3], 5) == [1, 2, 3]
  assert evenly(list(range(101)), 5) == [0, 25, 50, 75, 100]
