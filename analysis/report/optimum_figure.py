"""The figure of `analysis.optimum`: training curves with their envelope, isoFLOP profiles with their minima, and the best size by budget.

Importing this module loads Altair, which is slow.
"""

import shlex
from pathlib import Path
from typing import Any

import altair as alt
import numpy as np

from analysis.fitting.optimum_law import Budget
from analysis.load import evenly
from analysis.questions.approaches import NAMES, Approach
from analysis.questions.common_budgets import Compared
from analysis.questions.isoflop import Profiles, stretched
from analysis.questions.optimum_runs import Runs
from analysis.questions.winners import Envelope, Winner
from dlrm_jax.common import record
from dlrm_jax.common.figures import chart, page
from dlrm_jax.common.figures.render import Figure, png, svg
from dlrm_jax.common.terminal import Table

_CAPTION = (
  "Training curves and the least loss at each budget; loss against size at each budget, with the fitted profile and its minimum; the best "
  "size by budget and its law by each approach, with 95% intervals."
)
_POINTS = 60  # of a drawn line
_APART = 1.3  # factor by which the intervals of the approaches are drawn apart
_FLOPS = "format(datum.value, '.0e')"  # labelExpr of an axis of FLOPs
_MOST = 40  # training curves that are drawn, at most


def figure(
  runs: Runs,
  budget: Budget,
  found: list[Approach],
  envelope: Envelope | None,
  mine: list[Winner],
  profiles: Profiles | None,
  given: Compared | None,
) -> Figure | None:
  """The figure of the approaches that were used; None where there is nothing to draw."""
  panels = []
  if envelope is not None and len(envelope.flops):
    panels.append(_curves(runs, envelope))
  if profiles is not None and given is not None:
    panels.append(_profiles(runs, profiles, given))
  if any(not a.refused for a in found):
    panels.append(_sizes(runs, budget, found, mine, profiles))
  if not panels:
    return None
  return Figure("optimum", "The best size by budget", _CAPTION, chart.finish(panels, 2, own_colors=True))


def write_figure(path: Path, drawn: Figure, table: Table, lines: list[str]) -> None:
  """Writes the figure as SVG, PNG, or an offline page with the table and what it says."""
  if path.suffix == ".html":
    body = page.render("analysis.report", "optimum.html", command=shlex.join(record.command()), table=table, lines=lines, figure=drawn)
    record.write_text(path, page.page("The best size by budget", "approaches 1 to 3 of Hoffmann et al. 2022", body, [drawn]))
  elif path.suffix == ".png":
    record.write_bytes(path, png(svg(drawn.spec)))
  else:
    record.write_text(path, svg(drawn.spec))


def _size_title(runs: Runs) -> str:
  return "N" if runs.names[0] == "N" else f"N: {runs.names[0]}"


def _curves(runs: Runs, envelope: Envelope) -> Any:
  """Loss against FLOPs of every run, one colour a size, and the envelope."""
  assert runs.run is not None
  rows: list[dict[str, Any]] = []
  names = evenly([str(name) for name in np.unique(runs.run)], _MOST)
  for name in names:
    mine = np.flatnonzero(runs.run == name)
    mine = mine[np.argsort(runs.flops[mine])]
    rows += [{"flops": float(runs.flops[i]), "loss": float(runs.loss[i]), "size": float(runs.params[i]), "run": name} for i in mine]
  least = [{"flops": float(c), "loss": float(np.exp(v))} for c, v in zip(envelope.flops, envelope.log_loss, strict=True)]
  x = chart.log_axis(alt.X, "flops", "training FLOPs", [r["flops"] for r in rows], label=_FLOPS)
  y = chart.log_axis(alt.Y, "loss", runs.names[2], [r["loss"] for r in rows], label=chart.PLAIN)
  color = alt.Color("size:Q", title=runs.names[0], scale=alt.Scale(type="log", range="ordinal"), legend=None)
  line = alt.Chart(chart.data(rows)).mark_line(strokeWidth=1, opacity=0.7).encode(x=x, y=y, color=color, detail="run:N")
  edge = alt.Chart(chart.data(evenly(least, _POINTS))).mark_line(style="theory", strokeWidth=2.2, strokeDash=[5, 3]).encode(x=x, y=y)
  return alt.layer(line, edge).properties(width=300, height=290, title="Training curves, least loss dashed")


def _profiles(runs: Runs, profiles: Profiles, given: Compared) -> Any:
  """Loss against size at each budget, with the fitted profile and its minimum."""
  points: list[dict[str, Any]] = []
  lines: list[dict[str, Any]] = []
  minima: list[dict[str, Any]] = []
  for p in profiles.every:
    budget = f"{p.flops:.3g}" + (", left out" if p.left_out else "")
    sizes, losses = np.exp(given.log_n[p.index]), np.exp(given.log_l[p.index])
    points += [{"size": float(n), "loss": float(y), "budget": budget} for n, y in zip(sizes, losses, strict=True)]
    if not p.left_out:
      u = np.linspace(given.log_n[p.index].min(), given.log_n[p.index].max(), _POINTS)
      c, b, d = p.bend
      v = stretched(u - p.origin, profiles.skew)
      lines += [
        {"size": float(s), "loss": float(y), "budget": budget} for s, y in zip(np.exp(u), np.exp(c + b * v + d * v**2), strict=True)
      ]
      minima.append({"size": float(np.exp(p.best)), "loss": float(np.exp(p.loss)), "budget": budget})
  x = chart.log_axis(alt.X, "size", _size_title(runs), [p["size"] for p in points])
  y = chart.log_axis(alt.Y, "loss", runs.names[2], [p["loss"] for p in points], label=chart.PLAIN)
  domain = list(dict.fromkeys(p["budget"] for p in points))
  color = alt.Color("budget:O", title="FLOPs", scale=alt.Scale(domain=domain), legend=alt.Legend())
  layers = [alt.Chart(chart.data(points)).mark_point(size=18, opacity=0.6).encode(x=x, y=y, color=color)]
  if lines:
    layers.append(alt.Chart(chart.data(lines)).mark_line(strokeWidth=1.4).encode(x=x, y=y, color=color, detail="budget:N"))
    layers.append(alt.Chart(chart.data(minima)).mark_point(style="theory", size=90, shape="diamond", opacity=1).encode(x=x, y=y))
  return alt.layer(*layers).properties(width=300, height=290, title="IsoFLOP profiles and their minima")


def _sizes(runs: Runs, budget: Budget, found: list[Approach], mine: list[Winner], profiles: Profiles | None) -> Any:
  """The best size against the budget: winners and minima, the line of each approach, the intervals at the budget."""
  names = {a.number: f"{a.number}: {NAMES[a.number]}" for a in found if not a.refused}
  points: list[dict[str, Any]] = [
    {"flops": w.flops, "size": w.params, "low": w.params, "high": w.params, "approach": names[1]} for w in mine if 1 in names
  ]
  if profiles is not None and 2 in names:
    for row in (row for row in profiles.entries() if not row["left_out"]):
      low, high = (row[end] if np.isfinite(row[end]) else row["N"] for end in ("ci_low", "ci_high"))
      points.append({"flops": row["flops"], "size": row["N"], "low": low, "high": high, "approach": names[2]})
  spent = [budget.flops, *([p["flops"] for p in points] or [float(runs.flops.min())])]
  ends = np.geomspace(min(spent), max(spent), 2)
  lines: list[dict[str, Any]] = []
  at: list[dict[str, Any]] = []
  for a in (a for a in found if not a.refused):
    n, power = a.params["N"], a.params["a"].estimate
    best = n.estimate * (ends / budget.flops) ** power
    lines += [{"flops": float(c), "size": float(v), "approach": names[a.number]} for c, v in zip(ends, best, strict=True)]
    low, high = (n.estimate if end is None else end for end in (n.ci_low, n.ci_high))
    at.append({"flops": budget.flops * _APART ** len(at), "size": n.estimate, "low": low, "high": high, "approach": names[a.number]})
  every = points + lines + at
  x = chart.log_axis(alt.X, "flops", "training FLOPs", [p["flops"] for p in every], label=_FLOPS)
  reach = [p["size"] for p in every] + [p[end] for p in points + at for end in ("low", "high")]
  y = chart.log_axis(alt.Y, "size", _size_title(runs), reach)
  color = alt.Color("approach:N", title=None, scale=alt.Scale(domain=list(names.values())), legend=alt.Legend(orient="top-left"))
  layers = [alt.Chart(chart.data(lines)).mark_line(strokeWidth=1.4).encode(x=x, y=y, color=color)]
  if points:
    layers.append(alt.Chart(chart.data(points)).mark_rule(opacity=0.6).encode(x=x, y=alt.Y("low:Q"), y2="high:Q", color=color))
    layers.append(alt.Chart(chart.data(points)).mark_point(size=40).encode(x=x, y=y, color=color))
  layers.append(alt.Chart(chart.data(at)).mark_rule(strokeWidth=2.5).encode(x=x, y=alt.Y("low:Q"), y2="high:Q", color=color))
  return alt.layer(*layers).properties(width=330, height=290, title="The best size by budget")
