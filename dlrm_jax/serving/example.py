"""Reloads an exported model with jax and numpy alone: `python example.py` scores the inputs in example.npz and compares their logits.

It runs on the CPU, unless JAX_PLATFORMS says otherwise: `JAX_PLATFORMS=cuda python example.py` runs it on a GPU (tpu: on a TPU).
`Model` is what a server needs; it uses jax's default device. Copy it: it depends on no other file than those of this directory.
"""

import hashlib
import json
import math
import os
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export
from jax.scipy.special import ndtri

HERE = Path(__file__).parent
MISSING = -1  # the id of an empty place in a bag
MOST = 10.0  # a standardised number that is farther from 0 is moved to +-MOST


class Model:
  """The exported model in a directory, on jax's default device."""

  def __init__(self, directory: Path = HERE):
    self.directory = Path(directory)
    self.metadata = json.loads((self.directory / "metadata.json").read_text())
    program = export.deserialize(bytearray((self.directory / "program.bin").read_bytes()))
    self.arrays = jax.device_put({entry["name"]: self._load(entry) for entry in self.metadata["arrays"]})
    self._logits = jax.jit(program.call)
    self._features = {entry["name"]: entry for entry in self.metadata["features"]}

  def _load(self, entry: dict[str, Any]) -> np.ndarray:
    return np.load(self.directory / entry["file"], mmap_mode="r").view(jnp.dtype(entry["dtype"]))

  def logits(self, dense: np.ndarray, ids: np.ndarray, weights: np.ndarray | None = None) -> jax.Array:
    """Logits [b] of dense inputs [b, M] float32 and ids [b, L] int32; with bags also their weights [b, L], 0 for an empty place."""
    return self._logits(self.arrays, dense, ids, *([] if weights is None else [weights]))

  def input_of(self, name: str, number: float | None) -> float:
    """The dense input of this name, from the number in its column (`column` in the metadata), or None where the cell is missing."""
    entry = next(entry for entry in self.metadata["inputs"]["dense"] if entry["name"] == name)
    kind = entry["transform"]
    if kind == "missing":
      return float(number is None)
    if number is None:
      return entry["missing"]
    if kind == "quantile":
      return _normal_score(number, np.array(entry["edges"]))
    value = math.log1p(max(number, 0.0)) if kind == "log1p" or entry["log"] else float(number)
    if kind != "standard":
      return value
    return min(max((value - entry["mean"]) / entry["deviation"], -MOST), MOST) if entry["deviation"] else 0.0

  def bin_of(self, feature: str, number: float | None) -> int:
    """The id of a feature of bins, from the number in its column, or None where the cell is missing."""
    edges = self._features[feature]["bins"]["edges"]
    return 0 if number is None else 1 + int(np.searchsorted(edges, number, side="right"))

  def id_of(self, feature: str, text: str) -> int:
    """The id of a value of a feature, which the log has as this text ("" if it is missing): 0 if it was not seen in training."""
    entry = self._features[feature]
    if text == "" and entry["bag"]:
      return MISSING
    hashed = _hash_of_hexadecimal(feature, text) if entry["hexadecimal"] else _hash(feature, text.encode())
    if "hash" not in entry:
      return hashed >> 33
    hashes = np.load(self.directory / entry["hash"], mmap_mode="r")
    place = int(np.searchsorted(hashes, np.uint64(hashed)))
    known = place < len(hashes) and int(hashes[place]) == hashed
    return int(np.load(self.directory / entry["id"], mmap_mode="r")[place]) if known else 0


def _normal_score(number: float, edges: np.ndarray) -> float:
  """The normal quantile of a number's rank among evenly spaced quantiles; a number that equals several gets the middle of their ranks."""
  if not len(edges):
    return 0.0
  ranks, half = np.linspace(0, 1, len(edges)), 0.5 / max(len(edges) - 1, 1)
  rank = (np.interp(number, edges, ranks) - np.interp(-number, -edges[::-1], -ranks[::-1])) / 2
  return float(ndtri(jnp.clip(rank, half, 1 - half)))


def _hash(feature: str, data: bytes) -> int:
  """BLAKE2b of a value, 8 bytes little-endian, keyed by the feature's name."""
  key = hashlib.blake2b(feature.encode()).digest()
  return int.from_bytes(hashlib.blake2b(data, digest_size=8, key=key).digest(), "little")


def _hash_of_hexadecimal(feature: str, text: str) -> int:
  """SplitMix64's finaliser of 8 hexadecimal digits (2**32 if they are missing) + a seed from the feature's name."""
  x = ((int(text, 16) if text else 1 << 32) + _hash(feature, b"seed")) % 2**64
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
  x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
  return x ^ (x >> 31)


def main() -> None:
  if "JAX_PLATFORMS" not in os.environ and "cpu" in json.loads((HERE / "metadata.json").read_text())["platforms"]:
    jax.config.update("jax_platforms", "cpu")  # otherwise jax tries every accelerator whose library is installed, and logs its errors
  model = Model()
  inputs = dict(np.load(HERE / "example.npz"))
  wanted = inputs.pop("logits")
  got = np.asarray(model.logits(**inputs))
  difference = float(np.abs(got - wanted).max())
  print(f"{len(got)} logits on {jax.default_backend()}, from {got.min():.4f} to {got.max():.4f}; largest difference {difference:.2g}")
  sys.exit(difference > 1e-3)


if __name__ == "__main__":
  main()
