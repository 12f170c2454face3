"""Checkpoints: what one mesh and placement wrote, every other reads, exactly; what is damaged or of another model is refused."""

import dataclasses
import functools
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.accelerator.engine_case import BAGS, DIM, ROWS, Case, whole
from dlrm_jax.common import record
from dlrm_jax.common.flags import UserError
from dlrm_jax.config import MeshConfig, ModelConfig, PlantedConfig, RunConfig, TrainConfig
from dlrm_jax.data.planted.clicks import Planted
from dlrm_jax.embedding import relayout
from dlrm_jax.embedding.placement import Plan
from dlrm_jax.embedding.planner import LANES
from dlrm_jax.embedding.tables import OPTIMIZER_SLOTS
from dlrm_jax.training import checkpoint
from dlrm_jax.training.build import Build, build_of
from dlrm_jax.training.checkpoint import Damaged
from dlrm_jax.training.learner import make_learner
from dlrm_jax.training.state import Progress, TrainState, state_shapes

STEP = 41
ONE = Case(placement="replicated", mesh="1")
assert len(BAGS) == len(ROWS)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch):
  """So that tables take several chunks, of which the last overlaps the one before, and others less than one."""
  monkeypatch.setattr(relayout, "CHUNK", 64)


def config_of(case: Case) -> RunConfig:
  model = ModelConfig(embed_dim=DIM, overarch=(4, 1), table_dtype=case.dtype)
  return RunConfig(model=model, train=TrainConfig(table_optimizer=case.optimizer))


def rows_of(case: Case, seed: int) -> dict[tuple[str, str | None], np.ndarray]:
  """Random values of every table array in the order of the layout: {(stack, slot or None for the rows): values}."""
  rng, out = np.random.default_rng(seed), {}
  for stack, dim in case.layout.dims.items():
    for slot, full in ({None: True} | OPTIMIZER_SLOTS[case.optimizer]).items():
      values = rng.normal(size=(sum(ROWS), dim) if full else sum(ROWS)).astype(np.float32)
      out[stack, slot] = values.astype(jnp.bfloat16 if (stack, slot, case.dtype) == ("rows", None, "bfloat16") else np.float32)
  return out


def put(plan: Plan, shapes: TrainState, rows: dict[tuple[str, str | None], np.ndarray]) -> Any:
  """Those values where the plan wants them, by each place's row, without any exchange."""
  groups = {}
  for name, group in plan.by_name.items():
    arrays = {}
    for key, shape in relayout.arrays_of(shapes.tables.groups[name]).items():
      stack, _, slot = key.partition(".")
      values, parts = rows[stack, slot or None], []
      padded = np.concatenate([values, np.zeros_like(values[:1])])
      for device in range(group.num_devices if group.sharded else 1):
        row = np.asarray(group.layout_row(device, np.arange(group.local_rows, dtype=np.int32)))
        part = padded[np.minimum(row, len(values))]
        if part.ndim == 2 and group.is_split(part.shape[1]):
          part = np.split(part, group.num_devices, axis=1)[device]
        parts.append(part.reshape(-1) if part.ndim == 1 else part.reshape(group.local_shape(values.shape[1])))
      arrays[key] = jax.device_put(np.concatenate(parts), shape.sharding)
    state = shapes.tables.groups[name]
    election = jax.device_put(np.full(state.election_v.shape, 7, np.int32), state.election_v.sharding)
    groups[name] = relayout.with_arrays(dataclasses.replace(state, election_v=election), arrays)
  return dataclasses.replace(shapes.tables, groups=groups)


def build_of_case(case: Case) -> Build:
  return Build.of(config_of(case), case.plan(), 0, case.devices)


def state_of(case: Case, seed: int = 0) -> TrainState:
  """A state full of random values; its table arrays are `rows_of(case, seed)`."""
  plan = case.plan()
  shapes = state_shapes(build_of_case(case))
  rng = np.random.default_rng(seed + 1)
  dense, slots = jax.tree.map(
    lambda x: jax.device_put(np.asarray(rng.normal(size=x.shape) * 9, x.dtype), x.sharding), (shapes.dense, shapes.dense_slots)
  )
  progress = dataclasses.replace(Progress.zero(), loss_sum=np.float32(2.5))
  return TrainState(put(plan, shapes, rows_of(case, seed)), dense, slots, np.int32(STEP + seed), progress)


def write(path: Path, taken: checkpoint.Snapshot):
  with checkpoint.writer() as writer:
    checkpoint.start_writing(writer, path, taken.arrays)
    writer.wait_until_finished()
  checkpoint.seal(path, taken.facts, {"examples": 7})


def save(path: Path, case: Case, seed: int = 0):
  write(path, checkpoint.snapshot(state_of(case, seed), build_of_case(case)))


def restore(path: Path, case: Case) -> TrainState:
  return checkpoint.restore(path, build_of_case(case))


def check(state: TrainState, case: Case, seed: int = 0):
  """All of the state is what `state_of` made, and lies where the case wants it."""
  for (stack, slot), values in rows_of(case, seed).items():
    got = whole(case.plan(), state.tables, stack, slot)
    assert got.dtype == values.dtype
    np.testing.assert_array_equal(got, values, err_msg=f"{stack} {slot}")
  wanted = state_of(case, seed)
  for name in ("dense", "dense_slots", "step", "progress"):
    found, expected = getattr(state, name), getattr(wanted, name)
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
      np.testing.assert_array_equal(a, b, err_msg=name)
  shapes = state_shapes(build_of_case(case))
  for a, shape in zip(jax.tree.leaves(state), jax.tree.leaves(shapes), strict=True):
    assert (a.shape, a.dtype) == (shape.shape, shape.dtype)
    assert a.sharding.is_equivalent_to(shape.sharding, a.ndim)


@pytest.mark.parametrize(
  ("written", "read"),
  [
    ({"placement": "row", "mesh": "8"}, {"placement": "table", "mesh": "2"}),
    ({"placement": "table", "mesh": "2", "optimizer": "adam", "bags": True}, {"placement": "row", "mesh": "2x4"}),
    ({"placement": "row", "mesh": "8", "dtype": "bfloat16", "lanes": LANES, "optimizer": "adam"}, {"placement": "column", "mesh": "2x4"}),
    ({"placement": "column", "mesh": "2", "lanes": LANES, "bags": True}, {"placement": "replicated", "mesh": "1"}),
    pytest.param(
      {"placement": "replicated", "mesh": "1", "dtype": "bfloat16", "optimizer": "adagrad"},
      {"placement": "row", "mesh": "4", "lanes": LANES},
      marks=pytest.mark.slow,
    ),
    ({"placement": "auto,c0:table,c1:column,c2:row", "mesh": "8", "optimizer": "sgd"}, {"placement": "replicated", "mesh": "2"}),
    ({"placement": "column", "mesh": "8"}, {"placement": "auto,c3:table,c1:column,c2:row", "mesh": "4", "lanes": LANES}),
  ],
  ids=lambda fields: " ".join(str(x) for x in fields.values()),
)
def test_any_placement_and_mesh_reads_what_any_other_wrote(written: dict, read: dict, tmp_path: Path):
  before, after = Case(**written), Case(**({**written, "lanes": 0} | read))
  assert not all(np.array_equal(a, b) for a, b in zip(rows_of(before, 0).values(), rows_of(before, 1).values()))
  save(tmp_path / "c", before)
  check(restore(tmp_path / "c", after), after)


def test_training_continues_elsewhere_with_the_same_losses(tmp_path: Path):
  settings = TrainConfig(
    batch_size=64, table_optimizer="adam", dense_optimizer="adam", table_lr=0.02, lr_schedule="inverse_sqrt", decay_examples=64
  )
  base = RunConfig(model=ModelConfig(num_rows=300, overarch=(8, 1)), train=settings, planted=PlantedConfig(tail_fields=2))
  source = Planted(base.planted)
  batches = list(source.train_batches(0, 64, 64 * 12))

  def at(mesh: str, placement: str) -> tuple:
    config = dataclasses.replace(base, mesh=MeshConfig(mesh=mesh, placement=(placement,)))
    return make_learner([config], source), functools.partial(checkpoint.restore, tmp_path / "c", build_of(config, source.shape))

  def losses(learner: Any, state: TrainState, batches: list) -> tuple[TrainState, list[float]]:
    out = []
    for batch in batches:
      state, (loss,), *_ = learner.read_progress(learner.train(state, [(learner.put(batch),)]))
      out.append(loss)
    return state, out

  learner, _ = at("8", "row")
  state, _ = losses(learner, learner.start(), batches[:5])
  write(tmp_path / "c", learner.snapshot(state, 0))
  assert checkpoint.read_run(tmp_path / "c") == {"examples": 7}
  _, expected = losses(learner, state, batches[5:])
  for mesh, placement in (("2", "table"), ("1", "auto"), ("2x4", "column")):
    learner, read = at(mesh, placement)
    _, found = losses(learner, read(), batches[5:])
    np.testing.assert_allclose(found, expected, rtol=1e-5, err_msg=f"{mesh} {placement}")


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> Path:
  path = tmp_path_factory.mktemp("intact") / "c"
  save(path, ONE)
  return path


@pytest.fixture
def copy(intact: Path, tmp_path: Path) -> Path:
  return Path(shutil.copytree(intact, tmp_path / "c"))


def test_steps_after_a_snapshot_do_not_change_it(tmp_path: Path):
  """The next step takes the buffers of the state that was copied."""
  config = RunConfig(
    model=ModelConfig(num_rows=90, overarch=(8, 1)), train=TrainConfig(batch_size=64), planted=PlantedConfig(tail_fields=2)
  )
  source = Planted(config.planted)
  learner, batches = make_learner([config], source), list(source.train_batches(0, 64, 64 * 6))
  assert learner.snapshot is not None and learner.restore is not None
  state = learner.train(learner.start(), [(learner.put(batches[0]),)])
  expected = jax.tree.map(np.array, (state.dense, state.dense_slots, [group.stacks for group in state.tables.groups.values()]))
  taken = learner.snapshot(state, 0)
  for batch in batches[1:]:
    state = learner.train(state, [(learner.put(batch),)])
  assert not np.array_equal(state.dense["overarch"]["layers"][0]["kernel"][...], expected[0]["overarch"]["layers"][0]["kernel"][...])
  write(tmp_path / "c", taken)
  back = learner.restore(tmp_path / "c")
  found = (back.dense, back.dense_slots, [group.stacks for group in back.tables.groups.values()])
  for (path, x), y in zip(jax.tree.leaves_with_path(expected), jax.tree.leaves(found), strict=True):
    np.testing.assert_array_equal(x, y, err_msg=jax.tree_util.keystr(path))


def test_what_is_copied_to_pinned_memory_is_written_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
  """The way that states of accelerators go, on devices that have such memory too."""

  def pinned(x: jax.Array) -> jax.Array:
    return jax.device_put(x, x.sharding.with_memory_kind("pinned_host"))

  case = Case(placement="row", mesh="8")
  monkeypatch.setattr(checkpoint, "_to_host", pinned)
  taken = checkpoint.snapshot(state_of(case), build_of_case(case))
  assert {x.sharding.memory_kind for x in jax.tree.leaves(taken.arrays)} == {"pinned_host"}
  write(tmp_path / "c", taken)
  check(restore(tmp_path / "c", case), case)


def test_an_absent_or_half_written_checkpoint_is_damaged(copy: Path, tmp_path: Path):
  with pytest.raises(Damaged, match=r"none: has no checkpoint.json: it was not written to its end$"):
    restore(tmp_path / "none", ONE)
  (copy / "arrays" / "_METADATA").unlink()
  with pytest.raises(Damaged, match=r"c/arrays/_METADATA: is missing; the checkpoint wrote \d+"):
    restore(copy, ONE)
  text = (copy / "checkpoint.json").read_text()
  (copy / "checkpoint.json").write_text(text[: len(text) // 2])
  with pytest.raises(Damaged, match=r"c/checkpoint.json: not valid JSON"):
    restore(copy, ONE)
  os.remove(copy / "checkpoint.json")
  with pytest.raises(Damaged, match=r"c: has no checkpoint.json"):
    restore(copy, ONE)


def test_a_truncated_file_is_refused_whichever_it_is(copy: Path):
  files = [file for file in sorted((copy / "arrays").rglob("*")) if file.is_file()]
  assert len(files) >= 5
  for file in files:
    whole_file = file.read_bytes()
    file.write_bytes(whole_file[: len(whole_file) // 2])
    with pytest.raises(Damaged, match=rf"{file}: has {len(whole_file) // 2} bytes; the checkpoint wrote {len(whole_file)}$"):
      restore(copy, ONE)
    file.write_bytes(whole_file)
  check(restore(copy, ONE), ONE)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Orbax leaves reads behind where one fails
def test_changed_bytes_are_refused_or_harmless(copy: Path):
  """Where values change, nothing but the checksum tells."""
  said, expected = [], jax.tree.leaves(restore(copy, ONE))
  for file in sorted((file for file in (copy / "arrays").rglob("*") if file.is_file()), key=lambda file: -file.stat().st_size)[:4]:
    intact = file.read_bytes()
    for place in np.arange(1, 6) * len(intact) // 6:
      changed = bytearray(intact)
      changed[place] ^= 0x10
      file.write_bytes(changed)
      try:
        found = jax.tree.leaves(restore(copy, ONE))
      except Damaged as error:
        said.append(str(error))
        assert "\n" not in said[-1] and str(copy) in said[-1]
      else:
        assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True)), (file, place)
    file.write_bytes(intact)
  assert any("rows of table_" in line and "is damaged (checksum" in line for line in said), said
  assert any("cannot be read" in line for line in said), said


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"schema_version": 99}, "schema_version is 99, this version of the program reads 1"),
    ({"format": 1}, "format is 1, this version of the program reads 2"),
    ({"files": None}, "not the manifest of a checkpoint"),
    ({"run": 3}, "not the manifest of a checkpoint"),
    ({"tables": [{}]}, "not the manifest of a checkpoint"),
  ],
)
def test_a_manifest_that_is_none_is_refused(change: dict, message: str, copy: Path):
  record.write_json(copy / "checkpoint.json", record.read_json(copy / "checkpoint.json") | change)
  with pytest.raises(UserError, match=f"c/checkpoint.json: {message}"):
    restore(copy, ONE)


def _layout(**changes: Any) -> Callable[[RunConfig, Plan], tuple[RunConfig, Plan]]:
  def change(config: RunConfig, plan: Plan) -> tuple[RunConfig, Plan]:
    layout = dataclasses.replace(plan.layout, **changes)
    groups = tuple(dataclasses.replace(g, layout=layout, features=tuple(range(len(layout.tables)))) for g in plan.groups)
    return config, Plan(layout, 1, groups)

  return change


def _config(part: str, **changes: Any) -> Callable[[RunConfig, Plan], tuple[RunConfig, Plan]]:
  def change(config: RunConfig, plan: Plan) -> tuple[RunConfig, Plan]:
    return dataclasses.replace(config, **{part: dataclasses.replace(getattr(config, part), **changes)}), plan

  return change


TABLES = ONE.layout.tables


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (_config("train", table_optimizer="adam"), "table_optimizer is rowwise_adagrad in the checkpoint and adam in this run"),
    (_config("train", table_optimizer="adagrad"), "table_optimizer is rowwise_adagrad in the checkpoint and adagrad in this run"),
    (_layout(rows_by="hash"), "rows_by is top in the checkpoint and hash in this run"),
    (_layout(dtype="bfloat16"), "table c0: dtype is float32 in the checkpoint and bfloat16 in this run"),
    (
      _layout(tables=(*TABLES[:2], dataclasses.replace(TABLES[2], num_rows=134), *TABLES[3:])),
      "table c2: num_rows is 133 in the checkpoint and 134 in this run",
    ),
    (
      _layout(tables=tuple(dataclasses.replace(t, dim=4) for t in TABLES)),
      "table c0: dim is 8 in the checkpoint and 4 in this run",
    ),
    (
      _layout(tables=(*TABLES, dataclasses.replace(TABLES[0], name="new")), cardinalities=(*ROWS, 50)),
      "table new: position is absent in the checkpoint and 5 in this run",
    ),
    (_layout(tables=TABLES[:4], cardinalities=ROWS[:4]), "dense array .* in this run"),
    (_layout(tables=TABLES[1::-1] + TABLES[2:]), "table c1: position is 1 in the checkpoint and 0 in this run"),
    (
      _config("model", overarch=(5, 1)),
      r"dense array dense.overarch\S+: shape is \[.*4\] in the checkpoint and \[.*5\] in this run",
    ),
    (_config("train", dense_optimizer="adam"), r"dense array dense_slots\S+: shape is absent in the checkpoint and \[.*\] in this run"),
  ],
)
def test_another_model_or_optimiser_is_refused_by_name(change: Callable, message: str, intact: Path):
  config, plan = change(config_of(ONE), ONE.plan())
  with pytest.raises(UserError, match=f"/c: {message}; they must be the same$"):
    checkpoint.restore(intact, Build.of(config, plan, 0, ONE.devices))


@pytest.mark.parametrize("placement", ["row", "column"])
def test_no_second_copy_of_the_tables_is_made(placement: str, monkeypatch: pytest.MonkeyPatch):
  """Temporaries of both exchanges are those of a chunk, whatever the rows; what is written is written in place."""
  monkeypatch.setattr(relayout, "CHUNK", 2**10)
  case = Case(placement=placement, mesh="4", optimizer="sgd")
  temporary = []
  for scale in (100, 1000):
    tables = tuple(dataclasses.replace(t, num_rows=t.num_rows * scale) for t in case.layout.tables)
    layout = dataclasses.replace(case.layout, tables=tables, cardinalities=tuple(t.num_rows for t in tables))
    plan = Plan(layout, 4, tuple(dataclasses.replace(g, layout=layout) for g in case.plan().groups))
    ((name, group),) = plan.by_name.items()
    arrays = relayout.arrays_of(state_shapes(Build.of(config_of(case), plan, 0, case.devices)).tables.groups[name])
    view = relayout._view(group, 2, relayout.widths_of(layout, arrays))
    sums, sizes = dict.fromkeys(arrays, np.uint32(0)), (np.int32(0),) * 5
    chunk = jax.eval_shape(relayout._fetch(view, case.devices, 256), arrays, sums, *sizes)[0]
    fetch = relayout._fetch(view, case.devices, 256).lower(arrays, sums, *sizes).compile()
    deliver = relayout._deliver(view, case.devices, 256).lower(arrays, sums, chunk, *sizes).compile()
    held = sum(x.size * x.dtype.itemsize for x in arrays.values()) / 4
    assert deliver.memory_analysis().alias_size_in_bytes >= held
    temporary.append([program.memory_analysis().temp_size_in_bytes for program in (fetch, deliver)])
    assert max(temporary[-1]) < held / 4, (temporary, held)
  assert temporary[0] == temporary[1]
