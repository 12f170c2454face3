"""Tests benchmarks/compiled/hlo.py on programs that are compiled here, for CPU and TPU, with known collectives and copies."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from benchmarks.compiled import hlo, targets
from benchmarks.compiled.hlo_text import Module

pytestmark = pytest.mark.usefixtures("compiled_anew")

N = 8  # devices


def table_step(mesh, table, ids, values, w):
  """Fetches rows from their owners and sends gradients to them in rounds. Then a dense gradient, which jit turns into an all-reduce."""
  split = P("d")

  @partial(jax.shard_map, mesh=mesh, in_specs=(split, split, split), out_specs=(split, split), check_vma=False)
  def exchange(table, ids, values):
    def body(carry):
      left, table, out = carry
      with jax.named_scope("exchange_ids"):
        asked = lax.all_to_all(ids.reshape(N, -1) + left, "d", 0, 0).reshape(-1)
      with jax.named_scope("exchange_values"):
        rows = lax.all_to_all(table[asked].reshape(N, -1, table.shape[1]), "d", 0, 0)
      with jax.named_scope("exchange_gradients"):
        grads = lax.all_to_all((values * left).reshape(N, -1, table.shape[1]), "d", 0, 0)
      table = table.at[asked].add(grads.reshape(-1, table.shape[1]))
      with jax.named_scope("exchange_counts"):
        left = lax.pmax(left - 1 - (asked.sum() > 0).astype(jnp.int32), "d")
      return left, table, out + rows.reshape(out.shape)

    return lax.while_loop(lambda c: c[0] > 0, body, (jnp.int32(3), table, jnp.zeros_like(values)))[1:]

  table, rows = exchange(table, ids, values)
  loss, grad = jax.value_and_grad(lambda w: (jnp.tanh(rows @ w) ** 2).sum())(w)
  return table, w - grad, loss


def compile_table_step(devices):
  mesh = Mesh(np.array(devices[:N]), ("d",), axis_types=(AxisType.Auto,))
  shape = lambda dims, dtype, *spec: jax.ShapeDtypeStruct(dims, dtype, sharding=NamedSharding(mesh, P(*spec)))  # noqa: E731
  arguments = (
    shape((N * 1000, 128), jnp.float32, "d"),
    shape((N * 64,), jnp.int32, "d"),
    shape((N * 64, 128), jnp.float32, "d"),
    shape((128, 30), jnp.float32),
  )
  return jax.jit(partial(table_step, mesh), donate_argnums=0).lower(*arguments).compile()


def summary(text):
  out: dict[str, list] = {}
  for c in hlo.collectives(text):
    assert c.group_size == N
    out.setdefault(hlo.category(c), []).append((c.kind, c.bytes, c.in_loop))
  return out


EXPECTED = {
  "exchange_ids": [("all-to-all", 64 * 4, True)],
  "exchange_values": [("all-to-all", 64 * 128 * 4, True)],
  "exchange_gradients": [("all-to-all", 64 * 128 * 4, True)],
  "exchange_counts": [("all-reduce", 4, True)],
  "dense": [("all-reduce", 128 * 30 * 4 + 4, False)],  # the loss joins the gradient
}


def test_collectives_compiled_for_cpu():
  assert summary(compile_table_step(jax.devices("cpu")).as_text()) == EXPECTED


def test_collectives_and_padding_compiled_for_tpu():
  compiled = compile_table_step(targets.devices(targets.parse("tpu:v5e:2x4")))
  assert summary(compiled.as_text()) == EXPECTED
  module = Module(compiled.as_text())
  entry = next(c for c in module.computations.values() if any(i.opcode == "while" for i in c.values()))
  padded = sum(array.padded_bytes for i in entry.values() if i.opcode == "parameter" for array in i.arrays)
  assert compiled.memory_analysis().argument_size_in_bytes == padded  # XLA's own sum; 128 columns of 30 are padded to 128 x 32 or more
  assert padded > (1000 * 128 + 64 + 64 * 128 + 128 * 30) * 4


def test_scatter_and_reduce_forms_compiled_for_cpu():
  mesh = Mesh(np.array(jax.devices("cpu")[:N]).reshape(2, 4), ("a", "b"), axis_types=(AxisType.Auto,) * 2)

  @partial(jax.shard_map, mesh=mesh, in_specs=P(("a", "b")), out_specs=P(("a", "b")), check_vma=False)
  def f(x):
    y = lax.psum_scatter(jnp.sin(lax.all_gather(x, "b", tiled=True)), "b", tiled=True)
    return lax.ppermute(jnp.cos(y), "a", [(0, 1), (1, 0)]) + lax.psum(y, "a")

  text = jax.jit(f).lower(jax.ShapeDtypeStruct((N * 16, 5), jnp.float32)).compile().as_text()
  found = {(c.kind, c.bytes, c.group_size) for c in hlo.collectives(text)}
  local = 16 * 5 * 4
  assert found == {
    ("all-gather", 4 * local, 4),
    ("reduce-scatter", 4 * local, 4),
    ("collective-permute", local, 8),
    ("all-reduce", local, 2),
  }


@pytest.mark.parametrize(("donate", "copies"), [((0,), 0), ((), 1)])
def test_table_copied_on_cpu_unless_donated(donate, copies):
  table, ids = jax.ShapeDtypeStruct((5000, 64), jnp.float32), jax.ShapeDtypeStruct((30,), jnp.int32)
  text = jax.jit(lambda table, ids: table.at[ids].add(1.5), donate_argnums=donate).lower(table, ids).compile().as_text()
  assert len(hlo.largest_arrays(text, 5000 * 64 * 4)) == copies


def test_layout_trap_on_tpu():
  """A step that reads and updates a few rows copies a whole table of 64 columns, but not the same rows stored in lines of 128."""
  rows, lookups = 13_000_000, 3000
  sharding = NamedSharding(Mesh(np.array(targets.devices(targets.parse("tpu:v5e:1x1"))), ("d",), axis_types=(AxisType.Auto,)), P())
  shape = partial(jax.ShapeDtypeStruct, sharding=sharding)

  def step(table, ids, grads):
    got = table.at[ids].get(mode="promise_in_bounds")
    return table.at[ids].add(grads * got, mode="drop")

  def large(columns):
    table = shape((rows * 64 // columns, columns), jnp.float32)
    arguments = (table, shape((lookups,), jnp.int32), shape((lookups, columns), jnp.float32))
    compiled = jax.jit(step, donate_argnums=0).lower(*arguments).compile()
    return hlo.largest_arrays(compiled.as_text(), rows * 64 * 4 // 2), compiled.memory_analysis().temp_size_in_bytes

  found, temporary = large(64)
  assert [a.opcode for a in found] == ["copy", "copy"] and max(a.padded_bytes for a in found) == rows * 128 * 4
  assert temporary >= rows * 128 * 4
  found, temporary = large(128)
  assert found == [] and temporary < 1e8
