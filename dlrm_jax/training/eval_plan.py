"""When a run is evaluated, and on how many held-out examples each time. Called by the loop, by records and by `sweeps.estimate`.

With `--eval_examples=all` the last evaluation predicts every held-out example. Those before it predict the same few, evenly spread over the
held-out examples (`order.spread`), so that the points of a curve differ by what was learned and not by the examples. The last evaluation
predicts these few apart as well, so that its point can be compared with the others.
"""

import math

from dlrm_jax.config import ALL, TrainConfig

SHARE = 1 / 3  # of a run's time, for its evaluations
COST = 0.5  # of predicting an example, as a share of training on one
LEAST = 1024  # examples of an early evaluation, also where SHARE does not suffice for them


def eval_points(num_examples: int, batch_size: int, first: int, per_octave: int, start: int = 0) -> list[int]:
  """Example counts to evaluate at: log-spaced from `first`, whole batches after `start`, the last one `num_examples`."""
  points, k = set(), 0
  while (wanted := first * 2 ** (k / per_octave)) < num_examples:
    points.add(min(start + math.ceil((round(wanted) - start) / batch_size) * batch_size, num_examples))
    k += 1
  return sorted(points | {num_examples})


def points_of(train: TrainConfig, start: int = 0, before: int = 0) -> list[int]:
  """`eval_points` of a run that begins after `start` examples; `num_examples` is a number. `before` of them were of other data."""
  points = eval_points(train.total_examples, train.batch_size, train.first_eval, train.evals_per_octave, start - before)
  return [before + point for point in points if before + point > start]


def early_octaves(train: TrainConfig, held_out: int) -> int:
  """How thin the evaluations before the last are: they predict one of 2**octaves held-out examples. 0: all evaluations are alike.

  It depends on the run's settings alone, never on a measured time, so that a run has the same curve everywhere.

  Args:
    train: settings of the run; `num_examples` is a number.
    held_out: examples of the last evaluation.
  """
  if train.eval_examples != ALL:
    return 0
  count, octaves = len(points_of(train)), 0  # thin evaluations, as the last one predicts the few examples apart
  affordable = SHARE / (1 - SHARE) / COST * train.total_examples - held_out
  while count > 1 and count * _thinned(held_out, octaves) > affordable and _thinned(held_out, octaves + 1) >= LEAST:
    octaves += 1
  return octaves


def early_examples(train: TrainConfig, held_out: int) -> int:
  """About how many examples an evaluation before the last predicts; the arguments are those of `early_octaves`."""
  return _thinned(held_out, early_octaves(train, held_out))


def evaluated_examples(train: TrainConfig, held_out: int) -> int:
  """About how many examples all evaluations of a run predict together; the arguments are those of `early_octaves`."""
  thin = early_octaves(train, held_out) > 0
  return len(points_of(train)) * early_examples(train, held_out) + thin * held_out


def _thinned(held_out: int, octaves: int) -> int:
  return math.ceil(held_out / 2**octaves)
