"""Which checkpoints of a run stay on disk, and when they are written."""

import threading
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from dlrm_jax.common.flags import UserError
from dlrm_jax.config import RunConfig
from dlrm_jax.training import checkpoint
from dlrm_jax.training.checkpoint import Snapshot
from dlrm_jax.training.checkpoints import Checkpoints, found


def snapshot_of(value: float) -> Snapshot:
  one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  return checkpoint.snapshot_dense({"x": np.full(1000, value, np.float32)}, one)


def test_the_newest_stay_and_the_same_examples_are_saved_once(tmp_path: Path):
  with Checkpoints(tmp_path / "c", keep=2, every_s=0) as those:
    assert not those.due() and those.saved is None
    for examples in (5, 7, 7, 11):
      those.save(examples, lambda value=examples: snapshot_of(float(value)), {"n": examples})
    those.wait()
    assert those.saved == 11
    assert [path.name for path in found(tmp_path / "c")] == ["000000000011", "000000000007"]
  with Checkpoints(tmp_path / "c", keep=2, every_s=1e-9) as those:
    (tmp_path / "c" / "000000000013").mkdir()
    shape = {"x": jax.ShapeDtypeStruct((1000,), np.float32, sharding=jax.sharding.SingleDeviceSharding(jax.devices()[0]))}
    state, path = those.restore(lambda path: checkpoint.restore_dense(path, shape)) or (None, None)
    assert state["x"][0] == 11 and path == tmp_path / "c" / "000000000011" and those.saved == 11
    assert [path.name for path in found(tmp_path / "c")] == ["000000000011", "000000000007"]
    assert those.due()
    those.save(11, lambda: snapshot_of(0.0), {})  # there is one
    those.wait()
    assert checkpoint.read_run(tmp_path / "c" / "000000000011") == {"n": 11}
    those.clear(keep=1)
    assert [path.name for path in found(tmp_path / "c")] == ["000000000011"]
    those.clear(keep=0)
    assert not (tmp_path / "c").exists()


def test_writing_goes_on_beside_the_caller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
  """`save` returns while the manifest is held up; the next one waits for it."""
  go, seal, sealed = threading.Event(), checkpoint.seal, []

  def held_up(path: Path, *args: Any):
    go.wait(20)
    seal(path, *args)
    sealed.append(path.name)

  monkeypatch.setattr(checkpoint, "seal", held_up)
  with Checkpoints(tmp_path, keep=2, every_s=0) as those:
    those.save(1, lambda: snapshot_of(1.0), {})
    assert sealed == [] and those.saved is None
    go.set()
    those.save(2, lambda: snapshot_of(2.0), {})
    assert sealed[0] == "000000000001"
  assert sealed == ["000000000001", "000000000002"]  # leaving waits


def test_flags_are_checked():
  for words, message in (({"keep_checkpoints": 0}, "--keep_checkpoints=0"), ({"checkpoint_every_s": -1.0}, "--checkpoint_every_s=-1.0")):
    with pytest.raises(UserError, match=message):
      RunConfig(**words)
