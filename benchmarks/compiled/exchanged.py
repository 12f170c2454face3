"""Bytes that the collectives of a compiled step move, by purpose. Used by benchmarks/step.py and benchmarks/topology.py."""

import collections
import dataclasses
from collections.abc import Iterable

from benchmarks.compiled import hlo, hlo_text

_PURPOSES = dict.fromkeys(("exchange_ids", "exchange_counts", "exchange_squares"), "other") | {
  "exchange_values": "values",
  "dense": "dense",
}


def by_purpose(found: hlo.Collective) -> list[tuple[str, tuple[str, ...]]]:
  """The shapes that a collective delivers, by purpose.

  Purposes are values (rows and their gradients), other (ids, counts, squares), dense (gradients of the MLPs, the loss) and mixed. Mixed
  are arrays without a name, and arrays that the compiler joined in a way that hides which is which.
  """
  names = hlo.alternatives(found.scopes[0]) if found.scopes else []
  if len(names) == len(found.shapes) > 1:  # a joined collective is called jit(f)/(a:b), with a name for each array
    each = (hlo.category(dataclasses.replace(found, scopes=(name,))) for name in names)
    return [(_PURPOSES.get(category, "mixed"), (shape,)) for category, shape in zip(each, found.shapes, strict=True)]
  category = hlo.category(found)
  if found.kind == "all-to-all":  # dense gradients never need one, whatever the names say
    category = category.removeprefix("dense+")
  return [(_PURPOSES.get(category, "mixed"), found.shapes)]


def exchanged(collectives: Iterable[hlo.Collective]) -> dict[str, int]:
  """Bytes that collectives deliver to each device, by purpose. A loop of several rounds counts as one round."""
  out = collections.Counter(values=0, other=0, dense=0, mixed=0)
  for found in collectives:
    if found.group_size > 1:  # pmap on one device has groups of 1
      for purpose, shapes in by_purpose(found):
        out[purpose] += sum(array.bytes for shape in shapes for array in hlo_text.parse_arrays(shape))
  return dict(out)
