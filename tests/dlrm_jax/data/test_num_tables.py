"""`--num_tables`: a model that reads only the first features of its data, on a click log and on planted data."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from dlrm_jax.common import flags, record
from dlrm_jax.common.flags import UserError
from dlrm_jax.config import ModelConfig, PlantedConfig, RunConfig, TrainConfig
from dlrm_jax.data.planted.theory import ideal, theory
from dlrm_jax.data.prepare import program
from dlrm_jax.data.shapes import SHAPES, shape_of
from dlrm_jax.data.source import open_source
from dlrm_jax.identity import config_id
from dlrm_jax.training import loop

SETTINGS = TrainConfig(num_examples=512, batch_size=64, eval_examples=128, first_eval=256)


def prepared(root: Path, name: str, features: str) -> str:
  """A log of two dense columns and some of the features u, v1, v2, w."""
  random = np.random.default_rng(0)
  u, v, w, z = (random.integers(0, n, 640) for n in (5, 40, 30, 8))
  label = (random.random(640) < 0.2 + 0.5 * (u % 2)).astype(int)
  lines = ["y,a,b,u,v1,v2,w", *(f"{label[i]},{i % 7},{i % 3},u{u[i]},v{v[i]},v{z[i]},w{w[i]}" for i in range(640))]
  root.mkdir(exist_ok=True)
  (root / "log.csv").write_text("\n".join(lines) + "\n")
  (root / f"{name}.toml").write_text(f'name = "{name}"\nlabel = "y"\ncategorical = {features}\n[dense]\na = {{}}\nb = {{}}\n')
  words = [f"--input={root}/log.csv", f"--schema={root}/{name}.toml", f"--output={root}/{name}", "--eval_rows=128", "--workers=1"]
  program.main(flags.parse(["prepare", "--format=csv", *words], program.PrepareConfig))
  return str(root / name)


def test_a_model_of_the_first_features_is_that_of_a_log_without_the_others(tmp_path: Path):
  three, two = prepared(tmp_path, "three", '["u", "v1", "w"]'), prepared(tmp_path, "two", '["u", "v1"]')
  model = ModelConfig(embed_dim=4, num_rows=20, overarch=(8, 1))
  cut = RunConfig(data=three, train=SETTINGS, model=dataclasses.replace(model, num_tables=2))
  got, expected = (
    loop.train(cut, tmp_path / "a", quiet=True),
    loop.train(RunConfig(data=two, train=SETTINGS, model=model), tmp_path / "b", quiet=True),
  )
  rows = [[{k: v for k, v in row.items() if k != "wall_s"} for row in record.read_curve(tmp_path / run / "curve.jsonl")] for run in "ab"]
  assert rows[0] == rows[1]
  assert [t["name"] for t in got["tables"]] == ["u", "v1"]
  assert (got["params"], got["flops_per_example"]) == (expected["params"], expected["flops_per_example"])
  whole = RunConfig(data=three, train=SETTINGS, model=model)
  assert config_id(cut, "d") != config_id(whole, "d")
  with pytest.raises(UserError, match="--num_tables=4: the data has 3 categorical features; 0 takes all"):
    open_source(dataclasses.replace(whole, model=dataclasses.replace(model, num_tables=4)))


def test_bags_are_cut_with_their_features():
  source = open_source(RunConfig(planted=PlantedConfig(tail_fields=4, bag_length=3, pair_variance=0.1)))
  some = open_source(RunConfig(planted=PlantedConfig(tail_fields=4, bag_length=3, pair_variance=0.1), model=ModelConfig(num_tables=2)))
  (whole, _), (batch, _) = source.batch(1, 5, 32), some.batch(1, 5, 32)
  np.testing.assert_array_equal(batch.ids_bl, whole.ids_bl[:, :6])
  np.testing.assert_array_equal(batch.bag_weight_bl, whole.bag_weight_bl[:, :6])
  assert some.shape.bag_lengths == (3, 3) and source.shape.bag_lengths == (3, 3, 3, 3, 1, 1, 1, 1)


def test_theory_is_for_all_fields_of_the_tail():
  planted = PlantedConfig(tail_fields=4, pair_variance=0.1)
  for count, known in [(0, True), (8, True), (4, True), (3, False)]:
    config = RunConfig(planted=planted, model=ModelConfig(num_tables=count))
    source = open_source(config)
    assert (ideal(config, source, 1000) is not None) is known, count
    predicted = theory(config, source)
    assert predicted is not None and (predicted["beta_data"] is not None) is known, count


def test_a_shape_is_cut_too():
  config = RunConfig(data="criteo_1tb_bags", model=ModelConfig(num_tables=3))
  shape, whole = shape_of(config), SHAPES["criteo_1tb_bags"]
  assert (shape.field_names, shape.cardinalities, shape.bag_lengths) == (
    whole.field_names[:3],
    whole.cardinalities[:3],
    whole.bag_lengths[:3],
  )
  with pytest.raises(UserError, match="--num_tables=27: the data has 26 categorical features"):
    shape_of(dataclasses.replace(config, model=ModelConfig(num_tables=27)))
