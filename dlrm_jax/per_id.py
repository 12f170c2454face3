"""The exact per-id estimator: what an ideal online learner gets out of planted tail data. The judge between theory and training.

Diagonal online Bayesian logistic regression (adPredictor; Graepel et al. 2010, in the Laplace form): every (field, id) has a
mean w and a precision; after each single example, with q the predicted probability, `prec += q(1-q)` and `w += (y-q)/prec`.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int32

from dlrm_jax.batch import ArrayLike, Batch

ROWS = 2**20  # ids beyond are seen too rarely to learn: they keep their prior mean, 0


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PerIdState:
  """Mean and precision of every effect, fields stacked: [F * ROWS + 1]; the last place belongs to all other ids and stays at 0."""

  mean: Float[ArrayLike, " V"]
  precision: Float[ArrayLike, " V"]


def init(num_fields: int, sigma: float) -> PerIdState:
  """The prior: mean 0, standard deviation `sigma` logits."""
  size = num_fields * ROWS + 1
  return PerIdState(jnp.zeros(size), jnp.full(size, 1 / sigma**2))


def _places(ids_bf: Int32[ArrayLike, "B F"]) -> Int32[Array, "B F"]:
  num_fields, ids_bf = ids_bf.shape[1], jnp.asarray(ids_bf).astype(jnp.uint32)
  own = jnp.arange(num_fields, dtype=jnp.uint32) * ROWS + ids_bf
  return jnp.where(ids_bf < ROWS, own, num_fields * ROWS).astype(jnp.int32)


@jax.jit
def predict(state: PerIdState, batch: Batch, bias: ArrayLike) -> Float[Array, " B"]:
  """Logits of a batch."""
  return bias + state.mean[_places(batch.ids_bl)].sum(axis=1)


@functools.partial(jax.jit, donate_argnums=0)
def update(state: PerIdState, batch: Batch, bias: ArrayLike) -> PerIdState:
  """One pass over the examples of a batch, one after the other."""
  rest = state.mean.shape[0] - 1

  def one(state: PerIdState, example: tuple[Array, Array, Array]) -> tuple[PerIdState, None]:
    place_f, label, weight = example
    mean_f, precision_f = state.mean[place_f], state.precision[place_f]
    prob = jax.nn.sigmoid(bias + mean_f.sum())
    precision_f = precision_f + weight * prob * (1 - prob)
    mean_f = mean_f + weight * (label - prob) / precision_f
    return PerIdState(state.mean.at[place_f].set(jnp.where(place_f == rest, 0, mean_f)), state.precision.at[place_f].set(precision_f)), None

  state, _ = jax.lax.scan(one, state, (_places(batch.ids_bl), jnp.asarray(batch.label_b), jnp.asarray(batch.weight_b)))
  return state
