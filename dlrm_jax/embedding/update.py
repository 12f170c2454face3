"""Sparse optimisers: they update the rows that a batch looked up, and every other row keeps its bits.

The gradients of a row that a batch looks up several times are summed before the optimiser's step (Adagrad squares the sum). Repeats are
found without sorting. Every lookup writes its position to the row's place in a scratch array. The position found there afterwards is the
row's representative. The gradients of the others are added to its own: no array of zeros is filled, and rows without repeats move no bytes.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int32

from dlrm_jax.common.arrays import ArrayLike
from dlrm_jax.common.hashing import mix32
from dlrm_jax.embedding import storage
from dlrm_jax.embedding.tables import GroupState, Stack
from dlrm_jax.machine import cpu_kernels

EPS = 1e-8  # added outside the square root; accumulators and moments start at 0
ADAM_FIRST, ADAM_SECOND = 0.9, 0.999  # decay of the moments

# Maps gradients [n, D] to the mean of squares over each whole row, [n]. A device may hold only a slice of the rows.
MeanSquare = Callable[[Float[Array, "n D"]], Float[Array, " n"]]


@dataclasses.dataclass(frozen=True)
class Rule:
  """The rule by which rows change in one step.

  Attributes:
    optimizer: sgd, adagrad, rowwise_adagrad or adam.
    lr: learning rate.
    weight_decay: rows also change by -lr * weight_decay * row.
    step: steps taken before this one.
  """

  optimizer: str
  lr: ArrayLike
  weight_decay: float
  step: ArrayLike


def mean_square(grad_nd: Float[Array, "n D"]) -> Float[Array, " n"]:
  """Returns the mean of squares of each row, for whole rows."""
  return jnp.mean(grad_nd**2, axis=1)


def round_at_random(x: Float[Array, "*n"], dtype: jnp.dtype, step: ArrayLike) -> Float[Array, "*n"]:
  """Rounds float32 to bfloat16, up or down with the probabilities that keep the mean. The draw is a hash of the step and the value's bits.

  The error is below one unit of bfloat16, 2^-7 of the value. With rounding to nearest, rows whose steps are below half of that would stop.
  """
  if dtype != jnp.bfloat16:
    return x.astype(dtype)
  bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
  drawn = mix32(bits ^ mix32(jnp.asarray(step).astype(jnp.uint32) + jnp.uint32(1)))
  raised = (bits + (drawn >> 16)) & jnp.uint32(0xFFFF0000)
  return jax.lax.bitcast_convert_type(jnp.where(jnp.isfinite(x), raised, bits), jnp.float32).astype(dtype)


def _elect(
  election_v: Int32[ArrayLike, " V"], row_n: Int32[Array, " n"], valid_n: Bool[Array, " n"]
) -> tuple[Int32[Array, " n"], Int32[Array, " n"], Int32[Array, " V"]]:
  """Returns (representative position of each lookup, its row if it is one itself, else a place out of bounds; scratch)."""
  position_n = jnp.arange(row_n.shape[0], dtype=jnp.int32)
  out_of_bounds = election_v.shape[0] + position_n  # all different, so that scatters may assume unique places
  scratch = election_v.at[jnp.where(valid_n, row_n, out_of_bounds)].set(position_n, mode="drop")
  representative_n = jnp.where(valid_n, scratch.at[row_n].get(mode="promise_in_bounds"), position_n)
  return representative_n, jnp.where(valid_n & (representative_n == position_n), row_n, out_of_bounds), scratch


def _step(
  stack: Stack, rule: Rule, row_n: Int32[Array, " n"], target_n: Int32[Array, " n"], grad_nd: Float[Array, "n D"], squared: MeanSquare
) -> Stack:
  """Takes one optimiser step of a stack from summed gradients. `target_n` is out of bounds where a position has nothing to write."""
  dim, slots = grad_nd.shape[1], {}

  def advance(name: str, change: Array) -> Array:
    """Adds to a slot at the targets and reads the new values back. Values read before the write would keep a copy of the array."""
    slots[name] = storage.add(stack.slots[name], target_n, change)
    return storage.take(slots[name], row_n, dim)

  def old(name: str) -> Array:
    return storage.take(stack.slots[name], row_n, dim)

  if rule.optimizer == "sgd":
    direction_nd = grad_nd
  elif rule.optimizer == "adagrad":
    direction_nd = grad_nd / (jnp.sqrt(advance("squares", grad_nd**2)) + EPS)
  elif rule.optimizer == "rowwise_adagrad":
    direction_nd = grad_nd / (jnp.sqrt(advance("squares", squared(grad_nd))) + EPS)[:, None]
  elif rule.optimizer == "adam":
    first_nd = advance("first_moment", (1 - ADAM_FIRST) * (grad_nd - old("first_moment")))
    second_nd = advance("second_moment", (1 - ADAM_SECOND) * (grad_nd**2 - old("second_moment")))
    count = jnp.asarray(rule.step + 1, jnp.float32)
    first_nd, second_nd = (  # 1 - b^t without cancellation, in which float32 loses five digits at b = .999, t = 1
      moment_nd / -jnp.expm1(count * np.float32(np.log(b))) for moment_nd, b in ((first_nd, ADAM_FIRST), (second_nd, ADAM_SECOND))
    )
    direction_nd = first_nd / (jnp.sqrt(second_nd) + EPS)
  else:
    raise ValueError(f"unknown table optimiser {rule.optimizer}")
  dtype = stack.rows_vd.dtype
  if not rule.weight_decay and dtype == jnp.float32:
    return Stack(storage.add(stack.rows_vd, target_n, -rule.lr * direction_nd), slots)
  old_nd = storage.take(stack.rows_vd, row_n, dim).astype(jnp.float32)
  new_nd = old_nd - rule.lr * (direction_nd + rule.weight_decay * old_nd)
  return Stack(storage.replace(stack.rows_vd, target_n, old_nd, round_at_random(new_nd, dtype, rule.step)), slots)


def _kernel_step(
  stack: Stack, rule: Rule, row_bl: Int32[Array, "B L"], valid_bl: Bool[Array, "B L"], grad_nd: Float[Array, "n D"], bounds: tuple[int, ...]
) -> Stack:
  """Does `_step` with the CPU kernels, which sum the gradients of repeated rows themselves."""
  grad_bld = grad_nd.reshape(*row_bl.shape, -1)
  squares = stack.slots.get("squares")
  rows_vd, squares = cpu_kernels.update(stack.rows_vd, squares, row_bl, valid_bl, grad_bld, bounds, rule.lr, rule.weight_decay, EPS)
  return Stack(rows_vd, {} if squares is None else {"squares": squares})


def apply(
  rule: Rule,
  squared: dict[str, MeanSquare],
  state: GroupState,
  row_n: Int32[Array, " n"],
  valid_n: Bool[Array, " n"],
  grads: dict[str, Float[ArrayLike, "n _"]],
  bounds: tuple[int, ...] = (0, 1),
  kernels: bool = False,
) -> GroupState:
  """Applies one step of the rule to rows on this device.

  g is the sum of a row's gradients. The optimisers are:
  - sgd: `w -= lr g`.
  - adagrad (Duchi et al. 2011): `h += g^2; w -= lr g / (sqrt(h) + eps)`.
  - rowwise_adagrad: the same with one h for each row, which adds the mean of g^2 over the row (FBGEMM's EXACT_ROWWISE_ADAGRAD).
  - adam, lazy: `m += (1-b1)(g-m); v += (1-b2)(g^2-v); w -= lr m/(1-b1^t) / (sqrt(v/(1-b2^t)) + eps)`. t counts the steps of the run so far.
    The moments of rows outside the batch are frozen.

  Weight decay is decoupled. Slots start at 0, eps = 1e-8, b1 = .9, b2 = .999.

  Args:
    rule: the optimiser and its settings.
    squared: for each stack, the function that takes the mean of squares over whole rows.
    state: the device's part of a group. Donate it.
    row_n: place of each gradient's row, in bounds. Repeats are allowed.
    valid_n: whether the gradient counts at all.
    grads: the gradients of each stack.
    bounds: cuts the columns 0 .. L of lookups [B, L], to which the flattened gradients belong. Columns of different pieces
      bounds[i] .. bounds[i+1] have no row in common.
    kernels: whether the CPU kernels take the step (`Group.kernel_steps`).
  """
  if kernels:
    shape = len(row_n) // bounds[-1], bounds[-1]
    row_bl, valid_bl = row_n.reshape(shape), valid_n.reshape(shape)
    moved = {name: _kernel_step(stack, rule, row_bl, valid_bl, grads[name], bounds) for name, stack in state.stacks.items()}
    return GroupState(moved, state.election_v)
  representative_n, target_n, scratch = _elect(state.election_v, row_n, valid_n)
  position_n = jnp.arange(len(row_n), dtype=jnp.int32)
  added_to_n = jnp.where(representative_n == position_n, len(row_n) + position_n, representative_n)  # out of bounds: stays where it is
  stacks = {}
  for name, stack in state.stacks.items():
    grad_nd = jnp.asarray(grads[name])
    summed_nd = grad_nd.at[added_to_n].add(grad_nd, mode="drop")  # right at representatives, and only they are written
    stacks[name] = _step(stack, rule, row_n, target_n, summed_nd, squared[name])
  return GroupState(stacks, scratch)
