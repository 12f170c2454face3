"""Tests benchmarks.lookup: programs against the dense oracle, ids and bytes by hand, no copied table, JSON of a small run, bad input."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from benchmarks import lookup
from benchmarks.accelerator import engine_case
from benchmarks.accelerator import oracle as engine_oracle
from benchmarks.compiled import hlo
from benchmarks.lookup import LookupConfig, cases
from benchmarks.measure import ceilings
from benchmarks.measure.engine_alone import EngineCase, distinct_share, draw, make_programs, operation_bytes
from dlrm_jax.common import flags
from dlrm_jax.common.flags import UserError
from dlrm_jax.config import MeshConfig, TableConfig
from dlrm_jax.embedding.layout import Layout
from dlrm_jax.embedding.pool import Lookups

SMALL = LookupConfig("", rows=(20,), dims=(8,), bag_lengths=(2,), batch_size=16, steps=2, warmup=1, kernels="xla")


@pytest.fixture(autouse=True)
def small_ceilings(monkeypatch: pytest.MonkeyPatch) -> None:
  monkeypatch.setattr(ceilings, "measure", lambda *_: ceilings.Ceilings(1e9, 2e9, "measured"))


def case(**changes: Any) -> EngineCase:
  (one,) = cases(LookupConfig(**{f: getattr(SMALL, f) for f in SMALL.__dataclass_fields__} | changes))
  return one


@pytest.mark.parametrize("skew", [1.0, 3.0, 0.5])
def test_ids_follow_the_skew(skew):
  """P(row < q V) = q^(1/skew)."""
  row_bl = draw(case(rows=(1000,), bag_lengths=(1,)).plan.layout, 4000, skew, seed=1)
  assert row_bl.shape == (4000, 26) and row_bl.min() >= 0 and row_bl.max() <= 999
  for q in (0.01, 0.2, 0.7):
    chance = q ** (1 / skew)
    assert (row_bl < 1000 * q).mean() == pytest.approx(chance, abs=5 * (chance * (1 - chance) / row_bl.size) ** 0.5)
  assert (draw(case(rows=(1000,), bag_lengths=(1,)).plan.layout, 4000, skew, seed=2) != row_bl).any()


def test_distinct_rows_are_of_a_table_each():
  layout = Layout((TableConfig("a", 5, 4), TableConfig("b", 3, 4, 2)), "top", (5, 3), first_order=False)
  row_bl = np.array([[0, 0, 1], [0, 2, 1], [4, 0, 0]], np.int32)
  assert distinct_share(layout, row_bl) == (2 + 3) / 9  # rows 0, 4 of a; 0, 1, 2 of b


@pytest.mark.parametrize(
  ("changes", "row", "slots"),
  [
    ({}, 8 * 4, 1),
    ({"table_optimizer": "sgd"}, 8 * 4, 0),
    ({"table_optimizer": "adam"}, 8 * 4, 16),
    ({"table_dtype": "bfloat16"}, 8 * 2, 1),
  ],
)
def test_bytes_by_hand(changes, row, slots):
  """16 examples have 52 lookups of 26 features each. A gather reads rows and writes vectors; an update moves rows and float32 slots."""
  one = case(**changes)
  got = [operation_bytes(one.run, one.plan.layout, operation) for operation in ("gather", "update", "both")]
  gather, update = 16 * (52 * row + 26 * 8 * 4), 16 * 52 * 2 * (row + 4 * slots)
  assert got == [gather, update, gather + update]


@pytest.mark.parametrize(("mesh", "placement"), [("1", "auto"), ("8", "row"), ("2x4", "column"), ("8", "replicated")])
def test_programs_against_the_oracle(mesh, placement):
  one = case(mesh=MeshConfig(mesh=mesh, placement=(placement,)))
  layout, lengths, lr = one.plan.layout, one.plan.layout.bag_lengths, one.run.train.table_lr
  row_bl, rng = draw(layout, 16, 3.0, seed=5), np.random.default_rng(0)
  lookups = Lookups(row_bl, np.ones(row_bl.shape, bool), None)
  other = Lookups(draw(layout, 16, 3.0, seed=6), lookups.valid_bl, None)
  given = {"rows": rng.normal(size=(16, 26, 8)).astype(np.float32)}
  stacked, ones = row_bl + layout.offsets[layout.feature_of_lookup], np.ones(row_bl.shape)
  assert len(np.unique(stacked)) < 0.6 * stacked.size  # many are looked up twice
  programs = make_programs(one)
  state = programs.init()
  rows = engine_case.whole(one.plan, state.tables, "rows").astype(np.float64)
  pooled = engine_oracle.pooled(rows, stacked, ones, lengths)
  close = {"rtol": 1e-5, "atol": 1e-6}

  state = programs.gather(state, lookups)
  np.testing.assert_allclose(state.vectors["rows"], pooled, **close)
  np.testing.assert_array_equal(engine_case.whole(one.plan, state.tables, "rows"), rows)  # a gather writes nothing
  routes = jax.tree.map(np.asarray, state.routes)

  def stepped(rows: np.ndarray, squares: np.ndarray, grads: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    total, touched = engine_oracle.total_gradient(len(rows), stacked, lookups.valid_bl, ones, grads, lengths)
    new, slots = engine_oracle.dense_update(rows, {"squares": squares}, "rowwise_adagrad", total, touched, lr)
    return new, slots["squares"]

  def check(tables: Any, rows: np.ndarray, squares: np.ndarray) -> None:
    np.testing.assert_allclose(engine_case.whole(one.plan, tables, "rows"), rows, **close)
    np.testing.assert_allclose(engine_case.whole(one.plan, tables, "rows", "squares"), squares, **close)

  state = programs.gather(state, other)  # the update uses the given routes, not the last ones
  state = programs.update(state, (routes, given))
  rows, squares = stepped(rows, np.zeros(len(rows)), given["rows"])
  check(state.tables, rows, squares)
  pooled = engine_oracle.pooled(rows, stacked, ones, lengths)
  state = programs.both(state, (lookups, given))
  np.testing.assert_allclose(state.vectors["rows"], pooled, **close)
  check(state.tables, *stepped(rows, squares, given["rows"]))


@pytest.mark.parametrize("kernels", ["xla", "native"])
def test_no_program_copies_a_table(kernels: str):
  """When the update did not depend on the vectors, XLA:CPU read rows after it had written them, and copied every table each step."""
  one = case(rows=(3000,), bag_lengths=(1,), kernels=kernels)
  programs, row_bl = make_programs(one), np.zeros((16, 26), np.int32)
  lookups = Lookups(row_bl, np.ones(row_bl.shape, bool), None)
  given = {"rows": np.ones((16, 26, 8), np.float32)}
  state = programs.init()
  routes = jax.tree.map(np.asarray, state.routes)
  for program, inputs in ((programs.gather, lookups), (programs.update, (routes, given)), (programs.both, (lookups, given))):
    text = program.lower(state, inputs).compile().as_text()
    assert hlo.largest_arrays(text, 26 * 3000 * 4) == []


def test_cases_are_every_combination():
  config = LookupConfig("", rows=(20, 30), dims=(4, 8), bag_lengths=(1, 3), skew=(1.0, 2.0), batch_size=16, kernels="xla")
  got = [(p.run.model.num_rows, p.run.model.embed_dim, p.plan.layout.bag_lengths[25], p.skew) for p in cases(config)]
  assert len(set(got)) == 16 and got[0] == (20, 4, 1, 1.0) and got[-1] == (30, 8, 3, 2.0)
  assert all(len(p.plan.layout.tables) == 26 and p.run.train.table_optimizer == "rowwise_adagrad" for p in cases(config))


def test_json_of_a_small_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
  words = ["--rows=20,40", "--dims=8", "--batch_size=16", "--steps=4", "--warmup=1", "--mesh=8", "--placement=row", "--skew=1"]
  output = tmp_path / "new" / "lookup.json"
  lookup.main(flags.parse(["lookup", f"--output={output}", *words], LookupConfig))
  written = json.loads(output.read_text())
  assert {"schema_version", "command", "hardware", "software", "results"} == set(written)
  rows = written["results"]
  assert [(row["num_rows"], row["operation"]) for row in rows] == [(v, op) for v in (20, 40) for op in ("gather", "update", "both")]
  for row in rows:
    assert (row["batch_size"], row["embed_dim"], row["bag_length"], row["skew"], row["placements"]) == (16, 8, 1, 1.0, "26 row")
    assert (row["steps"], row["num_devices"], row["peak_source"]) == (4, 8, "measured")
    assert 0 < row["step_ms_p50"] <= row["step_ms_p90"] <= row["step_ms_p99"] and row["cpu_ms_p50"] > 0
    assert row["lookups_per_s"] == pytest.approx(26 * row["examples_per_s"])
    per_lookup = {"gather": 64, "update": 72, "both": 136}[row["operation"]]
    assert row["bytes_per_s"] == pytest.approx(per_lookup * row["lookups_per_s"])
    assert row["bandwidth_share"] == pytest.approx(row["bytes_per_s"] / 2e9)
    expected = 20 / 16 * (1 - (1 - 1 / row["num_rows"]) ** 16) * row["num_rows"] / 20  # distinct of 16 uniform draws
    assert row["distinct_share"] == pytest.approx(expected, rel=0.05)
  printed, progress = capsys.readouterr()
  assert "share the host's cores" in printed and "M lookups/s" in printed
  assert "2/2 40 rows, dim 8, bags of 1, skew 1: gather " in progress


@pytest.mark.parametrize(
  ("words", "message"),
  [
    (["--rows="], "--rows=: must be a list of at least one"),
    (["--rows=1"], "--rows=1: must be at least 2 each"),
    (["--dims=0,4"], "--dims=0,4: must be at least 1 each"),
    (["--bag_lengths=0"], "--bag_lengths=0: must be at least 1 each"),
    (["--skew=0"], "--skew=0.0: must be above 0 each"),
    (["--operations=scatter"], "--operations=scatter: must be among gather, update, both"),
    (["--table_optimizer=lamb"], "--table_optimizer=lamb: must be among sgd, adagrad, rowwise_adagrad, adam"),
    (["--parallelism=pmap"], "--parallelism=pmap: must be jit"),
    (["--steps=0"], "--steps=0: must be at least 1"),
    (["--mesh=16"], "--mesh=16: needs 16 devices"),
    (["--mesh=3"], "--batch_size=2048: must be a multiple of the 3 devices"),
    (["--rows=100000000"], "--num_rows=100000000: 26 tables have"),
    (["--num_rows=5"], "Unknown command line flag 'num_rows'"),
    (["--output="], "--output=: must be a JSON file to write"),
  ],
)
def test_bad_input(words, message, refusal, monkeypatch, tmp_path):
  monkeypatch.setattr(lookup, "measure", lambda *_: pytest.fail("timed"))
  assert message in refusal(lookup.main, LookupConfig, {}, [f"--output={tmp_path}/x.json", "--kernels=xla", *words])
  assert not list(tmp_path.iterdir())


def test_tables_that_do_not_fit_are_refused():
  with pytest.raises(UserError, match=r"GiB too much"):
    cases(LookupConfig("", rows=(1_000_000,), mesh=MeshConfig(device_memory_gib=0.5), kernels="xla"))
