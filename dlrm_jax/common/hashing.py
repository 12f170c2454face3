"""A small counter-based generator: 32-bit random words as a pure function of whole numbers.

Planted data, row hashing and initial rows use it. Other random numbers come from jax.random. Its threefry took 1.2 ms to draw 1,024 planted
examples, against 0.2 ms here, and seconds to compile. That was longer than the arithmetic of a training step.
"""

import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtri
from jaxtyping import Array, Float, UInt32

from dlrm_jax.common.arrays import ArrayLike

_GOLDEN = np.uint32(0x9E3779B9)


def mix32(x: UInt32[Array, "*shape"]) -> UInt32[Array, "*shape"]:
  """A pseudo-random bijection of 32-bit words (Wellons' "lowbias32", github.com/skeeto/hash-prospector)."""
  x = (x ^ (x >> 16)) * np.uint32(0x7FEB352D)
  x = (x ^ (x >> 15)) * np.uint32(0x846CA68B)
  return x ^ (x >> 16)


def word(*keys: ArrayLike) -> UInt32[Array, "*shape"]:
  """One random word for every combination of the keys (whole numbers, broadcast; each below 2**32).

  Two states are chained through the keys, so that a collision in one state is not a collision in the result.
  """
  a, b = jnp.uint32(0x243F6A88), jnp.uint32(0x85A308D3)
  for key in keys:
    value = jnp.asarray(key).astype(jnp.uint32)
    a, b = mix32(a ^ value), mix32(b + value * _GOLDEN + np.uint32(1))
  return mix32(a + mix32(b ^ _GOLDEN))


def uniform(words: UInt32[Array, "*shape"]) -> Float[Array, "*shape"]:
  """Maps words to float32 in the open interval (0, 1). There are 2**24 values, fewer those that float32 rounds together."""
  middle = (words >> 8).astype(jnp.float32) * np.float32(2**-24) + np.float32(2**-25)
  return jnp.minimum(middle, np.float32(1 - 2**-24))  # the last value would round to 1


def normal(words: UInt32[Array, "*shape"]) -> Float[Array, "*shape"]:
  """Maps words to standard normal float32."""
  return ndtri(uniform(words))
