"""The exact per-id estimator: what an ideal online learner gets out of planted tail data. Theory and training are compared with it.

It is diagonal online Bayesian logistic regression (adPredictor; Graepel et al. 2010, in the Laplace form). Every (field, id) has a mean w
and a precision. After each single example, with q the predicted probability, `prec += q(1-q)` and `w += (y-q)/prec`.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int32

from dlrm_jax.batch import Batch
from dlrm_jax.common.arrays import ArrayLike

ROWS = 2**20  # larger ids are seen too rarely to learn: they keep their prior mean, 0


def init(num_fields: int, sigma: float) -> Float[Array, "V 2"]:
  """The prior of every effect, fields stacked: mean 0, precision 1/sigma^2 (sigma in logits).

  The state is (mean, precision) of F * ROWS places and one more, which belongs to all other ids and keeps mean 0. One array, so that
  the loop over examples has one gather and one scatter: two of each were run on two threads, 14 us an example against 2.
  """
  return jnp.tile(jnp.array([0.0, sigma**-2]), (num_fields * ROWS + 1, 1))


def _places(ids_bf: Int32[ArrayLike, "B F"]) -> Int32[Array, "B F"]:
  num_fields, ids_bf = ids_bf.shape[1], jnp.asarray(ids_bf).astype(jnp.uint32)
  own = jnp.arange(num_fields, dtype=jnp.uint32) * ROWS + ids_bf
  return jnp.where(ids_bf < ROWS, own, num_fields * ROWS).astype(jnp.int32)


@jax.jit
def predict(state: Float[Array, "V 2"], batch: Batch, bias: ArrayLike) -> Float[Array, " B"]:
  """Logits of a batch."""
  return bias + state[_places(batch.ids_bl), 0].sum(axis=1)


@functools.partial(jax.jit, donate_argnums=0)
def update(state: Float[Array, "V 2"], batch: Batch, bias: ArrayLike) -> Float[Array, "V 2"]:
  """One pass over the examples of a batch, one after the other."""
  rest = state.shape[0] - 1

  def one(state: Array, example: tuple[Array, Array, Array]) -> tuple[Array, None]:
    place_f, label, weight = example
    mean_f, precision_f = state[place_f].T
    prob = jax.nn.sigmoid(bias + mean_f.sum())
    precision_f = precision_f + weight * prob * (1 - prob)
    mean_f = jnp.where(place_f == rest, 0, mean_f + weight * (label - prob) / precision_f)
    return state.at[place_f].set(jnp.stack([mean_f, precision_f], axis=1)), None

  state, _ = jax.lax.scan(one, state, (_places(batch.ids_bl), jnp.asarray(batch.label_b), jnp.asarray(batch.weight_b)))
  return state
