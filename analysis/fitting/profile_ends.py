"""The search for one end of a profile interval, one constrained fit at a time. Called by `profiles.py`."""

import numpy as np
from jaxtyping import Float

Array = np.ndarray
_FLAT = 1e-4  # share of the limit: a step of the search that raises the root by less is on a plateau
_ROOT = 1e-3  # share of the limit: the error of the root at an end
_PLACE = 5e-3  # error of an end where the profile is flat, as a share of the distance from the optimum, or from the edge if that is less
_WIDTH = 2e-3  # a bracket that is narrower than this share of the same distance is an end, since the root jumps there
_AT_EDGE = 1e-6  # share of the distance from the optimum: an end this close to the edge is on it
_HALVINGS = 3  # steps in which a bracket must halve; else it is cut in the middle
# Distances beyond an end, in its own, at which laws of several optima are tried:
_BEYOND = (1.02, 1.1, 1.25, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0)
_TO_EDGE = 10  # values tried between an end and the edge of its domain


class End:
  """The search for one end: where the square root of the cost increase crosses `limit` on one side.

  For a linear law the root is a straight line through the optimum. So it is followed by secants, each fit starting from the last one. Once
  the end is between two values, a secant that closes in too slowly gives way to the middle.
  """

  def __init__(self, theta: Array, index: int, sign: int, edge: float, limit: float, cov: Array, farthest: float) -> None:
    self.index, self.sign, self.edge, self.limit, self.farthest = index, sign, edge, limit, farthest
    self.best, self.theta, self.inside = float(theta[index]), theta, theta  # the last fit, and the last one inside
    regular = bool(np.isfinite(cov[index, index]) and cov[index, index] > 0)
    step = float(np.sqrt(cov[index, index])) * limit if regular else 0.1 * max(abs(self.best), 1e-3)
    # How the other parameters follow this one near the optimum.
    self.slope = np.nan_to_num(cov[:, index]) / cov[index, index] if regular else np.eye(len(theta))[index]
    self.inner: tuple[float, float] = (self.best, 0.0)  # (value, root) below the limit
    self.outer: tuple[float, float] | None = None  # (value, root) above the limit
    self.seen: list[tuple[float, float]] = []
    self.widths: list[float] = []  # of the bracket, step by step
    self.end: float | None = None
    self.found, self.flat = False, 0
    self._go_to(self.best + sign * step)

  def _clipped(self, value: float) -> float:
    reach = self.best + self.sign * self.farthest
    limits = (self.edge, reach)
    return float(min(value, *limits) if self.sign > 0 else max(value, *limits))

  def _go_to(self, value: float) -> None:
    self.value = self._clipped(value)

  def starts(self, value: float) -> Float[Array, "2 P"]:
    return np.stack([self.theta + self.slope * (value - self.theta[self.index]), self.theta])

  def _scale(self, value: float) -> float:
    """The distance that errors of an end at `value` are compared with."""
    distance = abs(value - self.best)
    return max(min(distance, abs(self.edge - value)), _AT_EDGE / _WIDTH * distance)

  def _exact(self, value: float, root: float) -> bool:
    """Whether this value is the end: by its root, and by how far the end can be off at the profile's slope."""
    if abs(root - self.limit) > _ROOT * self.limit:
      return False
    other = self.outer if root < self.limit and self.outer is not None and np.isfinite(self.outer[1]) else self.inner
    rise = abs(other[1] - root)
    return rise > 0 and abs(root - self.limit) * abs(value - other[0]) <= _PLACE * rise * self._scale(value)

  def tried(self, held_theta: Array, root: float) -> None:
    """Takes the best fit at `value` and its root. Chooses the next value, or ends the search."""
    value, limit = self.value, self.limit
    self.seen.append((value, root))
    if self._exact(value, root):
      self.outer = (value, root)
      self.end, self.found = value, True
      return
    if root < limit:
      if value in (self.edge, self.best + self.sign * self.farthest):
        self.end, self.found = None, True  # open
        return
      self.flat = self.flat + 1 if self.outer is None and root - self.inner[1] < _FLAT * limit else 0
      self.inner, self.inside = (value, root), held_theta
      if self.flat == 2:
        self.end, self.found = None, True  # open: the root rises no more
        return
    else:
      self.outer = (value, root)
    if np.isfinite(root):
      if value != self.theta[self.index]:
        self.slope = (held_theta - self.theta) / (value - self.theta[self.index])
      self.theta = held_theta
    if self.outer is None:  # go on to 1.5 to 4 times the distance from the optimum
      self._go_to(self.best + (self.inner[0] - self.best) * float(np.clip(limit / max(root, 1e-300), 1.5, 4.0)))
      return
    width = abs(self.outer[0] - self.inner[0])
    self.widths.append(width)
    if width <= _WIDTH * self._scale(self.outer[0]):
      self.end, self.found = self.outer[0], True
      return
    slow = len(self.widths) > _HALVINGS and width > 0.5 * self.widths[-1 - _HALVINGS]
    share = (limit - self.inner[1]) / (self.outer[1] - self.inner[1]) if np.isfinite(self.outer[1]) and not slow else 0.5
    self._go_to(self.inner[0] + (self.outer[0] - self.inner[0]) * float(np.clip(share, 0.02, 0.98)))
    if self.value in (self.inner[0], self.outer[0]):  # no number is between them
      self.end, self.found = self.outer[0], True

  def outmost(self, known: list[tuple[Array, float]]) -> list[tuple[float, Array, float]]:
    """Of fits (parameters, root), the one inside the limit that is farthest beyond the end; a list of it alone, or empty."""
    assert self.end is not None
    distance = abs(self.end - self.best) * (1 + _WIDTH)
    beyond = [(self.sign * (float(theta[self.index]) - self.best), theta, root) for theta, root in known if root < self.limit]
    beyond = [point for point in beyond if point[0] > distance]
    if not beyond:
      return []
    _, theta, root = max(beyond, key=lambda point: point[0])
    return [(float(theta[self.index]), theta, root)]

  def beyond(self) -> list[float]:
    """Values outside the interval, rising in distance, at which the profile may be inside again."""
    at = self.inner[0] if self.end is None else self.end
    if self.end is None and (at == self.edge or not np.isfinite(at)):
      return []
    distance = abs(at - self.best)
    values = [self._clipped(self.best + self.sign * factor * distance) for factor in _BEYOND]
    if np.isfinite(self.edge):
      values += [float(v) for v in np.linspace(at, self.edge, _TO_EDGE + 1)[1:]]
    return sorted({v for v in values if v != at}, key=lambda v: abs(v - self.best))

  def reopened(self, tried: list[tuple[float, Array, float]]) -> bool:
    """Takes fits beyond the end, by rising distance: (value, parameters, root). Whether the end is farther out than it was."""
    inside = [i for i, (_, _, root) in enumerate(tried) if root < self.limit]
    if self.end is None:  # open on a plateau, unless the farthest values are outside
      if not tried or (inside and inside[-1] == len(tried) - 1):
        return False
    elif not inside:
      return False
    last = inside[-1] if inside else -1
    self.seen += [(value, root) for value, _, root in tried]
    if last >= 0:
      value, self.theta, root = tried[last]
      self.inner, self.inside = (value, root), self.theta
    self.outer = (tried[last + 1][0], tried[last + 1][2]) if last + 1 < len(tried) else None
    self.flat, self.widths, self.end, self.found = 0, [], None, False
    self.slope = np.eye(len(self.theta))[self.index]
    if self.inner[0] == self.edge:
      self.found = True
    elif self.outer is None:
      self._go_to(self.best + 1.5 * (self.inner[0] - self.best))
    else:
      self._go_to((self.inner[0] + self.outer[0]) / 2)
    return not self.found
