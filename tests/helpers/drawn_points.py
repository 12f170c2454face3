"""Points of a law at random parameters, for tests that judge many fits."""

import numpy as np

from analysis.fitting.laws import LAWS

Array = np.ndarray


def drawn_points(name: str, number: int) -> tuple[Array, Array]:
  """Points of the law at random parameters: 8 to 30 over 2 to 5 decades (16 to 36 of two columns), with noise of .03 to 3%."""
  rng = np.random.default_rng([23, number])
  noise = np.exp(rng.uniform(np.log(3e-4), np.log(0.03)))
  if name == "chinchilla":
    side, span, start = int(rng.integers(4, 7)), rng.uniform(3, 9, 2), rng.uniform(5, 15, 2)
    log_x = np.array([(a, b) for a in np.linspace(0, span[0], side) for b in np.linspace(0, span[1], side)]) + start
    exponents = np.exp(rng.uniform(np.log(0.1), np.log(0.7), 2))
    theta = [*(exponents * start + rng.uniform(-1, 1, 2)), rng.uniform(0.02, 1), *exponents]
  elif name == "repeated":
    side, span, start = int(rng.integers(4, 7)), rng.uniform(3, 9), rng.uniform(5, 15)
    log_x = np.array([(a, b) for a in start + np.linspace(0, span, side) for b in np.log([1, 2, 3, 4, 8, 16][:side])])
    beta = np.exp(rng.uniform(np.log(0.1), np.log(0.7)))
    theta = [beta * start + rng.uniform(-1, 1), rng.uniform(0.02, 1), beta, rng.uniform(np.log(0.5), np.log(20))]
  else:
    count, span, start = int(rng.integers(8, 31)), rng.uniform(4, 12), rng.uniform(4, 14)
    log_x = np.linspace(start, start + span, count) if rng.random() < 0.5 else np.sort(rng.uniform(start, start + span, count))
    log_x, beta, gamma = log_x[:, None], np.exp(rng.uniform(np.log(0.05), np.log(0.7))), rng.uniform(0.02, 1)
    delta = max(rng.choice([-1, 1]) * np.exp(rng.uniform(np.log(0.05), np.log(0.8))), 0.02 - beta)
    at, log_width = start + span * rng.uniform(0.1, 0.9), rng.uniform(np.log(0.05), np.log(2))
    m4 = [
      rng.uniform(0, 1.5),
      rng.uniform(0.2, 1),
      gamma / 2,
      np.exp(rng.uniform(np.log(0.1), np.log(4))),
      start + span * rng.uniform(-0.2, 0.5),
    ]
    power = [beta * start, beta]
    theta = {"power": power, "power_constant": [*power, gamma], "broken_power": [*power, gamma, delta, at, log_width], "m4": m4}[name]
  log_f = LAWS[name].log_value(np.array(theta)[None], log_x)[0][0]
  return np.exp(log_x), np.exp(log_f + noise * rng.standard_normal(len(log_x)))
