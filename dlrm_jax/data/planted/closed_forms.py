"""Closed forms for the excess of the planted click model: of its tail against examples and rows, of its pairs and dense part by width.

Excess is the mean KL from the true click probability, in nats. For small errors it is `c/2 * E (logit error)^2`, c = E p(1-p).
With `tau = c * sigma^2`, an ideal (Bayesian) learner that has seen N examples leaves the share `1 / (1 + N p tau)` of the prior variance
of an id of probability p. Throughout there are F fields with P(id >= k) = k^-(s-1).

Bags. A field draws m ids an example on average, and the effects of its ids are summed. Let n_k count id k in a bag. A learner that
treats ids as independent sees the design (n_k). Each example adds c E[n_k^2] to the precision of an effect, and its remaining variance
costs c/2 E[n_k^2] times itself: p_k above becomes E[n_k^2]. An id drawn at most once in a bag has E[n_k^2] = m p_k. Each draw is then a
lookup of its own, and `excess(N) = m F/2 sum_k p_k tau / (1 + m N p_k tau)`: m times that of one id a field after m N examples. The
exponents do not change.

Repeats make E[n_k^2] = m p_k + (n^2 - 1)/3 p_k^2 for sizes uniform in 1..n, m = (n+1)/2. This concerns the most frequent ids, which are
learned first and then cost 1/N whatever their p. For bags up to 8, tau = 0.036 / m and s = 10/9 or 1.25 it adds less than 2% to the
excess at N = 1,000, 0.3% at 10,000 and 0.03% at 100,000; for bags of 32 at most 0.12% at 100,000. It also takes longer to tell apart ids
of one bag: the exact posterior of a linear model of 400 ids, two fields and bags up to 6 leaves 5%, 3.5% and 2.8% more than the sum at
N = 500, 4,000 and 20,000 (one id a field: 1% more at all three).
"""

import math

import numpy as np
from jaxtyping import Float

_EXACT_IDS = 2**20
_LARGEST = 2**31  # larger ids are fresh ones, which are never learned


def beta_data(s: float) -> float:
  """Exponent of excess against examples, (s-1)/s: ids down to p_k = 1/(N tau) are learned, k ~ N^(1/s); the mass k^-(s-1) is not."""
  return (s - 1) / s


def beta_rows(s: float) -> float:
  """Exponent of excess against rows of a table at unlimited data: s-1, if the most frequent ids are kept and if ids are hashed."""
  return s - 1


def kappa(s: float) -> float:
  """Excess with hashed ids over excess with the most frequent ids kept, for 1 < s < 2: 1.317 at s = 10/9, 1.647 at s = 1.25."""
  if not 1 < s < 2:
    raise ValueError(f"s={s}: kappa is known for 1 < s < 2")
  return (s - 1) / s * math.gamma(2 - s) * math.gamma((s - 1) / s) ** s


def _ids(s: float, below: float) -> tuple[np.ndarray, np.ndarray]:
  """(number of ids, probability of each) for groups of the ids 1 .. below-1: single ids first, then 1,000 groups an octave."""
  exact = np.arange(1, min(_EXACT_IDS, below) + 1, dtype=np.float64)
  edges = exact
  if below > _EXACT_IDS:
    octaves = math.log2(below / _EXACT_IDS)
    edges = np.concatenate([exact, _EXACT_IDS * 2 ** np.linspace(0, octaves, int(1000 * octaves) + 2)[1:]])
  mass = -np.diff(edges ** -(s - 1))
  count = np.diff(edges)
  return count, mass / count


def excess_ideal(num_examples: float, s: float, tau: float, num_fields: int, num_rows: int | None = None, draws: float = 1.0) -> float:
  """Excess of the ideal learner after `num_examples`: `m F/2 * sum_k p_k tau / (1 + m N p_k tau)`.

  Args:
    num_examples: N.
    s: Zipf exponent.
    tau: c * sigma^2.
    num_fields: F.
    num_rows: rows of each table under `top`, where ids from num_rows on share one row and stay unlearned; None: a row for every id.
    draws: m, the mean number of ids of a field in an example.
  """
  own = _LARGEST if num_rows is None else min(num_rows, _LARGEST)
  count, p = _ids(s, own)
  learned = (count * p * tau / (1 + draws * num_examples * p * tau)).sum()
  return float(draws * num_fields / 2 * (learned + tau * own ** -(s - 1)))


def rows_floor(num_rows: int, s: float, tau: float, num_fields: int, rows_by: str = "top", draws: float = 1.0) -> float:
  """Excess at unlimited data with `num_rows` rows a table: `m F/2 tau V^-(s-1)`, or `m F/2 tau hashed_share` if ids are hashed.

  With many rows, hashing costs kappa(s) times as much. m, the mean number of ids of a field in an example, is a factor even if ids repeat
  in a bag. The best row is the mean effect of its ids weighted by p_k; its error has mean 0 over a draw, and draws are independent.
  """
  return draws * num_fields / 2 * tau * (hashed_share(num_rows, s) if rows_by == "hash" else num_rows ** -(s - 1))


def hashed_share(num_rows: int, s: float) -> float:
  """Expected share of the tail's variance that is lost at unlimited data when ids are hashed to `num_rows` rows, for any s and rows.

  The best row is the mean effect of its ids weighted by p_k. Id k keeps p_k / (p_k + R_k) of its variance, R_k being the mass of the
  other ids in its row. The share is 1 - sum_k p_k^2 E 1/(p_k + R_k), with E 1/(p + R) = integral of e^-tp E e^-tR dt: a product over ids,
  each of which is in the row with probability 1/V. For many rows this approaches kappa V^-(s-1); at 10 rows it is 0.91 (s = 10/9) and
  0.84 (1.25) of that.
  """
  edges = np.concatenate([np.arange(1, 2.0**12), 2.0 ** np.linspace(12, math.log2(_LARGEST), 64 * 19 + 1)])  # ids, then 64 groups an octave
  mass, count = -np.diff(edges ** -(s - 1)), np.diff(edges)
  p, fresh = mass / count, _LARGEST ** -(s - 1)  # fresh ids are many and rare: their mass is spread evenly
  if num_rows == 1:
    return float(1 - (count * p * p).sum())
  log_t = np.linspace(math.log(1e-9), math.log(1e14), 1600)
  known = np.zeros(len(p))
  for t in np.split(np.exp(log_t)[:, None], 32):
    one = np.log1p(np.expm1(-t * p) / num_rows)  # log of the mean of e^-tp over whether an id is in the row
    row = (count * one).sum(axis=1, keepdims=True) - t * fresh / num_rows
    known += (np.exp(row - one - t * p) * t).sum(axis=0)
  return float(1 - (count * p * p * known).sum() * (log_t[1] - log_t[0]))


def decaying_shares(count: int, delta: float) -> Float[np.ndarray, " count"]:
  """The shares of variance ~ j^-(1+delta), j = 1..count, which sum to 1."""
  weight = np.arange(1, count + 1, dtype=np.float64) ** -(1 + delta)
  return weight / weight.sum()


def terms_floor(kept: int, num_terms: int, variance: float, delta: float, curvature: float) -> float:
  """Excess at unlimited data of a model that can represent the `kept` largest terms of a part: c/2 times the variance of the others.

  An embedding dim D can represent D terms of the pairs. A layer of W units can represent W/2 terms of the dense part, since
  |x| = relu(x) + relu(-x). The latter is no lower bound: units that stay on their linear side pass W projections on, which a later layer
  may fold.

  Args:
    kept: number of terms that the model can represent.
    num_terms, variance, delta: terms of the part and its variance; the j-th term has variance ~ j^-(1+delta).
    curvature: c = E p(1-p).
  """
  return float(curvature / 2 * variance * decaying_shares(num_terms, delta)[kept:].sum())
