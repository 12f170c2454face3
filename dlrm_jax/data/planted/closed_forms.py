"""What the planted click model must give: closed forms for the excess of its tail against examples and against rows, and for what a
narrow model must leave of its pairs and of its dense part.

Excess is the mean KL from the true click probability, in nats; for small errors it is `c/2 * E (logit error)^2`, c = E p(1-p).
With `tau = c * sigma^2` an id of probability p whose effect is learned by an ideal (Bayesian) learner from N examples keeps
the share `1 / (1 + N p tau)` of its prior variance. Throughout, F fields with P(id >= k) = k^-(s-1).

Bags. A field draws m ids an example on average, and the effects of its ids are summed. Let n_k count id k in a bag. A learner that
treats ids as independent sees the design (n_k), so an effect's precision grows by c E[n_k^2] an example, and what is left of its error
costs c/2 E[n_k^2] times its variance: p_k becomes E[n_k^2] above. An id drawn at most once in a bag has E[n_k^2] = m p_k, so each draw
is a lookup of its own and `excess(N) = m F/2 sum_k p_k tau / (1 + m N p_k tau)`: m times that of one id a field after m N examples.
The exponents stay. Repeats make E[n_k^2] = m p_k + (n^2 - 1)/3 p_k^2 for sizes uniform in 1..n, m = (n+1)/2: it concerns the most
frequent ids, which are learned first and then cost 1/N whatever their p. For bags up to 8, tau = 0.036 / m and s = 10/9 or 1.25 it adds
less than 2% to the excess at N = 1,000, 0.3% at 10,000 and 0.03% at 100,000; at most 0.12% there for bags of 32. Ids that meet in a bag
are told apart more slowly, too: the exact posterior of a linear model of 400 ids, two fields and bags up to 6 leaves 5%, 3.5% and 2.8%
more than the sum at N = 500, 4,000 and 20,000 (one id a field: 1% more at all three).
"""

import math

import numpy as np
from jaxtyping import Float

_EXACT_IDS = 2**20
_LARGEST = 2**31  # ids from here on are fresh ones: never learned


def beta_data(s: float) -> float:
  """Exponent of excess against examples, (s-1)/s: ids up to p_k = 1/(N tau) are learned, k ~ N^(1/s), and mass k^-(s-1) is not."""
  return (s - 1) / s


def beta_rows(s: float) -> float:
  """Exponent of excess against rows of a table at unlimited data, s-1, for the most frequent ids kept and for hashing."""
  return s - 1


def kappa(s: float) -> float:
  """Hashing's constant over keeping the most frequent ids, for 1 < s < 2: 1.317 at s = 10/9, 1.647 at s = 1.25."""
  if not 1 < s < 2:
    raise ValueError(f"s={s}: kappa is known for 1 < s < 2")
  return (s - 1) / s * math.gamma(2 - s) * math.gamma((s - 1) / s) ** s


def _ids(s: float, below: float) -> tuple[np.ndarray, np.ndarray]:
  """(number of ids, probability of each) of groups covering ids 1 .. below-1: single ids first, then 1,000 groups an octave."""
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
    num_rows: rows of each table under `top`: ids from num_rows on share one row and stay unlearned; None: a row for every id.
    draws: m, the mean number of ids of a field in an example.
  """
  own = _LARGEST if num_rows is None else min(num_rows, _LARGEST)
  count, p = _ids(s, own)
  learned = (count * p * tau / (1 + draws * num_examples * p * tau)).sum()
  return float(draws * num_fields / 2 * (learned + tau * own ** -(s - 1)))


def rows_floor(num_rows: int, s: float, tau: float, num_fields: int, rows_by: str = "top", draws: float = 1.0) -> float:
  """Excess at unlimited data with `num_rows` rows a table: `m F/2 tau V^-(s-1)`; when ids are hashed `m F/2 tau hashed_share`, which is
  kappa(s) times that where rows are many.

  m, the mean number of ids of a field in an example, is a factor whether ids repeat in a bag or not: the best row is the mean effect of
  its ids weighted by p_k, what it misses has mean 0 over a draw, and draws are independent.
  """
  return draws * num_fields / 2 * tau * (hashed_share(num_rows, s) if rows_by == "hash" else num_rows ** -(s - 1))


def hashed_share(num_rows: int, s: float) -> float:
  """Expected share of the tail's variance that `num_rows` rows lose when ids are hashed to them, at unlimited data, for any s and rows.

  The best row is the mean effect of its ids weighted by p_k, so that id k keeps p_k / (p_k + R_k) of its variance, R_k the mass of the
  others in its row: 1 - sum_k p_k^2 E 1/(p_k + R_k), with E 1/(p + R) = integral of e^-tp E e^-tR dt, a product over ids that each are in
  the row with probability 1/V. Towards many rows this is kappa V^-(s-1); at 10 rows 0.91 (s = 10/9) and 0.84 (1.25) of it.
  """
  edges = np.concatenate([np.arange(1, 2.0**12), 2.0 ** np.linspace(12, math.log2(_LARGEST), 64 * 19 + 1)])  # ids, then 64 groups an octave
  mass, count = -np.diff(edges ** -(s - 1)), np.diff(edges)
  p, fresh = mass / count, _LARGEST ** -(s - 1)  # fresh ids are many and small: their mass is spread evenly
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
  """Shares of variance ~ j^-(1+delta), j = 1..count, summing to 1."""
  weight = np.arange(1, count + 1, dtype=np.float64) ** -(1 + delta)
  return weight / weight.sum()


def terms_floor(kept: int, num_terms: int, variance: float, delta: float, curvature: float) -> float:
  """Excess at unlimited data of a model that has room for the `kept` largest terms of a part: c/2 times the variance of the others.

  Of the pairs an embedding dim D has room for D terms; of the dense part a layer of W units for W/2, since |x| = relu(x) + relu(-x). The
  latter is no lower bound: units that stay on their linear side hand W projections on, which a later layer may fold.

  Args:
    kept: terms that there is room for.
    num_terms, variance, delta: of the part: the j-th term has variance ~ j^-(1+delta).
    curvature: c = E p(1-p).
  """
  return float(curvature / 2 * variance * decaying_shares(num_terms, delta)[kept:].sum())
