"""The meshes that a benchmark runs over. Used by benchmarks/step.py, lookup.py, collectives.py and input.py."""

import collections

import jax

from dlrm_jax.config import MeshConfig

_SIMULATED = "Simulated devices share the host's cores: efficiencies and bandwidths between them say nothing about hardware."


def leading_to(mesh: MeshConfig) -> list[str]:
  """The meshes of a series that ends in `mesh`: its last axis grows by powers of two, then the one before it."""
  shapes = [(1,) * len(mesh.shape)]
  for axis in reversed(range(len(mesh.shape))):
    while (size := shapes[-1][axis]) < mesh.shape[axis]:
      shapes.append((*shapes[-1][:axis], min(2 * size, mesh.shape[axis]), *shapes[-1][axis + 1 :]))
  return ["x".join(map(str, shape)) for shape in shapes]


def counted(words: tuple[str, ...]) -> str:
  """("row", "row", "column") as "2 row, 1 column"."""
  return ", ".join(f"{count} {word}" for word, count in collections.Counter(words).most_common())


def warn_if_simulated(num_devices: int) -> None:
  """Says under a table of several devices that they are simulated, where they are."""
  if num_devices > 1 and jax.devices()[0].platform == "cpu":
    print(_SIMULATED)
