"""Fits as a table on standard output. Called by `analysis.fit`."""

from analysis.fitting.result import METHODS, Fit, interval_text
from dlrm_jax.common import terminal


def print_fits(fits: list[Fit]) -> None:
  """The fits as a table on standard output."""
  names = list(dict.fromkeys(name for fit in fits for name in fit.form.names))
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
  for method in dict.fromkeys(fit.method for fit in fits if fit.method):
    console.print(f"Intervals, {method}: {METHODS[method]}.")
  for fit in fits:
    if fit.note:
      console.print(f"{group_name(fit.group)}: {fit.note}.")


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
