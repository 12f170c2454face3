"""The whole oracle grid: every optimiser x placement x mesh x (one-hot, bags), and the worst skew."""

import pytest

from benchmarks.accelerator.engine_case import Case, run
from dlrm_jax.embedding.planner import LANES
from dlrm_jax.embedding.tables import OPTIMIZER_SLOTS

MESHES = ("1", "2", "4", "8", "2x4")
GRID = [
  Case(optimizer=optimizer, placement=placement, mesh=mesh, bags=bags)
  for optimizer in OPTIMIZER_SLOTS
  for placement in ("replicated", "row", "table", "column")
  for mesh in MESHES
  for bags in (False, True)
]
SKEWED = [
  Case(optimizer=optimizer, mesh=mesh, bags=bags, skew=True)
  for optimizer in OPTIMIZER_SLOTS
  for mesh in MESHES[1:]
  for bags in (False, True)
]
PACKED = [
  Case(placement=placement, mesh="8", bags=bags, lanes=LANES, dtype=dtype)
  for placement in ("replicated", "row", "table", "column")
  for bags in (False, True)
  for dtype in ("float32", "bfloat16")
]
DECAYED = [Case(optimizer=o, placement=p, mesh="4", bags=True, weight_decay=0.01) for o in OPTIMIZER_SLOTS for p in ("row", "column")]


NATIVE = [
  Case(kernels="native", optimizer=optimizer, placement=placement, mesh=mesh, bags=bags)
  for optimizer in OPTIMIZER_SLOTS
  for placement in ("replicated", "row", "table", "column")
  for mesh in ("1", "8")
  for bags in (False, True)
]


@pytest.mark.slow
@pytest.mark.parametrize("case", GRID + SKEWED + PACKED + DECAYED + NATIVE, ids=str)
def test_five_steps_equal_the_dense_oracle(case: Case):
  run(case)
