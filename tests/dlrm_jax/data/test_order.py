"""`dlrm_jax.data.order`: one process reads each row, once, in the order of a slow reference and of golden values."""

import numpy as np
import pytest
from order_case import reference

from dlrm_jax.common.flags import UserError
from dlrm_jax.data.order import WINDOW, ReadOrder, local_batch_size, local_count

SIZES = [(0, 4), (1, 4), (3, 4), (4, 4), (5, 4), (11, 4), (96, 4), (99, 4), (103, 4), (257, 4), (17, 1), (40, 100)]  # rows, rows of a block


def rows_of(order: ReadOrder) -> list[int]:
  """The rows of a process, unit by unit."""
  out: list[int] = []
  for unit in range(len(order)):
    blocks = order.blocks(unit)
    read = np.concatenate([np.arange(p.low, p.high) + p.block * order.rows_per_block for p in blocks])
    assert len(read) == order.rows_per_unit or unit == len(order) - 1
    places, given = order.places(unit, len(read)), np.full(len(read), -1)
    given[slice(None) if places is None else places] = read
    out += given.tolist()
  return out


@pytest.mark.parametrize("order", ["time", "shuffled"])
@pytest.mark.parametrize("num_processes", [1, 2, 3, 5, 8])
@pytest.mark.parametrize(("rows", "per_block"), SIZES)
def test_every_row_once_in_the_order_of_the_reference(rows: int, per_block: int, num_processes: int, order: str):
  shares = [ReadOrder(rows, per_block, order, 3, (p, num_processes)) for p in range(num_processes)]
  got = [rows_of(each) for each in shares]
  assert got == reference(rows, per_block, order, 3, num_processes)
  assert sorted(row for mine in got for row in mine) == list(range(rows))
  assert [len(mine) for mine in got] == [local_count(rows, (p, num_processes)) for p in range(num_processes)]
  blocks = [{p.block for unit in range(len(each)) for p in each.blocks(unit)} for each in shares]
  shared = {b for i, mine in enumerate(blocks) for b in mine if any(b in other for other in blocks[i + 1 :])}
  assert len(shared) <= (rows // per_block) % num_processes + 1  # those left, and the partial one


def test_the_order_of_one_process_is_the_log():
  assert rows_of(ReadOrder(103, 4, "time", 9, (0, 1))) == list(range(103))


def test_a_shuffled_order_mixes_and_follows_the_seed():
  orders = [rows_of(ReadOrder(4096, 16, "shuffled", seed, (0, 1))) for seed in (0, 1)]
  assert orders[0] != orders[1]
  for rows in orders:
    assert np.corrcoef(rows, np.arange(4096))[0, 1] == pytest.approx(0, abs=0.25)  # 256 blocks
    window = np.asarray(rows[: 16 * WINDOW])
    assert len(set(window // 16)) == WINDOW
    assert len(set(window[:16] // 16)) > 3
  places = [ReadOrder(4096, 16, "shuffled", 0, (p, 2)).places(unit, 128) for p in range(2) for unit in range(2)]
  assert len({tuple(np.asarray(each).tolist()) for each in places}) == 4


def test_golden_order():
  """Runs on disk read their data in this order. If it changes, they cannot be repeated or resumed."""
  assert rows_of(ReadOrder(107, 10, "shuffled", 7, (0, 1)))[:12] == [56, 67, 98, 7, 43, 64, 14, 37, 97, 69, 74, 19]
  assert [ReadOrder(200, 10, "shuffled", 7, (1, 2)).blocks(0)[i].block for i in range(8)] == [7, 5, 0, 17, 1, 15, 12, 16]
  assert rows_of(ReadOrder(200, 10, "shuffled", 7, (1, 2)))[:8] == [123, 52, 0, 78, 152, 59, 9, 158]


def test_shares_nest_and_add_up():
  for num_processes in range(1, 9):
    before = [0] * num_processes
    for count in range(60):
      now = [local_count(count, (p, num_processes)) for p in range(num_processes)]
      assert sum(now) == count and max(now) - min(now) <= 1
      assert all(a <= b for a, b in zip(before, now, strict=True))
      before = now


def test_a_batch_splits_evenly_or_is_refused():
  assert local_batch_size(12, (2, 3)) == 4
  with pytest.raises(UserError, match=r"^batch_size=12: must be a multiple of the 5 processes$"):
    local_batch_size(12, (0, 5))
