"""The teacher behind planted clicks: how large its parts are, and the latent arrays of the small ones (pairs, dense, scores)."""

import numpy as np
from jaxtyping import Float

from dlrm_jax.config import PlantedConfig
from dlrm_jax.data.planted.closed_forms import decaying_shares

PARTS = ("tail", "pairs", "dense", "scores")
SMALL_IDS = 64  # ids of each field of the pair and score parts
PAIR_FIELDS, PAIR_TERMS = 4, 32
SCORE_FIELDS, SCORE_TERMS = 4, 16
DENSE_INPUTS = 16


def _orthonormal(random: np.random.RandomState, size: int, count: int, centred: bool) -> Float[np.ndarray, "size count"]:
  """`count` random vectors over `size` points, orthonormal under the uniform mean, and of mean 0 if `centred`."""
  z = random.standard_normal((size, count))
  q, _ = np.linalg.qr(z - z.mean(axis=0) if centred else z)
  return q * np.sqrt(size)


def latent_arrays(config: PlantedConfig) -> dict[str, np.ndarray]:
  """The latent arrays of the small parts, float32. The tail has none: its effects are hashed from the ids.

  They are drawn from RandomState, because numpy promises that its streams never change.
  """
  out: dict[str, np.ndarray] = {}
  if config.pair_variance:
    random = np.random.RandomState([config.seed, 1])
    num_pairs = PAIR_FIELDS * (PAIR_FIELDS - 1) / 2
    out["pair_fkj"] = np.stack([_orthonormal(random, SMALL_IDS, PAIR_TERMS, centred=True) for _ in range(PAIR_FIELDS)])
    out["pair_scale_j"] = np.sqrt(config.pair_variance / num_pairs * decaying_shares(PAIR_TERMS, config.delta))
  if config.dense_variance:
    random = np.random.RandomState([config.seed, 2])
    out["dense_w"] = _orthonormal(random, DENSE_INPUTS, DENSE_INPUTS, centred=False) / np.sqrt(DENSE_INPUTS)
    out["dense_scale_j"] = np.sqrt(config.dense_variance * decaying_shares(DENSE_INPUTS, config.delta))
  if config.score_variance:
    random = np.random.RandomState([config.seed, 3])
    direction = random.standard_normal((SCORE_FIELDS, SCORE_TERMS))
    out["score_fk"] = random.standard_normal((SCORE_FIELDS, SMALL_IDS))
    out["score_w"] = 2 * direction / np.linalg.norm(direction, axis=0)
    out["score_phase_j"] = random.uniform(0, 2 * np.pi, SCORE_TERMS)
    latent_nf = out["score_fk"][np.arange(SCORE_FIELDS), random.randint(0, SMALL_IDS, (2**16, SCORE_FIELDS))]
    raw = np.sin(latent_nf @ out["score_w"] + out["score_phase_j"]).sum(axis=1)
    out["score_mean"], out["score_scale"] = raw.mean(), np.sqrt(config.score_variance) / raw.std()
  return {name: np.asarray(value, np.float32) for name, value in out.items()}
