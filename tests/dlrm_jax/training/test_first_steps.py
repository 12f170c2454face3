"""How a run begins: the logit before the first step, and Adagrad's first steps of the MLPs."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax
import pytest

from dlrm_jax.config import ModelConfig, PlantedConfig, RunConfig, StepSettings, TrainConfig
from dlrm_jax.data.planted.clicks import Planted
from dlrm_jax.training.build import Build, build_of
from dlrm_jax.training.learner import make_learner
from dlrm_jax.training.state import Rates, dense_optimizer, make_model

BASE = RunConfig(
  model=ModelConfig(embed_dim=2, num_rows=100, overarch=(8, 1)),
  train=TrainConfig(num_examples=1024, batch_size=256),
  planted=PlantedConfig(bias=-4.0, dense_variance=0.2),
)


def first_logits(**train: Any) -> np.ndarray:
  """The logits of a batch before the first step."""
  config, source = dataclasses.replace(BASE, train=dataclasses.replace(BASE.train, **train)), Planted(BASE.planted)
  learner = make_learner([config], source)
  batch = next(source.train_batches(0, 256, 256))
  return np.asarray(learner.predict(learner.start(), learner.put(batch)))[0]


def test_a_run_may_start_at_the_click_rate():
  """Its mean logit is that of the rate but for what the random weights of the last layer add, whatever the seed."""
  wanted = math.log(Planted(BASE.planted).base_rate() / (1 - Planted(BASE.planted).base_rate()))
  assert wanted < -3
  for seed in range(3):
    assert first_logits(seed=seed, first_logit="base_rate").mean() == pytest.approx(wanted, abs=0.5)
    assert first_logits(seed=seed).mean() > -2.5


def last_bias(build: Build) -> float:
  return float(np.asarray(make_model(build, jax.random.key(0)).overarch.layers[-1].bias[...])[0])


def test_the_bias_is_the_logit_and_a_log_of_one_class_has_a_finite_one():
  config, shape = dataclasses.replace(BASE, train=dataclasses.replace(BASE.train, first_logit="base_rate")), Planted(BASE.planted).shape
  assert last_bias(build_of(config, shape, 0.2)) == pytest.approx(math.log(0.25), rel=1e-6)
  assert last_bias(build_of(config, shape, 0.0)) == pytest.approx(math.log(1e-6), rel=1e-4)
  assert math.isfinite(last_bias(build_of(config, shape, 1.0)))
  assert last_bias(build_of(BASE, shape, 0.2)) == last_bias(build_of(BASE, shape, 0.7))  # random weights do not depend on it


@pytest.mark.parametrize("start", [0.0, 0.1, 2.0])
def test_adagrad_starts_at_its_accumulator(start: float):
  """Judge: the formula of Duchi et al. 2011, in float64, over three steps."""
  optimizer = dense_optimizer(StepSettings(dense_accumulator=start), Rates(np.float32(0.01), np.float32(1), np.float32(1)))
  gradients, w = [np.array([0.03, -0.5]), np.array([0.01, 0.2]), np.array([-0.02, 0.1])], np.array([1.0, 2.0])
  slots, x = optimizer.init(w.astype(np.float32)), w.astype(np.float32)
  squares = np.full(2, start)
  update: Callable[..., Any] = optimizer.update
  for g in gradients:
    changes, slots = update(g.astype(np.float32), slots, x)
    x = optax.apply_updates(x, changes)
    squares += g * g
    w = w - 0.01 * g / np.sqrt(squares)
  np.testing.assert_allclose(x, w, rtol=1e-5)
