"""How feature vectors meet: pairwise dot products (Naumov et al. 2019)."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def dot_interaction(vectors_bfd: Float[Array, "B F D"]) -> Float[Array, "B P"]:
  """Dot products of every pair f < g, P = F(F-1)/2, in row-major order of the upper triangle."""
  gram_bff = jnp.einsum("bfd,bgd->bfg", vectors_bfd, vectors_bfd)
  num = vectors_bfd.shape[1]
  upper = np.flatnonzero(np.triu(np.ones((num, num), bool), k=1))
  return gram_bff.reshape(-1, num * num)[:, upper]
