"""The names of the axes that a sweep varies. The sweeps write them into their records, and the analysis reads them there."""

from collections.abc import Iterable, Mapping
from typing import Any

SCHEMES = ("data", "rows", "dim", "overarch", "mlp")  # the scaling axes of the paper, and the default of a sweep
HARDWARE_AXES = ("devices", "placement")  # they change the speed, not what is learned
AXES = (*SCHEMES, "overarch_depth", "mlp_depth", "tables", "all", "batch_size", *HARDWARE_AXES)  # in the order of tables and figures
GRID = "*"  # joins the axes of a grid into its name: rows*dim
_NO_SIZE = ("batch_size", *HARDWARE_AXES)  # where a smaller number is no smaller model or log


def below_largest(points: Iterable[Mapping[str, Any]]) -> frozenset[str]:
  """The config_ids of runs that are small on purpose: at each of its points such a run is smaller than the largest size of an axis.

  A base run is a point of several axes, so that it counts as whole where it has the largest size of one of them.

  Args:
    points: as in sweep.json: `workload`, `axis`, `size`, `config_id`, and `sizes` by axis, which older sweeps lack.
  """
  places = [(p["config_id"], (p["workload"], p["axis"]), p.get("sizes") or {p["axis"]: p["size"]}) for p in points]
  largest: dict[tuple[Any, str], float] = {}
  for _, where, sizes in places:
    for axis, size in sizes.items():
      largest[where, axis] = max(size, largest.get((where, axis), size))
  whole = {name for name, where, sizes in places if all(axis in _NO_SIZE or size >= largest[where, axis] for axis, size in sizes.items())}
  return frozenset(name for name, _, _ in places if name not in whole)
