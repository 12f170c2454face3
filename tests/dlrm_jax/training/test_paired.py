"""The standard error of the difference of two mean losses of the same examples, compared with its definition and the scatter."""

import numpy as np
import pytest

from dlrm_jax.training.paired import LossSums, difference_error


def sums_of(loss_n: np.ndarray, weight_n: np.ndarray | None = None, batch: int = 100) -> np.ndarray:
  sums = LossSums()
  for start in range(0, len(loss_n), batch):
    sums.add(loss_n[start : start + batch], None if weight_n is None else weight_n[start : start + batch])
  return sums.sums


@pytest.mark.parametrize(("count", "length"), [(1, 1), (128, 1), (129, 2), (1000, 8), (4097, 64)])
def test_blocks_hold_consecutive_examples_whatever_the_batches(count: int, length: int):
  loss_n = np.random.default_rng(count).uniform(size=count)
  blocks = -(-count // length)
  expected = [loss_n[i * length : (i + 1) * length].sum() for i in range(blocks)]
  for batch in (1, 7, 64, 5000):
    sums = sums_of(loss_n, batch=batch)
    np.testing.assert_allclose(sums[0, :blocks], expected, rtol=1e-12)
    assert not sums[:, blocks:].any() and sums[1].sum() == count


def test_the_error_is_that_of_a_weighted_mean_of_differences():
  rng = np.random.default_rng(0)
  one, other, weight_n = rng.uniform(size=(3, 100))  # each example is a block
  d = other - one
  off = weight_n * (d - np.average(d, weights=weight_n))
  expected = np.sqrt((off**2).sum() * 100 / 99) / weight_n.sum()
  assert difference_error(sums_of(one, weight_n), sums_of(other, weight_n)) == pytest.approx(expected, rel=1e-12)


def test_the_error_is_the_scatter_of_differences():
  """Losses share most of their noise: over 300 samples the difference of means scatters by what the error says, within 10%."""
  rng = np.random.default_rng(1)
  errors, differences = [], []
  for _ in range(300):
    common = 3 * rng.exponential(size=5000)
    one, other = common + rng.normal(size=5000), common + 0.1 + 0.5 * rng.normal(size=5000)
    errors.append(difference_error(sums_of(one), sums_of(other)))
    differences.append((other - one).mean())
  assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(np.std(differences), rel=0.1)


def test_no_error_where_examples_differ():
  sums = sums_of(np.ones(10))
  assert np.isnan(difference_error(sums, sums_of(np.ones(11))))
  assert np.isnan(difference_error(sums, sums_of(np.ones(10), np.full(10, 2.0))))
  assert np.isnan(difference_error(None, sums)) and np.isnan(difference_error(sums_of(np.ones(1)), sums_of(np.ones(1))))
