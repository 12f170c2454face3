"""The floor times the products that flops.py counts."""

import dataclasses

import pytest

from benchmarks.measure.floor import Floor, products
from benchmarks.measure.workloads import RUNS
from dlrm_jax.config import ModelConfig, RunConfig, TrainConfig
from dlrm_jax.data.shapes import shape_of
from dlrm_jax.embedding.layout import make_layout
from dlrm_jax.model.flops import cost
from dlrm_jax.shape import DataShape

SMALL = RunConfig(model=ModelConfig(embed_dim=4, num_rows=50, bottom=(6, 4), overarch=(8, 1)), train=TrainConfig(batch_size=16))


@pytest.mark.parametrize("preset", ["W0", "W1", "W2", "mlperf_v1", "mlperf_v2"])
def test_products_are_those_counted_by_flops(preset: str):
  """Except the gradient of the dense inputs, which flops.py counts and no step computes. DCN v2 has none in either count."""
  run = RUNS[preset]
  shape = shape_of(run)
  counted = cost(run.model, run.train, make_layout(run.model, shape), shape.num_dense).flops_per_example["total"]
  not_computed = 2 * shape.num_dense * run.model.bottom_widths(shape.num_dense)[0]
  assert sum(p.flops for p in products(run, shape)) == run.train.batch_size * (counted - not_computed)


def test_every_product_is_timed_once_in_its_dtype():
  run = dataclasses.replace(SMALL, model=dataclasses.replace(SMALL.model, compute_dtype="bfloat16"))
  shape = DataShape(3, ("a", "b"), (50, 50), (1, 1))
  floor = Floor(run, shape)
  rows = floor.rows(2)
  assert [row["name"] for row in rows][:5] == [
    "bottom 3x6 forward",
    "bottom 3x6 to weights",
    "bottom 6x4 forward",
    "bottom 6x4 to weights",
    "bottom 6x4 to inputs",
  ]
  assert len(rows) == 2 + 3 + 2 + 2 * 3
  assert all(row["ms"] >= 0 for row in rows) and sum(row["ms"] for row in rows) > 0
  assert set(floor.sums(1)) == {"floor_ms", "floor_cpu_ms"}
