"""Whether the points contradict borrowed parameters (`borrowed.py`). Called by `fit_law.py`.

A parameter that were free of its value, tie or prior would move the law along its gradient. An F test shows whether that lowers the cost by
more than noise does.
"""

import dataclasses

import numpy as np

from analysis.fitting.added_columns import f_test, prepared
from analysis.fitting.adequacy import LEVEL
from analysis.fitting.borrowed import Borrowed
from analysis.fitting.laws import Law
from analysis.fitting.least_squares import Solution
from analysis.fitting.settings import Setting

_FAR = 3.0  # standard deviations of a prior


def contradiction(setting: Setting, solution: Solution, whole: Law, borrowed: Borrowed, values: dict[str, float]) -> tuple[str, str]:
  """How the points contradict the borrowed parameters: by so much that the law misses them, and by less. Both may be empty.

  Args:
    setting, solution: the fit of the free parameters.
    whole: the law of all parameters.
    values: all parameters in the user's units.
  """
  problem, notes = setting.problem, []
  for prior, name in zip(problem.law.priors, borrowed.priors, strict=True):
    off = (solution.theta[prior.index] - prior.mean) / prior.deviation
    if abs(off) > _FAR:
      notes.append(f"{name} is {abs(off):.2g} standard deviations {'above' if off > 0 else 'below'} the mean of its prior")
  held = dataclasses.replace(solution, on_bound=(*solution.on_bound, *borrowed.priors))  # a prior holds its parameter near the mean
  points = prepared(problem, held, setting.known_variance, setting.known_free)
  found = f_test(points, whole.log_value(whole.to_coordinates(values)[None], problem.log_x)[1][0], LEVEL)
  if found.significant:
    names = " and ".join([*borrowed.fixed, *borrowed.leaders, *borrowed.priors])
    size = float(np.sqrt(np.mean(found.shift**2)))
    text = f"with {names} free it would be {100 * size:.2g}% of the loss closer to them, on average"
    if size > points.large:
      return text, "; ".join(notes)
    notes.append(f"the points contradict the borrowed parameters: {text}")
  return "", "; ".join(notes)
