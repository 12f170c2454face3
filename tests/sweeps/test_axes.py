"""How each axis changes a configuration, and its default sizes."""

import dataclasses
from pathlib import Path

import pytest

from dlrm_jax.common.axis_names import AXES
from dlrm_jax.common.flags import UserError
from dlrm_jax.config import MeshConfig, ModelConfig, PlantedConfig, RunConfig, TrainConfig
from dlrm_jax.data.dataset import Dataset
from dlrm_jax.data.planted.clicks import Planted
from dlrm_jax.data.source import PreparedSource
from dlrm_jax.shape import DataShape
from sweeps.axes import at_length, default_sizes, real_size, scaled

BASE = RunConfig(
  model=ModelConfig(embed_dim=8, num_rows=1000, bottom=(32, 16, 8), overarch=(64, 32, 1)),
  train=TrainConfig(num_examples=64_000, batch_size=256),
  planted=PlantedConfig(dense_variance=0.2),
  mesh=MeshConfig(mesh="4"),
)
SOURCE = Planted(BASE.planted)  # 8 tail fields, whose ids have no end, and dense inputs


def log_of(*cardinalities: int) -> PreparedSource:
  """A click log of these features and no dense inputs, of which there are no rows."""
  names = tuple(f"C{f}" for f in range(len(cardinalities)))
  ones = (1,) * len(names)
  return PreparedSource(
    Dataset(Path("log"), "log", "d", (), DataShape(0, names, cardinalities, ones), {"train": 9}, {}, {}, 8, "frequency")
  )


def test_each_axis_scales_its_own_part_and_nothing_else():
  changes = {
    "data": (5000, {"train": dataclasses.replace(BASE.train, num_examples=5000)}),
    "rows": (70, {"model": dataclasses.replace(BASE.model, num_rows=70)}),
    "dim": (4, {"model": dataclasses.replace(BASE.model, embed_dim=4, bottom=(32, 16, 4))}),  # the bottom's last width moves with it
    "overarch": (0.5, {"model": dataclasses.replace(BASE.model, overarch=(32, 16, 1))}),
    "mlp": (2.0, {"model": dataclasses.replace(BASE.model, bottom=(64, 32, 8))}),
    "overarch_depth": (4, {"model": dataclasses.replace(BASE.model, overarch=(64, 32, 32, 32, 1))}),
    "mlp_depth": (1, {"model": dataclasses.replace(BASE.model, bottom=(32, 8))}),
    "tables": (3, {"model": dataclasses.replace(BASE.model, num_tables=3)}),
    "all": (0.5, {"model": dataclasses.replace(BASE.model, num_rows=500, embed_dim=4, bottom=(16, 8, 4), overarch=(32, 16, 1))}),
    "batch_size": (64, {"train": dataclasses.replace(BASE.train, batch_size=64)}),
    "devices": (2, {"mesh": MeshConfig(mesh="2")}),
    "placement": ("row", {"mesh": MeshConfig(mesh="4", placement=("row",))}),
  }
  assert set(changes) == set(AXES)
  for axis, (size, expected) in changes.items():
    assert scaled(BASE, axis, size, SOURCE) == dataclasses.replace(BASE, **expected), axis


def test_the_base_is_one_run_on_every_axis():
  sizes = {"data": 64_000, "rows": 1000, "dim": 8, "overarch_depth": 2, "mlp_depth": 2, "tables": 8, "batch_size": 256, "devices": 4}
  for axis in set(AXES) - {"placement"}:
    assert scaled(BASE, axis, sizes.get(axis, 1.0), SOURCE) == BASE, axis
  bare = dataclasses.replace(BASE, model=ModelConfig())  # whose bottom MLP is not written out
  assert scaled(bare, "mlp", 1.0, SOURCE) == scaled(bare, "mlp_depth", 1, SOURCE) == bare


def test_mlp_without_a_bottom_setting_scales_the_default_one():
  base = RunConfig(model=ModelConfig(embed_dim=8), planted=BASE.planted)
  assert scaled(base, "mlp", 0.5, SOURCE).model.bottom == (16, 8)
  assert scaled(base, "dim", 2, SOURCE).model.bottom is None
  assert scaled(base, "all", 0.5, SOURCE).model == ModelConfig(embed_dim=4, num_rows=50_000, bottom=(16, 4), overarch=(32, 32, 1))


def test_a_depth_without_hidden_layers_or_a_mesh_without_devices_is_refused():
  flat = dataclasses.replace(BASE, model=ModelConfig(overarch=(1,)), mesh=MeshConfig())
  for axis, size, message in [
    ("overarch_depth", 2, r"--axes=overarch_depth: widths \(1,\) have no hidden layer"),
    ("placement", "row", "--axes=placement: on one device there is nothing to place; give --mesh"),
  ]:
    with pytest.raises(UserError, match=message):
      scaled(flat, axis, size, SOURCE)
  with pytest.raises(UserError, match="--axes=devices: give --mesh, the most devices, or --sizes_devices"):
    default_sizes(flat, "devices", SOURCE)


@pytest.mark.parametrize(
  ("axis", "size", "message"),
  [
    ("rows", 2.5, "--sizes_rows=2.5: must be whole numbers"),
    ("dim", 0, "--sizes_dim=0: must be whole numbers"),
    ("batch_size", float("inf"), "--sizes_batch_size=inf: must be whole numbers"),
    ("batch_size", 254, "--batch_size=254: must be a multiple of the 4 devices"),
    ("overarch", 0.0, "--sizes_overarch=0: must be above 0"),
    ("all", -1.0, "--sizes_all=-1: must be above 0"),
    ("placement", "shuffled", "--placement=shuffled: must be among auto, replicated"),
    ("width", 1, "--axes=width: must be among"),
  ],
)
def test_impossible_sizes_are_refused(axis, size, message):
  with pytest.raises(UserError, match=message):
    scaled(BASE, axis, size, SOURCE)


def test_mlp_needs_dense_inputs():
  for axis in ("mlp", "mlp_depth"):
    with pytest.raises(UserError, match=f"--axes={axis}: the data has no dense inputs"):
      scaled(dataclasses.replace(BASE, model=ModelConfig()), axis, 2, log_of(5, 6))


def test_default_sizes_are_at_least_four_and_hold_the_base():
  for axis in ("rows", "dim", "overarch", "mlp", "overarch_depth", "mlp_depth", "tables", "all", "batch_size"):
    sizes = default_sizes(BASE, axis, SOURCE)
    assert len(sizes) >= 4
    assert any(scaled(BASE, axis, size, SOURCE) == BASE for size in sizes), axis


def test_default_sizes_of_data_and_of_hardware():
  assert default_sizes(BASE, "data", SOURCE) == (64_000,)
  assert default_sizes(BASE, "data", SOURCE, retrain=True) == (4000, 8000, 16_000, 32_000, 64_000)
  assert default_sizes(BASE, "devices", SOURCE) == (1, 2, 4)
  six = dataclasses.replace(BASE, mesh=MeshConfig(mesh="6"), train=TrainConfig(batch_size=600))
  assert default_sizes(six, "devices", SOURCE) == (1, 2, 4, 6)
  assert default_sizes(six, "batch_size", SOURCE) == (150, 300, 600, 1200, 2400)
  assert default_sizes(BASE, "placement", SOURCE) == ("replicated", "row", "table", "column")
  assert default_sizes(six, "placement", SOURCE) == ("replicated", "row", "table")  # 6 devices cannot share 8 values
  assert default_sizes(BASE, "tables", Planted(PlantedConfig())) == (2, 4, 8)  # one vector alone has no pairs


def test_rows_are_those_of_the_largest_table():
  """A cap above all cardinalities has no effect: the size of the base is the largest cardinality, and larger sizes are the base."""
  log, base = log_of(209, 22), dataclasses.replace(BASE, model=ModelConfig(num_rows=100_000))
  assert default_sizes(base, "rows", log) == (2, 3, 13, 52, 209)
  assert [scaled(base, "rows", size, log).model.num_rows for size in (52, 208, 209, 5000)] == [52, 208, 100_000, 100_000]
  assert [real_size(scaled(base, "rows", size, log), "rows", size, log) for size in (52, 209, 5000)] == [52, 209, 209]
  small = dataclasses.replace(BASE, model=ModelConfig(num_rows=100))  # here the cap binds: larger tables are other models
  assert [scaled(small, "rows", size, log).model.num_rows for size in (100, 209, 5000)] == [100, 209, 209]
  assert default_sizes(base, "rows", SOURCE)[-2:] == (25_000, 100_000)  # ids without end: the cap is the size
  assert real_size(base, "rows", 100_000, SOURCE) == 100_000


def test_a_horizon_follows_the_length():
  train = TrainConfig(num_examples=64_000, lr_schedule="cosine", decay_examples=64_000, warmup_examples=1000, table_warmup_examples=0)
  got = at_length(dataclasses.replace(BASE, train=train), 4000).train
  assert (got.num_examples, got.decay_examples, got.warmup_examples, got.table_warmup_examples) == (4000, 4000, 62, 0)
  assert at_length(BASE, 64_000) == BASE
