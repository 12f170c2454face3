"""The size that wins at each budget, over training curves; its budgets follow a power of the size.

This is approach 1 of Hoffmann et al. 2022 (arXiv 2203.15556). Each curve is interpolated on logarithms, so that no size wins because it was
evaluated nearest to a budget. Each size of a grid wins over a range of budgets. It is placed at the middle of this range, where it is about
the best size. Where the smallest or the largest size of a budget wins, the best one may be outside the sizes, so this win is left out.
Called by `approaches.py`.
"""

import dataclasses

import numpy as np
from jaxtyping import Float
from scipy import interpolate

from analysis.questions.optimum_runs import Runs

Array = np.ndarray
_BUDGETS = 400  # log-spaced, at which winners are found
_EDGE = 1e-9  # of log C: a budget this close to the end of a curve is on it


@dataclasses.dataclass(frozen=True)
class Envelope:
  """The least loss at each budget: the budgets, log loss, and N of the size that has it. `inside`: whether smaller and larger ones lose."""

  flops: Float[Array, " b"]
  log_loss: Float[Array, " b"]
  params: Float[Array, " b"]
  inside: Float[Array, " b"]


@dataclasses.dataclass(frozen=True)
class Winner:
  """A size that has the least loss at some budgets, where smaller and larger sizes lose.

  Attributes:
    params: N.
    flops: the middle of its budgets, on logarithms.
    log_loss: log loss there.
    span: the factor that its budgets span.
    cut: whether its budgets end because curves do.
  """

  params: float
  flops: float
  log_loss: float
  span: float
  cut: bool


def along(runs: Runs, flops: Float[Array, " b"]) -> tuple[Float[Array, " K"], list[str], Float[Array, "K b"]]:
  """Log losses of every run at some budgets; NaN where a run has no points on both sides.

  They are interpolated on logarithms by monotone cubics (Fritsch & Butland 1984): chords of a bent curve are above it.

  Returns:
    N of each run, its name, and the log losses.
  """
  assert runs.run is not None
  names = [str(name) for name in np.unique(runs.run)]
  sizes, out = np.zeros(len(names)), np.full((len(names), len(flops)), np.nan)
  for k, name in enumerate(names):
    mine = np.flatnonzero(runs.run == name)
    mine = mine[np.argsort(runs.flops[mine], kind="stable")]
    sizes[k] = runs.params[mine[0]]
    at, log_loss = np.log(runs.flops[mine]), np.log(runs.loss[mine])
    there = (np.log(flops) >= at[0] - _EDGE) & (np.log(flops) <= at[-1] + _EDGE)
    inside = np.clip(np.log(flops[there]), at[0], at[-1])
    out[k, there] = interpolate.PchipInterpolator(at, log_loss)(inside) if len(at) > 1 else log_loss[0]
  return sizes, names, out


def by_size(sizes: Float[Array, " K"], log_loss: Float[Array, "K b"]) -> tuple[Float[Array, " S"], Float[Array, "S b"]]:
  """The distinct sizes, rising, and the mean over the runs of each, where all of them have a loss."""
  distinct = np.unique(sizes)
  return distinct, np.stack([log_loss[sizes == size].mean(axis=0) for size in distinct])


def envelope(runs: Runs) -> Envelope:
  """The least loss over all budgets at which three sizes or more have one."""
  flops = np.geomspace(runs.flops.min(), runs.flops.max(), _BUDGETS)
  sizes, _, log_loss = along(runs, flops)
  distinct, mean = by_size(sizes, log_loss)
  there = np.isfinite(mean)
  enough = there.sum(axis=0) >= 3
  flops, mean, there = flops[enough], mean[:, enough], there[:, enough]
  if not len(flops):
    nothing = np.zeros(0)
    return Envelope(nothing, nothing, nothing, nothing)
  best = np.nanargmin(mean, axis=0)
  each = np.arange(len(flops))
  smallest, largest = there.argmax(axis=0), len(distinct) - 1 - there[::-1].argmax(axis=0)
  return Envelope(flops, mean[best, each], distinct[best], ((best > smallest) & (best < largest)).astype(float))


def winners(found: Envelope) -> list[Winner]:
  """The sizes that win inside the sizes of their budgets, by rising size."""
  out, inside = [], found.inside > 0
  for size in np.unique(found.params[inside]):
    at = np.flatnonzero(inside & (found.params == size))
    wins = np.flatnonzero(found.params == size)
    middle = float(np.log(found.flops[at]).mean())
    nearest = at[int(np.argmin(np.abs(np.log(found.flops[at]) - middle)))]
    span = float(found.flops[at[-1]] / found.flops[at[0]])
    cut = bool(at[0] == 0 or at[-1] == len(found.flops) - 1 or len(wins) > len(at))
    out.append(Winner(float(size), float(np.exp(middle)), float(found.log_loss[nearest]), span, cut))
  return out
