"""What the approaches to the compute optimum find, as a table and as sentences. Called by `analysis.optimum`."""

from typing import Any

from analysis.fitting.optimum_law import Budget
from analysis.fitting.result import interval_text
from analysis.questions.approaches import NAMES, Approach, overlaps
from analysis.questions.isoflop import Profiles
from analysis.questions.optimum import beyond, width
from analysis.questions.optimum_runs import Runs
from dlrm_jax.common.text import number_of

_COLUMNS = ["approach", "fitted to", "a (N grows as C^a)", "N", "D", "D/N", "loss"]
_QUANTITIES = {"a": "the exponent a", "N": "N at this budget"}


def approach_table(found: list[Approach], runs: Runs, budget: Budget) -> tuple[str, list[str], list[list[Any]]]:
  """Title, columns and rows of the table."""
  title = f"The best split of {budget.flops:.4g} FLOPs, with 95% intervals; N, D and the loss are {', '.join(runs.names)}"
  rows = []
  for one in found:
    name = f"{one.number}: {NAMES[one.number]}"
    if one.refused:
      rows.append([name, one.points or "-", "none", *["-"] * (len(_COLUMNS) - 3)])
    else:
      cells = [interval_text(one.params.get(key), 3 if key != "loss" else 4) for key in ("a", "N", "D", "D_per_N", "loss")]
      rows.append([name, one.points, *cells])
  return title, _COLUMNS, rows


def agreement(found: list[Approach], budget: Budget, reach: float) -> list[str]:
  """Sentences: where the intervals of the approaches overlap, and what a reader must know. `reach`: FLOPs of the most expensive point."""
  out = [f"Approach {one.number} gives nothing: {one.refused}." for one in found if one.refused]
  apart = False
  for key, name in _QUANTITIES.items():
    pairs = overlaps(found, key)
    agree, differ = ([f"{a} and {b}" for a, b, same in pairs if same is want] for want in (True, False))
    apart |= bool(differ)
    if agree and not differ:
      out.append(f"Approaches {_listed(agree)} agree on {name}: their 95% intervals overlap.")
    elif differ:
      also = f"; those of {_listed(agree)} do" if agree else ""
      out.append(f"Approaches {_listed(differ)} disagree on {name}: their 95% intervals do not overlap{also}.")
  if apart:
    out.append(
      "At least one approach is off by more than its interval: 1 by its grid of sizes, 2 by the shape of its profiles, 3 by its law. "
      "Their intervals include the noise only. Train runs nearer to the budget before it is spent."
    )
  for one in (a for a in found if not a.refused):
    out += [f"Approach {one.number}: {note}." for note in one.notes]
    if text := width(one.params):
      out.append(f"Approach {one.number}: {text[0].lower()}{text[1:]}")
  if text := beyond(budget, reach, "the power of the budget or the law"):
    out.append(text)
  return out


def left_out(found: Profiles, missing: tuple[float, ...]) -> list[str]:
  """Sentences on approach 2: the runs of each budget, and the budgets without a minimum, or without a run (`missing`)."""
  kept = [f"{p.flops:.3g} ({len(p.index)})" for p in found.kept]
  out = [f"Approach 2: budgets in FLOPs, in brackets their points: {', '.join(kept)}."] if kept else []
  bad = [p for p in found.every if p.left_out]
  out += [f"Approach 2: {p.flops:.3g} FLOPs ({number_of(len(p.index), 'point')}) are left out: {p.left_out}." for p in bad]
  out += [f"Approach 2: {flops:.3g} FLOPs are left out: no run has them." for flops in missing]
  if found.skew_error:
    out.append(f"Approach 2: the profiles share a skew of {found.skew:.2g} ± {found.skew_error:.1g} (0 is a parabola in log N).")
  return out


def _listed(words: list[str]) -> str:
  return ", ".join(words)
