"""A small counter-based generator: 32-bit words as a pure function of whole numbers. Planted data and row hashing use it.

jax.random's threefry serves everywhere else; here it took longer than the training step's own arithmetic (1.2 ms for 1,024 examples
against 0.2 ms) and seconds to compile.
"""

import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtri
from jaxtyping import Array, Float, UInt32

from dlrm_jax.common.arrays import ArrayLike

_GOLDEN = np.uint32(0x9E3779B9)


def mix32(x: UInt32[Array, "*shape"]) -> UInt32[Array, "*shape"]:
  """A bijection of 32-bit words that looks random (Wellons' "lowbias32", github.com/skeeto/hash-prospector)."""
  x = (x ^ (x >> 16)) * np.uint32(0x7FEB352D)
  x = (x ^ (x >> 15)) * np.uint32(0x846CA68B)
  return x ^ (x >> 16)


def word(*keys: ArrayLike) -> UInt32[Array, "*shape"]:
  """One random word for every combination of the keys (whole numbers, broadcast; each below 2**32).

  Two states are chained through the keys, so that equal words of one do not make equal words of the result.
  """
  a, b = jnp.uint32(0x243F6A88), jnp.uint32(0x85A308D3)
  for key in keys:
    value = jnp.asarray(key).astype(jnp.uint32)
    a, b = mix32(a ^ value), mix32(b + value * _GOLDEN + np.uint32(1))
  return mix32(a + mix32(b ^ _GOLDEN))


def uniform(words: UInt32[Array, "*shape"]) -> Float[Array, "*shape"]:
  """Words to float32 in the open interval (0, 1), 2**24 values fewer those that float32 rounds together: the last would be 1."""
  middle = (words >> 8).astype(jnp.float32) * np.float32(2**-24) + np.float32(2**-25)
  return jnp.minimum(middle, np.float32(1 - 2**-24))


def normal(words: UInt32[Array, "*shape"]) -> Float[Array, "*shape"]:
  """Words to standard normal float32."""
  return ndtri(uniform(words))
