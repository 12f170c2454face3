"""How a run of a sweep stands: its record and its claims read together, in one place for whoever does runs and whoever watches."""

import dataclasses
from pathlib import Path
from typing import Any

from sweeps import claims, store


@dataclasses.dataclass(frozen=True)
class Standing:
  """A run as it was found.

  Attributes:
    state: done, diverged (results); failed (the last attempt did, or too many were lost); running; queued.
    known: False where the owner of a running one has not yet been seen to live.
    generation: the highest claim; 0 without any.
    counted: attempts that count towards --max_attempts, of a run that nobody does now.
    lost: the last attempt ended without a word, which no record tells yet.
    examples: seen so far (running) or by the newest checkpoint (queued, failed).
    owner: what the claim of a running one says: host, examples_per_s, loss.
    out: the record, where there is a sound one.
  """

  state: str
  known: bool = True
  generation: int = 0
  counted: int = 0
  lost: bool = False
  examples: int = 0
  owner: dict[str, Any] = dataclasses.field(default_factory=dict)
  out: dict[str, Any] | None = None


def stand(directory: Path, observer: claims.Observer) -> Standing:
  """How a run stands now. The claims are read first: an owner writes its record before it says that it has ended."""
  history = claims.attempts(directory)
  try:
    out = store.read_run(directory)
  except store.DamagedRun:
    out = None  # done again; whoever claims it moves it aside and says so
  generation = history[-1].generation if history else 0
  if out and out["status"] in store.RESULTS:
    return Standing(out["status"], generation=generation, examples=out["examples"], out=out)
  lives = observer.lives(directory, history[-1]) if history and history[-1].outcome is None else False
  saved = store.saved_examples(directory)
  if lives is not False:
    owner = history[-1].facts
    return Standing("running", lives is True, generation, examples=owner.get("examples", 0), owner=owner, out=out)
  state = "failed" if out else "queued"
  lost = bool(history) and history[-1].outcome is None
  return Standing(state, True, generation, claims.counted(history, saved), lost, saved, out=out)


def told(out: dict[str, Any]) -> str:
  """How a run ended, in one line."""
  if out["status"] == "failed":
    return f"FAILED, {out['error']['type']}: {(out['error']['message'].splitlines() or [''])[0]}"
  if out["status"] == "diverged":
    return f"DIVERGED, {out['diverged_metric']} at step {out['diverged_step']}"
  scores = ", ".join(f"{name} {out[name]:.4f}" for name in ("ne", "excess") if out[name] is not None)
  return f"{scores}, {out['wall_s']:.0f} s, {out['examples_per_s']:,.0f} examples/s"
