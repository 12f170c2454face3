"""Logistic regression, trained in one pass: what a model of embeddings must beat. numpy on the host; called by `baselines.py`.

The logit is a bias, a weight for each id of each feature, and a weight for each dense input. The optimiser is FTRL-Proximal with a
learning rate for each weight (McMahan et al. 2013, "Ad click prediction: a view from the trenches", algorithm 1, without L1):

  w_i = -z_i / ((beta + sqrt(n_i)) / alpha + l2)
  g_i = sum over the batch of (p - y) x_i;  s_i = (sqrt(n_i + g_i^2) - sqrt(n_i)) / alpha
  z_i += g_i - s_i w_i;  n_i += g_i^2

Dense inputs are standardised by the mean and deviation of the examples so far, and weights are divided by their mean so far. That is the
same model, but its steps do not depend on the unit of a column, nor on that of the weights.
"""

import dataclasses
import math

import numpy as np
from jaxtyping import Float, Int

from dlrm_jax.batch import Batch
from dlrm_jax.common.arrays import sigmoid
from dlrm_jax.shape import DataShape

MAX_ROWS = 2**20  # weights of a feature. Where it has more ids, those that are equal modulo this number share a weight


@dataclasses.dataclass(frozen=True)
class FtrlSettings:
  """The settings of the optimiser, as in the equations above, and the examples of a step."""

  alpha: float = 0.1
  beta: float = 1.0
  l2: float = 0.0
  batch_size: int = 256


@dataclasses.dataclass(frozen=True)
class _Inputs:
  """The inputs of a batch: the place of each lookup's weight, its factor (None: 1), and the dense inputs with a 1 for the bias."""

  at_bl: Int[np.ndarray, "B L"]
  bag_weight_bl: Float[np.ndarray, "B L"] | None
  x_bk: Float[np.ndarray, "B K"]


class LogisticRegression:
  """A logistic regression over data of one shape. Ids of all features share one array of weights; K = M + 1 with the bias.

  Args:
    shape: the columns of the data.
    settings: of the optimiser.
    dtype: of the state.
  """

  def __init__(self, shape: DataShape, settings: FtrlSettings = FtrlSettings(), dtype: type = np.float32):
    rows_f = np.array(shape.num_ids(MAX_ROWS), np.int64)
    of_lookup = shape.feature_of_lookup
    self._rows_l = rows_f[of_lookup]
    self._first_l = (np.cumsum(rows_f) - rows_f)[of_lookup]
    self._settings, total = settings, int(rows_f.sum())
    self._shift = math.log(shape.negatives_kept)  # of the logit of training examples, see `step.loss_and_grads`
    self._z_v: np.ndarray = np.zeros(total, dtype)
    self._n_v: np.ndarray = np.zeros(total, dtype)
    self._sum_v: np.ndarray = np.zeros(total, dtype)  # all 0 between two steps
    self._z_k, self._n_k = np.zeros(shape.num_dense + 1), np.zeros(shape.num_dense + 1)
    self._examples, self._weight = 0, 0.0  # so far; padding, which has weight 0, does not count
    self._count, self._mean_m, self._square_m = 0.0, np.zeros(shape.num_dense), np.zeros(shape.num_dense)

  def predict(self, batch: Batch) -> Float[np.ndarray, " B"]:
    """The logits of a batch."""
    return self._logit(self._inputs(batch))[0]

  def learn(self, batch: Batch) -> Float[np.ndarray, " B"]:
    """Takes a step for each `batch_size` examples, and returns the logits that they had before their step."""
    size, count = self._settings.batch_size, len(batch.label_b)
    return np.concatenate([self._step(cut(batch, low, min(low + size, count))) for low in range(0, count, size)])

  def _step(self, batch: Batch) -> Float[np.ndarray, " B"]:
    weight_b = np.asarray(batch.weight_b, np.float64)
    self._examples, self._weight = self._examples + int(np.count_nonzero(weight_b)), self._weight + float(weight_b.sum())
    weight_b = weight_b * (self._examples / self._weight if self._weight else 1.0)
    self._measure(np.asarray(batch.dense_bm, np.float64), weight_b)
    inputs = self._inputs(batch)
    logit_b, w_bl, w_k = self._logit(inputs)
    error_b = weight_b * (sigmoid(logit_b - self._shift) - np.asarray(batch.label_b))
    self._z_k, self._n_k = self._moved(self._z_k, self._n_k, w_k, error_b @ inputs.x_bk)
    at, given_bl = inputs.at_bl, np.broadcast_to(error_b[:, None], inputs.at_bl.shape)
    if inputs.bag_weight_bl is not None:
      given_bl = given_bl * inputs.bag_weight_bl
    np.add.at(self._sum_v, at.ravel(), given_bl.astype(self._sum_v.dtype).ravel())
    sum_bl = self._sum_v[at]
    self._sum_v[at] = 0
    # Lookups of one id get the same new values, so that it does not matter which of them is written last.
    self._z_v[at], self._n_v[at] = self._moved(self._z_v[at], self._n_v[at], w_bl, sum_bl)
    return logit_b

  def _moved(self, z: np.ndarray, n: np.ndarray, w: np.ndarray, g: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    after = n + g * g
    return z + g - (np.sqrt(after) - np.sqrt(n)) / self._settings.alpha * w, after

  def _weights(self, z: np.ndarray, n: np.ndarray) -> np.ndarray:
    return -z / ((self._settings.beta + np.sqrt(n)) / self._settings.alpha + self._settings.l2)

  def _logit(self, inputs: _Inputs) -> tuple[Float[np.ndarray, " B"], Float[np.ndarray, "B L"], Float[np.ndarray, " K"]]:
    """(logits, the weight of each lookup, the weights of the dense inputs and the bias)."""
    w_bl, w_k = self._weights(self._z_v[inputs.at_bl], self._n_v[inputs.at_bl]), self._weights(self._z_k, self._n_k)
    parts_bl = w_bl if inputs.bag_weight_bl is None else w_bl * inputs.bag_weight_bl
    return parts_bl.sum(axis=1, dtype=np.float64) + inputs.x_bk @ w_k, w_bl, w_k

  def _inputs(self, batch: Batch) -> _Inputs:
    at_bl = np.asarray(batch.ids_bl).view(np.uint32) % self._rows_l + self._first_l  # ids of planted data use all 32 bits
    deviation_m = np.sqrt(self._square_m)
    x_bm = (np.asarray(batch.dense_bm, np.float64) - self._mean_m) / np.where(deviation_m > 0, deviation_m, np.inf)
    weights = None if batch.bag_weight_bl is None else np.asarray(batch.bag_weight_bl)
    return _Inputs(at_bl, weights, np.concatenate([x_bm, np.ones((len(x_bm), 1))], axis=1))

  def _measure(self, dense_bm: Float[np.ndarray, "B M"], weight_b: Float[np.ndarray, " B"]) -> None:
    """Merges the mean and the variance of a batch with those of the examples before it (Chan, Golub and LeVeque 1979)."""
    count = float(weight_b.sum())
    if not count or not dense_bm.shape[1]:
      return
    mean_m = weight_b @ dense_bm / count
    square_m = weight_b @ (dense_bm - mean_m) ** 2 / count
    share, apart_m = count / (self._count + count), mean_m - self._mean_m
    self._square_m = (1 - share) * self._square_m + share * square_m + share * (1 - share) * apart_m**2
    self._mean_m = self._mean_m + share * apart_m
    self._count += count


def cut(batch: Batch, low: int, high: int) -> Batch:
  """Examples `low .. high - 1` of a batch."""
  weights = batch.bag_weight_bl
  dense_bm, ids_bl, label_b, weight_b = (x[low:high] for x in (batch.dense_bm, batch.ids_bl, batch.label_b, batch.weight_b))
  return Batch(dense_bm, ids_bl, label_b, weight_b, None if weights is None else weights[low:high])
