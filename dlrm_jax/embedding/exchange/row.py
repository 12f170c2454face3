"""The row placement: rows are dealt over all devices, and each device requests the distinct rows of its examples from their owners.

Requests are sorted by owner and place, without repeats. A round has room for 1.2 times an even share of requests to each owner. It covers
as many of an owner's places as every device has room for. So all requests for a row, from all devices, travel in one round, and the owner
can sum the row's gradients and step once. Skewed ids take more rounds, and no request is dropped. Evenly dealt rows need one round where
an owner gets hundreds of requests. Small batches often need a second.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int32

from dlrm_jax.embedding.exchange.common import Arrays, Axes, TakeStep, all_to_all, take
from dlrm_jax.embedding.placement import Group
from dlrm_jax.embedding.pool import Lookups, pool, unpool

CAPACITY = 1.2  # room of a round, in even shares of all lookups, repeats counted; owners differ by 1.08 at most on zipf ids


def capacity(num_lookups: int, num_devices: int) -> int:
  """Returns how many requests a device with so many lookups can send to one owner in a round."""
  room = int(CAPACITY * num_lookups / num_devices)
  return room // 8 * 8 if room >= 64 else max(1, room)  # TPUs store rows in groups of eight


def _requests(group: Group, lookups: Lookups) -> tuple[Int32[Array, " N"], Int32[Array, " N"]]:
  """Returns the distinct addresses in ascending order, then padding, and the index among them that each lookup wants.

  Lookups that do not count want padding.
  """
  end = group.num_devices * group.local_rows
  address_n = group.place_of(lookups.row_bl + group.offsets[group.segments])
  address_n = jnp.where(lookups.valid_bl, address_n, end).reshape(-1)
  place_n = jnp.arange(len(address_n), dtype=jnp.int32)
  sorted_n, order_n = jax.lax.sort((address_n, place_n), num_keys=1)
  new_n = jnp.concatenate([jnp.ones(1, bool), sorted_n[1:] != sorted_n[:-1]])
  distinct_n = jnp.cumsum(new_n, dtype=jnp.int32) - 1
  unique_n = jnp.full(len(address_n), end, jnp.int32).at[distinct_n].set(sorted_n)
  return unique_n, jnp.zeros_like(distinct_n).at[order_n].set(distinct_n, unique_indices=True)


def _first_beyond(unique_n: Int32[Array, " N"], address_o: Int32[Array, " n"]) -> Int32[Array, " n"]:
  """The index of the first of the ascending addresses that is above each of a few given ones.

  All are compared: a binary search would be a loop of 13 to 20 rounds, each of which the host of a GPU starts.
  """
  return jnp.searchsorted(unique_n, address_o, side="right", method="compare_all").astype(jnp.int32)


def _round(
  group: Group, unique_n: Int32[Array, " N"], start_o: Int32[Array, " n"], axes: Axes
) -> tuple[Int32[Array, " n"], Bool[Array, ""], Int32[Array, "n C"]]:
  """Returns where the next round starts for each owner, whether it is needed, and the places requested from each owner, or -1."""
  num, places, room = group.num_devices, group.local_rows, capacity(len(unique_n), group.num_devices)
  base_o = jnp.arange(num, dtype=jnp.int32) * places
  end_o = _first_beyond(unique_n, base_o + (places - 1))
  beyond_o = unique_n[jnp.minimum(start_o + room, len(unique_n) - 1)] - base_o  # the first place that has no room here
  with jax.named_scope("exchange_counts"):
    cut_o = jax.lax.pmin(jnp.where(start_o + room < end_o, beyond_o, places), axes)
  stop_o = _first_beyond(unique_n, base_o + (cut_o - 1))
  wanted_oc = start_o[:, None] + jnp.arange(room, dtype=jnp.int32)
  place_oc = unique_n[jnp.minimum(wanted_oc, len(unique_n) - 1)] - base_o[:, None]
  return stop_o, jnp.any(cut_o < places), jnp.where(wanted_oc < stop_o[:, None], place_oc, -1)


def _slots(group: Group, unique_n: Array, want_n: Array, start_o: Array, stop_o: Array) -> tuple[Int32[Array, " N"], Bool[Array, " N"]]:
  """Returns the position of each lookup's row among the answers of a round, and whether it is there."""
  owner_n = jnp.minimum(unique_n[want_n] // group.local_rows, group.num_devices - 1)
  here_n = (want_n >= start_o[owner_n]) & (want_n < stop_o[owner_n])
  room = capacity(len(unique_n), group.num_devices)
  return jnp.where(here_n, owner_n * room + want_n - start_o[owner_n], 0), here_n


def _rounds(group: Group, unique_n: Array, want_n: Array, axes: Axes, state: Any, serve: Callable[[Any, Array, Array, Array], Any]) -> Any:
  """Sends requests round by round until none is left, and returns the last state.

  A round calls `serve(state, asked_k, slot_n, here_n)` for the next state: the places that this device serves (-1 where there is none),
  the position of each lookup's row among the round's answers, and whether it is there.
  """

  def one_round(carry: tuple) -> tuple:
    start_o, _, state = carry
    stop_o, more, ask_oc = _round(group, unique_n, start_o, axes)
    asked_k = all_to_all(ask_oc, axes, "ids").reshape(-1)
    slot_n, here_n = _slots(group, unique_n, want_n, start_o, stop_o)
    return stop_o, more, serve(state, asked_k, slot_n, here_n)

  base_o = jnp.arange(group.num_devices, dtype=jnp.int32) * group.local_rows
  first = (_first_beyond(unique_n, base_o - 1), jnp.bool_(True), state)
  return jax.lax.while_loop(lambda carry: carry[1], one_round, first)[2]


def fetch(group: Group, arrays: Arrays, lookups: Lookups, axes: Axes) -> tuple[Arrays, Any]:
  """Gets rows from their owners and pools them here. The route is (distinct addresses, the index that each lookup wants, weights)."""
  dims, (unique_n, want_n) = group.layout.dims, _requests(group, lookups)

  def answered(found: Arrays, asked_k: Array, slot_n: Array, here_n: Array) -> Arrays:
    for name, array in arrays.items():
      answer_kd = all_to_all(take(group, array, jnp.maximum(asked_k, 0), dims[name]), axes, "values")
      found[name] = jnp.where(here_n[:, None], answer_kd[slot_n], found[name])
    return found

  empty = {name: jnp.zeros((len(want_n), dims[name]), array.dtype) for name, array in arrays.items()}
  found = _rounds(group, unique_n, want_n, axes, empty, answered)
  shape = lookups.row_bl.shape
  out = {name: pool(rows_nd.reshape(*shape, -1), lookups.weight_bl, group.lengths) for name, rows_nd in found.items()}
  return out, (unique_n, want_n, lookups.weight_bl)


def deliver(group: Group, route: Any, grads: Arrays, take_step: TakeStep, state: Any, axes: Axes) -> Any:
  """Sums gradients over this device's examples, then sends them to the owners, which step."""
  unique_n, want_n, weight_bl = route
  grads_nd = {name: unpool(g, weight_bl, group.segments).reshape(len(want_n), -1) for name, g in grads.items()}
  room = capacity(len(unique_n), group.num_devices) * group.num_devices

  def stepped(state: Any, asked_k: Array, slot_n: Array, here_n: Array) -> Any:
    sent = {name: jnp.zeros((room, g.shape[1])).at[jnp.where(here_n, slot_n, room)].add(g, mode="drop") for name, g in grads_nd.items()}
    arrived = {name: all_to_all(g, axes, "values") for name, g in sent.items()}
    return take_step(state, jnp.maximum(asked_k, 0), asked_k >= 0, arrived)

  return _rounds(group, unique_n, want_n, axes, state, stepped)
