"""The status of a fit, and the reasons why it is not `ok`. Called by `fit_law.py`."""

import numpy as np

from analysis.fitting.least_squares import Problem, Solution
from analysis.fitting.result import Estimate
from analysis.fitting.uncertainty import Interval

_CONSTANTS = ("gamma", "E")
_NO_CONSTANT = "over this range the curve has not bent towards a constant yet, so its exponent holds for this range alone"
_WIDE = 10.0  # an exponent whose interval spans more than this factor is called not identifiable
_MOST_OPEN = 0.8  # a constant whose interval covers more than this share of the range from 0 to the least loss is not determined


def status_of(
  problem: Problem, solution: Solution, open_params: list[str], missed: str, unknown: str = "", bare: str = ""
) -> tuple[str, list[str]]:
  """The status of a fit, and the reasons why it is not `ok`, the most important first.

  Args:
    problem, solution: the fit.
    open_params: names of the parameters that the points do not determine.
    missed: how the points contradict the law, or empty.
    unknown: that the points do not determine its constant, or empty.
    bare: why the estimates have no intervals, or empty.
  """
  constant = bool(solution.on_bound) and set(solution.on_bound) <= set(_CONSTANTS)
  edge = ", ".join(f"{name} = {problem.values(solution.theta)[name]:g}" for name in solution.on_bound)
  found = []
  if missed:
    at_edge = f" even at its best constant, {edge}" if constant else f", with {edge} at the edge of the domain"
    where = at_edge if edge and not open_params else ""
    found.append(("misfit", f"the law misses the points{where}: {missed}"))
  if open_params:
    found.append(("not_identifiable", f"the points do not determine {' and '.join(open_params)}"))
  elif edge and not missed:
    found.append(("on_bound", f"{edge} at the edge of the domain{f': {_NO_CONSTANT}' if constant else ''}"))
  if unknown and not missed and not constant:
    found.append(("constant_open", unknown))
  if bare:
    found.insert(1 if missed else 0, ("no_intervals", bare))
  return (found[0][0] if found else "ok"), [note for _, note in found]


def constant_open(problem: Problem, estimates: dict[str, Estimate]) -> str:
  """A sentence where the points do not determine the constant; empty where they do.

  They do not where its interval covers most of the range from 0 to the least measured loss, or where it reaches above a measured loss and
  is wider than the curve's fall.
  """
  _, index = np.unique(problem.log_x, axis=0, return_inverse=True)
  mean = np.exp(problem.log_y0 + np.bincount(index.reshape(-1), problem.log_y) / np.bincount(index.reshape(-1)))
  least = float(mean.min())
  for param in (p for p in problem.law.params if p.in_y_units and not p.log):
    low, high = estimates[param.name].ci_low, estimates[param.name].ci_high
    if low is None or high is None:
      continue
    said = f"the points do not determine {param.name}: its interval"
    if min(high, least) - max(low, 0.0) > _MOST_OPEN * least:
      return f"{said} is {low:.3g} to {high:.3g}, and the least measured loss is {least:.3g}"
    if high > least and high - low > np.ptp(mean):
      return f"{said} reaches {high:.3g}, above the measured {least:.3g}"
  return ""


def not_identified(problem: Problem, solution: Solution, intervals: list[Interval]) -> list[str]:
  """Names of undetermined parameters: an exponent whose interval is open, spans a factor above `_WIDE` or contains 0."""
  names = []
  for param, theta, interval in zip(problem.law.params, solution.theta, intervals, strict=True):
    if param.exponent:
      low = theta if interval.low is None and theta == param.low else interval.low  # on its bound
      if low is None or interval.high is None or low <= 0 or interval.high > _WIDE * low:
        names.append(param.name)
  if names:  # then a constant whose interval reaches its bound is open too
    constants = [(p, i) for p, i in zip(problem.law.params, intervals, strict=True) if p.in_y_units and not p.log]
    names += [p.name for p, i in constants if i.low is None or i.low <= p.low]
  shapes = [(p, i) for p, i in zip(problem.law.params, intervals, strict=True) if not p.in_y_units and not p.exponent]
  return names + [p.name for p, i in shapes if p.name not in solution.on_bound and (i.low is None or i.high is None)]
