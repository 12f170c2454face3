"""The time left of a sweep, on states made by hand: after the first runs of a sweep, which are short, and of long runs with evaluations."""

import re
from pathlib import Path
from typing import Any

import pytest

from sweeps import states
from sweeps.states import RunState, RunStates, Totals


class Sweep:
  """A sweep whose clock and runs the test sets; `examples` are the lengths of its runs, all queued."""

  def __init__(self, examples: list[int], monkeypatch: pytest.MonkeyPatch):
    self.now, self.runs = 1000.0, [RunState("queued") for _ in examples]
    self.examples = examples
    monkeypatch.setattr(states.time, "monotonic", lambda: self.now)
    monkeypatch.setattr(states, "state_of", lambda path, observer: self.runs[int(path.name)])
    self.states = RunStates(Path("work"), {str(i): count for i, count in enumerate(examples)}, 60.0)
    self.states.look()

  def done(self, i: int, speed: float) -> None:
    self.runs[i] = RunState("done", examples=self.examples[i], out={"status": "done", "examples_per_s": speed})

  def running(self, i: int, examples: int, speed: float | None) -> None:
    self.runs[i] = RunState("running", examples=examples, owner={"examples_per_s": speed})

  def look(self, seconds: float) -> Totals:
    self.now += seconds
    return self.states.look()


def test_short_first_runs_do_not_stand_for_the_speed_of_long_ones(monkeypatch: pytest.MonkeyPatch):
  """The sweep of 15 runs that said 17 min when 8 s were left: models were measured for 8 s, one run has ended, the next one compiles."""
  sweep = Sweep(3 * [13_841, 27_683, 55_367, 110_734, 221_468], monkeypatch)
  sweep.now += 8
  sweep.states.begin()
  sweep.done(0, 444_698)
  sweep.running(1, 0, None)
  found = sweep.look(3.4)
  assert found.left_s is not None and 3 < found.left_s < 30
  assert re.search(r"1 done, 1 running, 13 queued, 444,698 examples/s, about \d\d s left", found.line())


@pytest.mark.parametrize("workers", [1, 2])
def test_evaluations_and_starts_count(monkeypatch: pytest.MonkeyPatch, workers: int):
  """Each run takes 100 s: it trains for 70 s, and the clock of training stands still for 30 s. Half of the second lot is over."""
  sweep = Sweep([7000] * 6, monkeypatch)
  for i in range(workers):
    sweep.done(i, 100.0)
    sweep.running(workers + i, 3500, 100.0)
  left: Any = sweep.look(150).left_s
  assert left == pytest.approx((6 / workers - 1.5) * 100, rel=0.1)


def test_before_a_run_has_ended_it_is_by_the_speed_alone(monkeypatch: pytest.MonkeyPatch):
  sweep = Sweep([7000, 7000], monkeypatch)
  assert sweep.look(5).left_s is None
  sweep.running(0, 1000, 100.0)
  assert sweep.look(500).left_s == pytest.approx(130)
