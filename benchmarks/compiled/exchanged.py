"""What the collectives of a compiled step move, by what they move it for. Used by benchmarks/step.py and benchmarks/topology.py."""

import collections
import dataclasses
from collections.abc import Iterable

from benchmarks.compiled import hlo, hlo_text

_KINDS = {"exchange_values": "values", "exchange_ids": "other", "exchange_counts": "other", "exchange_squares": "other", "dense": "dense"}


def parts(found: hlo.Collective) -> list[tuple[str, tuple[str, ...]]]:
  """A collective's shapes by what they are for: values (rows and their gradients), other (ids, counts, squares), dense (gradients of the
  MLPs, the loss), or mixed: joined by the compiler in a way that does not show which part is which, or left without a name."""
  names = hlo.alternatives(found.scopes[0]) if found.scopes else []
  if len(names) == len(found.shapes) > 1:  # a collective joined from several is called jit(f)/(a:b), with a name for each array
    each = (hlo.category(dataclasses.replace(found, scopes=(name,))) for name in names)
    return [(_KINDS.get(category, "mixed"), (shape,)) for category, shape in zip(each, found.shapes, strict=True)]
  category = hlo.category(found)
  if found.kind == "all-to-all":  # MLPs need none, whatever the names around it
    category = category.removeprefix("dense+")
  return [(_KINDS.get(category, "mixed"), found.shapes)]


def exchanged(collectives: Iterable[hlo.Collective]) -> dict[str, int]:
  """Bytes that collectives deliver to each device: values, other, dense, mixed as above; of one round where there may be several."""
  out = collections.Counter(values=0, other=0, dense=0, mixed=0)
  for found in collectives:
    if found.group_size > 1:  # pmap on one device
      for kind, shapes in parts(found):
        out[kind] += sum(array.bytes for shape in shapes for array in hlo_text.parse_arrays(shape))
  return dict(out)
