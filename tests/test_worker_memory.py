"""What a test process forgets when it has grown large (helpers/worker_memory.py)."""

import functools
import os

import pytest
import worker_memory

from dlrm_jax.common import hashing


def test_programs_are_forgotten_and_libraries_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
  """Caches of programs have a size, `functools.cache` keeps libraries and facts of the machine."""
  programs, libraries = functools.lru_cache(maxsize=4)(str), functools.cache(str)
  monkeypatch.setattr(hashing, "programs", programs, raising=False)
  monkeypatch.setattr(hashing, "libraries", libraries, raising=False)
  programs(1), libraries(1)
  worker_memory._forget_programs()
  assert (programs.cache_info().currsize, libraries.cache_info().currsize) == (0, 1)


def test_workers_are_as_many_as_cores_and_memory_allow(monkeypatch: pytest.MonkeyPatch, pytestconfig: pytest.Config) -> None:
  monkeypatch.setattr(os, "sched_getaffinity", lambda pid: range(6))
  for gib, workers in ((64, 6), (8, 4), (1, 1)):
    monkeypatch.setattr(os, "sysconf", lambda name, gib=gib: {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": gib << 18}[name])
    assert worker_memory.pytest_xdist_auto_num_workers(pytestconfig) == workers
