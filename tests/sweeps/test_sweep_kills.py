"""A sweep that is killed many times ends with the records of an undisturbed one."""

import os
import random
import signal
import time
from pathlib import Path

import pytest
import sweep_case

pytestmark = [pytest.mark.slow, pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="two workers need two cores")]
LOCAL = (*sweep_case.FLAGS, "--launcher=local", "--workers=2")
KILLS = 20
LONGER = ("--num_examples=1048576",)  # long enough that twenty kills are over before the sweep is


def sweep_in_one_process(workdir: Path, *words: str) -> Path:
  """A sweep of 24 runs that nothing disturbs."""
  sweep_case.finished(workdir, *sweep_case.FLAGS, *words)
  assert len(sweep_case.results(workdir)) == 24
  return workdir


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> Path:
  return sweep_in_one_process(tmp_path_factory.mktemp("untouched"))


def test_twenty_kills_of_workers_and_driver_leave_no_trace(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path):
  begun = time.monotonic()
  untouched = sweep_in_one_process(tmp_path_factory.mktemp("longer"), *LONGER)
  alone_s, rng = time.monotonic() - begun, random.Random(6)
  driver, killed = sweep_case.started(tmp_path, *LOCAL, *LONGER, cores=(0, 1)), {"worker": 0, "driver": 0}
  for _ in range(KILLS):
    time.sleep(rng.uniform(0.01, 0.06) * alone_s)
    assert driver.poll() is None, driver.communicate()[0]
    workers = [pid for pid in sweep_case.processes_of(tmp_path) if pid != driver.pid]
    victim = rng.choice([driver.pid, *workers, *workers])
    killed["driver" if victim == driver.pid else "worker"] += 1
    try:
      os.kill(victim, signal.SIGKILL)
    except ProcessLookupError:
      continue  # a worker that was leaving
    if victim == driver.pid:
      driver.communicate()  # the workers have no hold of its output: they write to their logs
      driver = sweep_case.started(tmp_path, *LOCAL, *LONGER, cores=(0, 1))
  code, said = sweep_case.ended(driver, 600)
  assert code == 0, said
  assert min(killed.values()) > 2, killed
  assert "all 24 runs recorded" in said
  sweep_case.wait_for_none(tmp_path)
  assert sweep_case.results(tmp_path) == sweep_case.results(untouched)
  ended = sweep_case.outcomes(tmp_path)
  assert all("done" not in outcomes[:-1] for outcomes in ended.values()), ended  # what has a record is not done again
  assert sum(len(outcomes) > 1 for outcomes in ended.values()) >= 5, ended  # kills did hit runs


@pytest.mark.parametrize("sweepers", [2, 4])
def test_sweepers_started_together_do_every_run_once(untouched: Path, tmp_path: Path, sweepers: int):
  processes = [sweep_case.started(tmp_path, *sweep_case.FLAGS, cores=(k % 2,)) for k in range(sweepers)]
  ended = [sweep_case.ended(process) for process in processes]
  assert [code for code, _ in ended] == [0] * sweepers, "\n".join(f"exit code {code}:\n{text}" for code, text in ended)
  assert all("all 24 runs recorded" in text for _, text in ended)
  assert set(map(tuple, sweep_case.outcomes(tmp_path).values())) == {("done",)}
  assert sweep_case.results(tmp_path) == sweep_case.results(untouched)


def running(workdir: Path) -> int:
  """Runs that are under way and have been for a while: a checkpoint is there."""
  return len({path.parent.parent for path in workdir.glob("runs/*/checkpoint/*/checkpoint.json")})


@pytest.mark.parametrize(
  ("signum", "launcher", "code", "outcome"),
  [
    (signal.SIGTERM, "local", 75, "stopped"),
    (signal.SIGTERM, "inline", 75, "stopped"),
    (signal.SIGINT, "local", 130, "stopped"),
    (signal.SIGINT, "inline", 130, "interrupted"),
    (signal.SIGKILL, "local", -9, "stopped"),  # its workers notice, and save
  ],
)
def test_a_sweep_that_is_ended_goes_on_where_it_was(untouched: Path, tmp_path: Path, signum: int, launcher: str, code: int, outcome: str):
  words = (*sweep_case.FLAGS, f"--launcher={launcher}", "--workers=2", "--max_attempts=1", "--seeds=2")
  workers = 2 if launcher == "local" else 1
  cores = (0, 1)[:workers]
  process = sweep_case.started(tmp_path, *words, cores=cores)
  until = time.monotonic() + 120
  while not running(tmp_path):
    assert process.poll() is None and time.monotonic() < until
    time.sleep(0.02)
  process.send_signal(signum)
  begun = time.monotonic()
  while launcher == "inline" and signum == signal.SIGINT and process.poll() is None:
    time.sleep(1)
    process.send_signal(signum)  # where the first comes during one of jax's callbacks, Python forgets it
  got, said = sweep_case.ended(process)
  assert (got, "Traceback" in said) == (code, False), said
  sweep_case.wait_for_none(tmp_path)
  assert time.monotonic() - begun < 20
  ended = [outcome for run in sweep_case.outcomes(tmp_path).values() for outcome in run]
  assert set(ended) <= {"done", outcome} and 1 <= ended.count(outcome) <= workers, ended
  expected, results = sweep_case.results(untouched), sweep_case.results(sweep_case.finished(tmp_path, *words, cores=cores))
  assert len(results) == 8 and all(expected[name] == result for name, result in results.items())
