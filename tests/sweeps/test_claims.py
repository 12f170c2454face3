"""Claims: one owner at a time, dead owners found without comparing clocks, attempts counted fairly."""

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sweeps import claims
from sweeps.claims import Attempt, Lost, Observer, attempts, claim, counted

CLAIM_AND_WAIT = """
import sys, time
from pathlib import Path
from sweeps import claims
with claims.claim(Path(sys.argv[1]), 1, 0, 1000, float(sys.argv[2])) as held:
  held.progress(10, 0.5)
  print("claimed", flush=True)
  for examples in range(11, 100000):
    time.sleep(0.05)
    held.progress(examples, 0.5)
"""

CLAIM_WHEN_TOLD = """
import sys
from pathlib import Path
from sweeps import claims
for line in sys.stdin:
  held = claims.claim(Path(sys.argv[1]), int(line), 0, 1000, 60.0)
  print(held is not None, flush=True)
"""


@contextlib.contextmanager
def owner(directory: Path, stale_after_s: float) -> Iterator[subprocess.Popen[str]]:
  """A process that owns a run until it is killed, or loses it."""
  words = [sys.executable, "-c", CLAIM_AND_WAIT, str(directory), str(stale_after_s)]
  with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
    try:
      assert process.stdout and process.stdout.readline() == "claimed\n"
      yield process
    finally:
      process.kill()


def elsewhere(directory: Path) -> None:
  """Makes the highest claim look like that of another machine."""
  path = sorted(directory.glob("attempts/*.json"))[-1]
  path.write_text(json.dumps(json.loads(path.read_text()) | {"host": "far", "boot_id": "other"}))


def judged(observer: Observer, directory: Path, most_s: float = 20.0) -> tuple[bool, float]:
  """What an observer finds about the owner of the highest claim, and after how many seconds."""
  begun = time.monotonic()
  while (lives := observer.lives(directory, attempts(directory)[-1])) is None:
    assert time.monotonic() - begun < most_s
    time.sleep(0.02)
  return lives, time.monotonic() - begun


def test_each_generation_is_won_by_one_of_four_processes(tmp_path: Path):
  words = [sys.executable, "-c", CLAIM_WHEN_TOLD, str(tmp_path)]
  with contextlib.ExitStack() as ended:
    racers = [
      ended.enter_context(subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)) for _ in range(4)
    ]
    for generation in range(1, 51):
      for racer in racers:
        assert racer.stdin
        racer.stdin.write(f"{generation}\n")
      won = [racer.pid for racer in racers if racer.stdout and racer.stdout.readline() == "True\n"]
      assert len(won) == 1 and attempts(tmp_path)[-1].facts["pid"] == won[0]
  assert [a.generation for a in attempts(tmp_path)] == list(range(1, 51))
  assert [path.name for path in (tmp_path / "attempts").iterdir() if path.name.startswith(".")] == []


def test_a_killed_owner_on_this_machine_is_known_dead_at_once(tmp_path: Path):
  observer = Observer(60.0)
  with owner(tmp_path, 60.0) as process:
    assert judged(observer, tmp_path) == (True, pytest.approx(0, abs=0.5))
    process.kill()
    time.sleep(0.5)  # ended, but still listed, since its parent has not waited for it
    assert judged(observer, tmp_path) == (False, pytest.approx(0, abs=0.5))
  assert judged(observer, tmp_path) == (False, pytest.approx(0, abs=0.5))


def test_a_process_of_the_same_number_that_started_later_is_another(tmp_path: Path):
  assert claim(tmp_path, 1, 0, 1000, 60.0) is not None
  path = tmp_path / "attempts/0001.json"
  assert Observer(60.0).lives(tmp_path, attempts(tmp_path)[0]) is True
  facts = json.loads(path.read_text())
  path.write_text(json.dumps(facts | {"process_started": facts["process_started"] - 1}))
  assert Observer(60.0).lives(tmp_path, attempts(tmp_path)[0]) is False


def test_an_owner_elsewhere_is_dead_when_its_file_stays_the_same(tmp_path: Path):
  assert claim(tmp_path, 1, 0, 1000, 0.4) is not None
  elsewhere(tmp_path)
  lives, seconds = judged(Observer(0.4), tmp_path)
  assert not lives and 0.4 <= seconds < 3.0


@pytest.mark.parametrize("years", [-30, 30])
def test_clocks_and_file_times_do_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, years: int):
  """The owner lives while its file changes, by whatever clock, and is dead when it no longer does."""
  jump = years * 365 * 86400.0
  now = time.time
  monkeypatch.setattr(time, "time", lambda: now() + jump)
  held, observer = claim(tmp_path, 1, 0, 1000, 0.4), Observer(0.4)
  assert held is not None
  path = tmp_path / "attempts/0001.json"
  for look in range(24):
    if look % 4 == 0:  # a beat, seen at the first of four looks
      elsewhere(tmp_path)
      path.write_text(json.dumps(json.loads(path.read_text()) | {"beats": look}))
      os.utime(path, (now() + jump, now() + jump))
    assert observer.lives(tmp_path, attempts(tmp_path)[0]) is (True if look >= 4 else None)
    time.sleep(0.04)
  assert judged_dead_within(observer, tmp_path, 3.0)


def judged_dead_within(observer: Observer, directory: Path, seconds: float) -> bool:
  until = time.monotonic() + seconds
  while time.monotonic() < until:
    if observer.lives(directory, attempts(directory)[-1]) is False:
      return True
    time.sleep(0.05)
  return False


def test_an_observer_that_was_itself_suspended_does_not_count_that_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
  assert claim(tmp_path, 1, 0, 1000, 60.0) is not None
  elsewhere(tmp_path)
  observer, clock = Observer(60.0), time.monotonic
  assert observer.lives(tmp_path, attempts(tmp_path)[0]) is None
  monkeypatch.setattr(time, "monotonic", lambda: clock() + 3600)
  assert observer.lives(tmp_path, attempts(tmp_path)[0]) is None


def test_patience_is_at_least_three_beats_of_the_owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
  """A sweeper with a smaller --stale_after_s than the owner's must not take it for dead between two beats."""
  assert claim(tmp_path, 1, 0, 1000, 600.0) is not None
  elsewhere(tmp_path)
  observer, clock, ahead = Observer(1.0), time.monotonic, [0.0]
  monkeypatch.setattr(time, "monotonic", lambda: clock() + ahead[0])
  for second in range(30):
    ahead[0] = float(second)
    if observer.lives(tmp_path, attempts(tmp_path)[0]) is False:
      break
  assert 3 * claims.BEAT_S <= ahead[0] <= 3 * claims.BEAT_S + 1


def test_a_suspended_owner_is_overtaken_and_lets_go(tmp_path: Path):
  observer = Observer(0.4)
  with owner(tmp_path, 0.4) as process:
    assert judged(observer, tmp_path)[0]
    process.send_signal(signal.SIGSTOP)
    assert judged_dead_within(observer, tmp_path, 10.0)
    held = claim(tmp_path, 2, 0, 1000, 1.0)
    assert held is not None
    process.send_signal(signal.SIGCONT)
    assert process.wait(10) == 1
    assert process.stderr and "Lost: " in process.stderr.read().splitlines()[-1]
  held.end("done")
  assert [a.outcome for a in attempts(tmp_path)] == [None, "done"]


def test_an_overtaken_owner_neither_goes_on_nor_says_how_it_ended(tmp_path: Path):
  first = claim(tmp_path, 1, 0, 1000, 60.0)
  assert first is not None
  first.progress(100, 0.7)
  assert claim(tmp_path, 2, 0, 1000, 60.0) is not None
  with pytest.raises(Lost, match="attempt 1 was overtaken by another"):
    first.progress(200, 0.6)
  first.end("done")
  first.withdraw()
  assert [a.outcome for a in attempts(tmp_path)] == [None, None]


def test_beats_tell_how_far_a_run_is(tmp_path: Path):
  held = claim(tmp_path, 1, 0, 5000, 1.0)
  assert held is not None
  with held:
    held.progress(1000, 0.9)
    time.sleep(0.5)
    held.progress(2500, 0.6)
    time.sleep(0.5)
    facts = attempts(tmp_path)[0].facts
  assert facts["beats"] >= 2 and facts["outcome"] is None
  assert (facts["examples"], facts["total"], facts["loss"]) == (2500, 5000, 0.6)
  assert 1500 < facts["examples_per_s"] < 3000  # 1,500 in half a second, or a little more
  held.end("diverged")
  assert attempts(tmp_path)[0].facts == facts | {"beats": held._facts["beats"], "outcome": "diverged"}


def history(*entries: tuple[str | None, int]) -> list[Attempt]:
  return [Attempt(n, b"", {"outcome": outcome, "began": began}) for n, (outcome, began) in enumerate(entries, 1)]


@pytest.mark.parametrize(
  ("entries", "saved", "expected"),
  [
    ([("failed", 0), ("failed", 0)], 0, 2),
    ([("failed", 0), ("failed", 500)], 900, 2),  # a failure is one, however far it came
    ([("stopped", 0), ("interrupted", 0), ("given_up", 0)], 0, 0),
    ([(None, 0), (None, 0), (None, 0)], 0, 3),  # killed, again and again, without coming anywhere
    ([(None, 0), (None, 0), (None, 0)], 100, 0),  # the last attempt left a checkpoint: that is progress
    ([(None, 0), (None, 100), (None, 100), (None, 700)], 700, 1),  # those that were followed from further on do not count
    ([(None, 0), ("stopped", 300), (None, 300)], 300, 1),
    ([(None, 500), (None, 200)], 200, 2),  # its newest checkpoint was damaged
    ([("broke", 0), ("broke", 300), ("broke", 300)], 300, 2),  # of several processes: perhaps for the death of another
    ([("done", 0), (None, 0)], 0, 1),  # a damaged record was done again
  ],
)
def test_what_counts_as_an_attempt(entries: list[tuple[str | None, int]], saved: int, expected: int):
  assert counted(history(*entries), saved) == expected


def test_a_damaged_claim_is_that_of_an_unknown_owner(tmp_path: Path):
  """It is waited for like any other, then taken over."""
  assert claim(tmp_path, 1, 0, 5000, 1.0) is not None
  (tmp_path / "attempts/0001.json").write_bytes(b'{"host": "fa\x00')
  found = attempts(tmp_path)
  assert found[0].facts == {} and found[0].outcome is None
  lives, seconds = judged(Observer(0.4), tmp_path)
  assert not lives and seconds >= 0.4


def test_a_requeued_job_takes_its_own_claim_over_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
  monkeypatch.setenv("SLURM_JOB_ID", "77")
  assert claim(tmp_path, 1, 0, 5000, 60.0) is not None
  elsewhere(tmp_path)
  observer = Observer(60.0)
  assert observer.lives(tmp_path, attempts(tmp_path)[0]) is None
  monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
  assert observer.lives(tmp_path, attempts(tmp_path)[0]) is False
  monkeypatch.setenv("SLURM_JOB_ID", "78")
  assert observer.lives(tmp_path, attempts(tmp_path)[0]) is None


def test_a_claim_that_cannot_be_written_is_an_error_of_the_store(tmp_path: Path):
  (tmp_path / "attempts").write_text("in the way")
  with pytest.raises(OSError):
    claim(tmp_path, 1, 0, 5000, 60.0)


def test_withdrawing_leaves_nothing_that_counts_even_where_nothing_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
  def full(*args: object) -> None:
    raise OSError(28, "No space left on device")

  held = claim(tmp_path, 1, 0, 5000, 60.0)
  assert held is not None
  monkeypatch.setattr(claims.record, "write_json", full)
  held.withdraw()
  assert attempts(tmp_path) == []
  monkeypatch.undo()
  held = claim(tmp_path, 1, 0, 5000, 60.0)
  assert held is not None
  held.withdraw()
  assert [a.outcome for a in attempts(tmp_path)] == ["interrupted"]


def test_a_finished_run_is_left_tidy(tmp_path: Path):
  """Temporary files of processes that were killed go when the run has ended."""
  held = claim(tmp_path, 1, 0, 5000, 60.0)
  assert held is not None
  for name in (".record.json.x7", "attempts/.0001.json.k2"):
    (tmp_path / name).write_text("half")
  (tmp_path / "curve.jsonl").write_text("")
  held.end("done")
  assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*")) == ["attempts", "attempts/0001.json", "curve.jsonl"]


def test_claims_are_plain_facts(tmp_path: Path):
  """What others may read of a claim; the words are those of the docstring."""
  assert claim(tmp_path, 1, 0, 5000, 60.0) is not None
  facts = attempts(tmp_path)[0].facts
  names = {"host", "boot_id", "pid_namespace", "pid", "process_started", "slurm_job", "slurm_restarts", "beat_every_s"}
  assert set(facts) == names | {"began", "beats", "examples", "total", "examples_per_s", "loss", "outcome"}
  assert facts["pid"] == os.getpid() and {f.name for f in dataclasses.fields(Attempt)} == {"generation", "text", "facts"}
