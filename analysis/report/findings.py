"""The findings of a report, in sentences: drift along the log, data laws, advice. Each is decided by measured points first.

Called by the page and by the terminal's output.
"""

from analysis.fitting.result import STATUS_WORDS, estimate_text
from analysis.load import same_rows
from analysis.questions.curves import Curve
from analysis.questions.drift import REMEDY
from analysis.questions.sweep_laws import LawRow
from analysis.report.analysis import Analysis
from analysis.report.tables import short

_ONE_ORDER = (
  " All seeds read the same rows in the same order, so that a wiggle which they share counts against the law. "
  "Remedy: an order of its own for each seed (--order=shuffled)."
)
_MOST_REASONS = 12  # laws whose reasons the page lists


def findings(found: Analysis) -> list[str]:
  """Every finding, what forbids a law before the laws."""
  sentences = _drifts(found.curves)
  one_order = {(c.workload, c.learner, c.axis, c.size) for c in found.curves if same_rows(c.points)}
  passes = {(row.workload, row.learner) for row in found.rows if row.axis == "data"}
  for row in found.laws:
    # Where no curve is one pass, the law over the sizes of the data axis, each a run of its own, is the data law.
    trained_anew = row.x == "size" and (row.workload, row.learner) not in passes
    if row.axis == "data" and (row.x == "examples" or trained_anew):
      sentences.append(_data_law(row, (row.workload, row.learner, row.axis, row.size) in one_order))
  sentences += [f"{law.workload}, {law.learner}: {law.verdict}." for law in found.ne]
  sentences += [f"{model.name}: {model.verdict}." for model in found.repeats]
  sentences += [f"{advice.workload}: {advice.verdict}" for advice in found.advice]
  return sentences + ([f"No advice: {found.no_advice}."] if found.no_advice else [])


def _drifts(curves: list[Curve]) -> list[str]:
  """One sentence a workload and learner whose log drifts, with the figures that show it."""
  out = []
  for drift in dict.fromkeys(curve.drift for curve in curves):
    if drift is None or not drift.drifts:
      continue
    first, last = drift.window
    losses = f"held-out log loss {drift.held_out[0]:.4g} at {short(first)} and {drift.held_out[1]:.4g} at {short(last)} examples"
    if drift.progressive is not None:
      losses += f", progressive {drift.progressive[0]:.4g} and {drift.progressive[1]:.4g}"
    pooled = f" ({drift.configurations} configurations together)" if drift.configurations > 1 else ""
    place = f"{drift.workload}, {drift.learner}"
    out.append(f"{place}: {drift.short}{pooled}. Its passes are no data law: {drift.reason} ({losses}). Remedy: {REMEDY}.")
  return out


def _data_law(row: LawRow, one_order: bool) -> str:
  """The exponent of a data law, or why there is none, with the remedy where all seeds read the same rows in the same order."""
  place = f"{row.workload}, {row.learner}"
  fit = row.fit
  if fit.refused:
    return f"{place}: no data law: {fit.status.removeprefix('refused: ')}."
  if fit.status == "misfit":
    return f"{place}: no data law: {fit.reason}.{_ONE_ORDER if one_order and fit.num_seeds > 1 else ''}"
  theory = f", theory {row.theory_beta:.3f}" if row.theory_beta is not None else ""
  limits = {"not_identifiable": " (the points do not determine it)", "on_bound": f" ({fit.reason})"}
  text = estimate_text(fit, "beta").replace(f" ({STATUS_WORDS.get(fit.status, '')})", "")
  return f"{place}: data exponent {text}{theory}{limits.get(fit.status, '')}."


def law_reasons(laws: list[LawRow]) -> list[str]:
  """Notes on laws that a reader must know: all of the data axis, and why points contradict a law of another axis."""
  notes = [f"{row.fit.group}: {row.fit.note}." for row in laws if row.fit.note and row.axis == "data"]
  others = [f"{row.fit.group}: {row.fit.reason}." for row in laws if row.fit.status == "misfit" and row.axis != "data"]
  more = [f"{len(others) - _MOST_REASONS} more laws that the points contradict are in laws.json."] if len(others) > _MOST_REASONS else []
  return list(dict.fromkeys([*notes, *others[:_MOST_REASONS], *more]))
