"""The result of a fit: estimates with their intervals, a status, diagnostics. Made by `fit_law.py`, read by everything that shows laws."""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Float, Real

from analysis.fitting.covariance import Covariance
from analysis.fitting.laws import Law, law_of
from analysis.fitting.measured import Slopes

Array = np.ndarray
CONSTANT, RISES = "y is constant", "y does not fall with x"  # refusals of a flat curve
METHODS = {
  "gls": "95% profile likelihood of the mean over seeds, by generalised least squares with the covariance of the seeds' residuals along a "
  "pass; errors that the seeds share (teacher or log, evaluation examples) are not in it",
  "gls_residuals": "95% profile likelihood by generalised least squares with the covariance along a pass, estimated from how passes "
  "scatter around the law, since no two of them differ by their seed alone; what the law misses counts as noise",
  "profile_independent_points": "95% profile likelihood (F test), points taken as separate runs: too narrow if they come from one pass",
  "bootstrap": "95% percentiles of fits to points drawn with replacement, points taken as separate runs",
}


@dataclasses.dataclass(frozen=True)
class Estimate:
  """One parameter: best value, standard error, and the ends of its 95% interval. None: open, or not defined."""

  estimate: float
  std_error: float | None
  ci_low: float | None
  ci_high: float | None


@dataclasses.dataclass(frozen=True)
class Fit:
  """One law fitted to one group of points.

  Attributes:
    params: the parameters by name; empty when the fit was refused.
    covariance: the covariance matrix of the parameters; None when the fit was refused and without intervals.
    objective: the sum of squared residuals of log y, or of Huber's function of them where the loss is robust. Residuals are whitened by
      the noise where the method is `gls` or `gls_residuals`.
    num_points: points in the window, exact copies once.
    status: `ok`, `on_bound` (a parameter is on the edge of its domain), `not_identifiable` (the points do not determine it),
      `constant_open` (they determine all but the constant), `misfit` (the points contradict the law, see `adequacy.py`), `no_intervals`
      (too few points for the intervals of a robust loss), or `refused: reason`.
    reason: why the status is not `ok`, or empty.
    method: how the intervals were computed, a key of `METHODS`; None when refused and without intervals.
    note: what a reader must know, or empty.
    extrapolation: relative errors of predictions at the larger x by a fit to the smaller x; None with too few points.
    x_min, x_max: the fitted window, in the last column of x.
    condition_number: the condition number of the fit, of the scaled normal equations.
    misfit_p: the probability of residuals this large if the law is right; None where it cannot be estimated.
    aicc: Akaike's criterion for small samples, for comparison with other laws on the same points.
    profiles: for each exponent, pairs (value, rise) of its profile likelihood. The rise is the square root of the cost increase, scaled to
      1 at the interval's ends.
    per_seed: for each exponent, the 95% t interval over fits to each seed, as a cross-check; empty without three points and two seeds.
    slopes: the slopes of the measured points at both ends of the window, whatever the law says; None with more columns or too few points.
    borrowed: how parameters are borrowed, by name: `fixed`, `tied to` another, or with a `prior`. A fixed one has no interval.
    columns: the columns of x, whose names the parameters of a law of any columns have.
    laws: of `--law=joint`, the laws that are averaged, each with its weight, formula and parameters; then those that the points
      contradict, with weight 0 and the reason under `left_out`.
    band: (x, low, high) over the window of a law of one x: the 95% interval of the law's value, to first order; empty with a bootstrap.
  """

  group: str
  law: str
  params: dict[str, Estimate]
  objective: float | None
  num_points: int
  num_seeds: int
  status: str
  method: str | None = None
  note: str = ""
  reason: str = ""
  extrapolation: dict[str, float] | None = None
  x_min: float | None = None
  x_max: float | None = None
  condition_number: float | None = None
  misfit_p: float | None = None
  aicc: float | None = None
  profiles: dict[str, tuple[tuple[float, float], ...]] = dataclasses.field(default_factory=dict)
  per_seed: dict[str, dict[str, float]] = dataclasses.field(default_factory=dict)
  slopes: Slopes | None = None
  borrowed: dict[str, str] = dataclasses.field(default_factory=dict)
  columns: tuple[str, ...] = ("x",)
  laws: tuple[dict[str, Any], ...] = ()
  band: tuple[tuple[float, float, float], ...] = ()
  covariance: Covariance | None = None

  @property
  def believed(self) -> bool:
    """Whether the law fits and its exponents are determined. Its constant may be unknown, or on the edge of its domain."""
    return self.status in ("ok", "on_bound", "constant_open")

  @property
  def refused(self) -> bool:
    return self.status.startswith("refused")

  @property
  def form(self) -> Law:
    """The law that was fitted."""
    return law_of(self.law, self.columns)

  @property
  def estimates(self) -> dict[str, float]:
    """The parameters' best values by name."""
    return {name: p.estimate for name, p in self.params.items()}

  def value(self, name: str) -> float:
    """The estimate of one parameter; NaN when the fit was refused or the law has no such parameter."""
    return self.params[name].estimate if name in self.params else float("nan")

  def predict(self, x: Real[Array, "n *C"]) -> Float[Array, " n"]:
    """The fitted law at x."""
    return self.form.predict(self.estimates, x)


def as_dict(fit: Fit) -> dict[str, Any]:
  """A fit as the flat JSON object of `fits`."""
  return {name: value for name, value in dataclasses.asdict(fit).items() if name != "band"}


def row_as_dict(row: Any, *without: str) -> dict[str, Any]:
  """A dataclass with a field `fit` as one flat JSON object, without some fields."""
  return as_dict(row.fit) | {f.name: getattr(row, f.name) for f in dataclasses.fields(row) if f.name not in ("fit", *without)}


STATUS_WORDS = {
  "not_identifiable": "not identifiable",
  "constant_open": "constant not determined",
  "misfit": "misses the points",
  "short_window": "short window",
  "no_intervals": "no intervals",
}


def estimate_text(fit: Fit, name: str, digits: int = 3) -> str:
  """One parameter of a fit wherever it is shown: estimate, interval, and in brackets what keeps it from being believed.

  `0.1 [0.09, 0.11]`, `1.3 [0.2, ?] (not identifiable)`, `refused: y is constant`, or `-` where the law has no such parameter.
  """
  if fit.refused:
    return fit.status
  if name not in fit.params:
    return "-"
  word = STATUS_WORDS.get(fit.status, "")
  return interval_text(fit.params[name], digits) + (f" ({word})" if word else "")


def interval_text(estimate: Estimate | None, digits: int = 4) -> str:
  """`0.1 [0.09, 0.11]`, an open end as `?`; `? [?, ?]` where the points leave both open, so that any estimate does."""
  if estimate is None:
    return "-"
  if estimate.ci_low is None and estimate.ci_high is None and estimate.std_error is not None:
    return "? [?, ?]"
  low, high = ("?" if v is None else f"{v:.{digits}g}" for v in (estimate.ci_low, estimate.ci_high))
  return f"{estimate.estimate:.{digits}g} [{low}, {high}]"
