"""Fits as a table on standard output. Called by `analysis.fit`."""

from analysis.fitting.result import METHODS, Fit, interval_text
from analysis.questions.joint_fit import JOINT
from analysis.questions.predictions import Prediction
from analysis.questions.rivals import Rival, better_law
from dlrm_jax.common import terminal

_MOST_COMPARED = 12  # groups up to which the comparison of laws is shown of all


def print_fits(fits: list[Fit]) -> None:
  """The fits as a table on standard output."""
  names = list(dict.fromkeys(name for fit in fits for name in (fit.params or _names(fit))))
  columns, rows = (
    ("group", "law", "window", "points", "seeds", *names, "objective", "held-out error", "mean |held-out error|", "status"),
    [],
  )
  for fit in fits:
    window = "-" if fit.x_min is None else f"{fit.x_min:.4g} to {fit.x_max:.4g}"
    held_out, mean_held_out = "-", "-"
    if fit.extrapolation is not None:
      held_out, mean_held_out = f"{fit.extrapolation['relative_error']:+.2%}", f"{fit.extrapolation['mean_abs_relative_error']:.2%}"
    objective = "-" if fit.objective is None else f"{fit.objective:.4g}"
    cells = [_cell(fit, name) for name in names]
    rows.append(
      [group_name(fit.group), fit.law, window, fit.num_points, fit.num_seeds, *cells, objective, held_out, mean_held_out, fit.status]
    )
  console = terminal.console(200)
  terminal.show(console, "Estimates with 95% intervals; ? is an end that the points leave open", columns, rows)
  for fit in (fit for fit in fits if fit.laws):
    _print_laws(console, fit)
  for method in dict.fromkeys(fit.method for fit in fits if fit.method):
    console.print(f"Intervals, {method}: {METHODS[method]}.")
  for fit in fits:
    if fit.note:
      console.print(f"{group_name(fit.group)}: {fit.note}.")


def _names(fit: Fit) -> tuple[str, ...]:
  """The parameters of a law that may be refused; those of averaged laws have a table of their own."""
  return () if fit.law == JOINT else fit.form.names


def _print_laws(console: terminal.Console, fit: Fit) -> None:
  """The laws that are averaged, with their weights."""
  names = list(dict.fromkeys(name for law in fit.laws for name in law["params"]))
  cells = [
    [law["law"], f"{law['weight']:.0%}", *(f"{law['params'][name]:.4g}" if name in law["params"] else "-" for name in names)]
    for law in fit.laws
    if law["weight"]
  ]
  terminal.show(console, f"{group_name(fit.group)}: joint laws by weight", ("law", "weight", *names), cells)
  for law in fit.laws:
    if law["left_out"]:
      console.print(f"{group_name(fit.group)}: {law['law']} is left out, because the points contradict it: {law['left_out']}.")


def print_predictions(predictions: list[Prediction]) -> None:
  """The predictions as a table on standard output, and why others are not made."""
  console = terminal.console(200)
  made = [p for p in predictions if p.y is not None]
  if made:
    names = list(made[0].at)
    cells = [[group_name(p.group), *(f"{p.at[name]:.6g}" for name in names), _beyond(p), _interval(p)] for p in made]
    title = "Predicted mean losses with 95% intervals, which include the noise and how the law missed larger points before"
    terminal.show(console, title, ("group", *names, "beyond the points", "loss"), cells)
  for p in predictions:
    if p.reason:
      at = ", ".join(f"{name}={value:.6g}" for name, value in p.at.items())
      console.print(f"{group_name(p.group)}: no prediction at {at}: {p.reason}.")


def _beyond(p: Prediction) -> str:
  return "within" if p.beyond is None or p.beyond <= 1 else f"{p.beyond:.3g}x"


def _interval(p: Prediction) -> str:
  return f"{p.y:.5g} [{p.ci_low:.5g}, {p.ci_high:.5g}]"


def print_rivals(rivals: list[list[Rival]]) -> None:
  """The laws compared on the points of each group as a table; of many groups, only those where another law is clearly better."""
  shown = rivals if len(rivals) <= _MOST_COMPARED else [found for found in rivals if better_law(found)]
  rows = []
  for rival in (rival for found in shown for rival in found):
    behind = "-" if rival.behind is None else f"{rival.behind:.1f}"
    held_out = "-" if rival.held_out_error is None else f"{rival.held_out_error:.2%}"
    name = f"{rival.law} (fitted)" if rival.asked else rival.law
    rows.append([group_name(rival.group), name, rival.num_params, behind, held_out, rival.reason])
  console = terminal.console(200)
  if rows:
    columns = ("group", "law", "parameters", "AICc above the best", "mean |held-out error|", "no fit because")
    terminal.show(console, "Laws compared on the same points: estimates without intervals", columns, rows)
  if len(shown) < len(rivals):
    console.print(f"In {len(rivals) - len(shown)} of {len(rivals)} groups no other law is clearly better.")


def _cell(fit: Fit, name: str) -> str:
  """One parameter with its interval, and how it is borrowed."""
  how = fit.borrowed.get(name, "")
  if fit.refused or not how:
    return interval_text(fit.params.get(name))
  if how == "fixed":
    return f"{fit.params[name].estimate:.4g} (fixed)"
  return f"{interval_text(fit.params[name])} ({how})"


def group_name(group: str) -> str:
  """A group's name for people: a cell of the group column may be blank."""
  return group or "(blank)"
