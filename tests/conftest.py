"""Shared by all tests: eight simulated CPU devices, and programs compiled with less effort, since tests compile much and run little.

Nothing waits for the disk."""

import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

import pytest

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "8")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # with 2, scipy's L-BFGS-B took 20 times the CPU time for tiny problems, waiting
os.environ["XLA_FLAGS"] = "--xla_backend_optimization_level=0 " + os.environ.get("XLA_FLAGS", "")
os.fsync = os.fstat  # type: ignore[assignment]  # raises for the same handles; no test can lose power

pytest_plugins = ["typechecker", "kept_programs", "leftovers", "worker_memory"]


@pytest.fixture
def refusal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
  """Runs a program that must refuse its words: in one line, with exit code 2. Returns the line."""

  def refused(main: Callable[[Any], None], cls: type, presets: Mapping[str, Any], words: list[str]) -> str:
    from dlrm_jax.common import flags  # only now: the environment above must be set, and jaxtyping's hook in place

    monkeypatch.setattr(sys, "argv", ["program", *words])
    with pytest.raises(SystemExit) as stop:
      flags.run(main, cls, presets)
    shown = capsys.readouterr().err
    assert stop.value.code == 2
    assert shown.startswith("error: ") and shown.count("\n") == 1, shown
    return shown

  return refused
