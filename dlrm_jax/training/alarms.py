"""Alarms: what a run's record and curve show that a reader must know before they use its result.

`alarms_of` needs only these two, so records of earlier versions give alarms as well. Called by the loop, by the programs that
show runs, and by reports. This file does not import jax.
"""

import dataclasses
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

ONE_CLASS, WORSE_THAN_BASE_RATE, WORSE_THAN_LOGISTIC = "one_class", "worse_than_base_rate", "worse_than_logistic"
NE_ABOVE_1, EXPLODES, RISES = "ne_above_1", "first_losses_explode", "evaluation_rises"
CALIBRATION, DIVERGED = "calibration", "diverged"
CODES = (  # in the order of a list of alarms
  ONE_CLASS,
  DIVERGED,
  WORSE_THAN_BASE_RATE,
  WORSE_THAN_LOGISTIC,
  NE_ABOVE_1,
  EXPLODES,
  RISES,
  CALIBRATION,
)
EARLY = (ONE_CLASS, EXPLODES, RISES)  # reported as soon as they happen; the others are decided at the end of a run

# A run is worse than the logistic regression where its log loss is higher by 0.1% and by two standard errors of the difference, and a rise
# is an alarm from three on. Both losses are of the same examples, so that most noise is common: records hold that error (`paired.py`).
# Records of earlier versions do not. There it is taken as if the examples were different ones, which is too large.
_LOGISTIC_MARGIN, _LOGISTIC_ERRORS = 1.001, 2.0
_RISE, _RISE_ERRORS = 1.02, 3.0  # a rise is an alarm from 2% and from three of these errors on
_CALIBRATION, _CALIBRATION_ERRORS = 1.25, 3.0
_EXPLODED = 2.0  # times the base rate's log loss, after ln 2 (which every prediction of 1/2 costs) is taken off

# These mean nothing where the held-out examples hold one class only.
_OF_TWO_CLASSES = (WORSE_THAN_BASE_RATE, WORSE_THAN_LOGISTIC, NE_ABOVE_1, RISES, CALIBRATION)

_RATES = "try lower learning rates (--lr_find chooses them)"
_SCALE = "look for a dense column that is not scaled (python -m dlrm_jax.data.describe shows them)"


@dataclasses.dataclass(frozen=True)
class Alarm:
  """One alarm.

  Attributes:
    code: one of CODES.
    text: one sentence with the figures and the remedy.
  """

  code: str
  text: str


def alarms_of(out: Mapping[str, Any], curve: Sequence[Mapping[str, Any]]) -> list[Alarm]:
  """The alarms of a run, in the order of CODES. A run that failed has none.

  Args:
    out: its record. Fields that are missing or None give no alarm. During a run it holds the fields that are known: `base_rate` (the
      click rate of the training examples), `eval_examples`, `restored_examples`.
    curve: the rows of its curve, in order.
  """
  if out.get("status") == "failed":
    return []
  found = [Alarm(code, text) for code in CODES for text in _FINDERS[code](out, curve)]
  one_class = any(alarm.code == ONE_CLASS for alarm in found)
  return [alarm for alarm in found if not (one_class and alarm.code in _OF_TWO_CLASSES)]


def as_json(alarms: Sequence[Alarm]) -> list[dict[str, str]]:
  """The alarms as a record keeps them."""
  return [dataclasses.asdict(alarm) for alarm in alarms]


def lines_of(names: Mapping[str, str], alarms: Mapping[str, Sequence[Alarm]], small: Collection[str] = ()) -> list[str]:
  """One line for each code: how many runs have such an alarm, and the text of the first of them.

  Args:
    names: the names of runs by config_id, in the order of the sweep.
    alarms: the alarms of the runs that have a result, by config_id.
    small: runs that are small on purpose (`axis_names.below_largest`). They are not counted where they are worse than the logistic
      regression, which has a weight for every id.
  """
  out = []
  for code in CODES:
    apart = set(small) if code == WORSE_THAN_LOGISTIC else set[str]()
    having = {name: alarm for name in names for alarm in alarms.get(name, ()) if alarm.code == code}
    counted = [name for name in having if name not in apart]
    if counted:
      total = sum(name not in apart for name in names if name in alarms)
      more = f" ({len(having) - len(counted)} more are below the largest size of their axis)" if len(having) > len(counted) else ""
      first = counted[0]
      out.append(f"alarm {code}: {len(counted)} of {total} runs{more}, such as {names[first]}: {having[first].text}")
  return out


def _number(row: Mapping[str, Any], name: str) -> float:
  """A field as a number, NaN where it is missing. Every comparison with NaN is false."""
  value = row.get(name)
  return math.nan if value is None else float(value)


def _entropy(rate: float) -> float:
  """The log loss (nats) of a click rate that is always predicted, where clicks have that rate; NaN outside 0..1."""
  return -(rate * math.log(rate) + (1 - rate) * math.log1p(-rate)) if 0 < rate < 1 else math.nan


def _base_log_loss(row: Mapping[str, Any]) -> float:
  """The held-out log loss of the base rate. Records of earlier versions do not hold it: there it is log loss / NE, the entropy."""
  known = _number(row, "base_rate_log_loss")
  ne = _number(row, "ne")
  return known if math.isfinite(known) or not ne else _number(row, "log_loss") / ne


def _one_class(out: Mapping[str, Any], curve: Sequence[Mapping[str, Any]]) -> Iterator[str]:
  """Decided by the record, before there is one by the last evaluation: ROC AUC is undefined where examples hold one class only."""
  row = out if "roc_auc" in out else curve[-1] if curve else {}
  if "roc_auc" in row and math.isnan(_number(row, "roc_auc")) and math.isfinite(_number(row, "log_loss")):
    label = f": every label is {0 if math.isnan(_number(row, 'calibration')) else 1}" if "calibration" in row else ""
    yield (
      f"the held-out examples hold one class only{label}, so that NE and log loss say nothing of the model: make another split (prepare "
      "with --eval_from, or shuffle the log before prepare)"
    )


def _diverged(out: Mapping[str, Any], curve: Sequence[Mapping[str, Any]]) -> Iterator[str]:
  if out.get("status") == "diverged":
    yield f"the {out.get('diverged_metric', 'loss')} was not finite at step {out.get('diverged_step')}: {_RATES}, and {_SCALE}"


def _worse_than_base_rate(out: Mapping[str, Any], curve: Sequence[Mapping[str, Any]]) -> Iterator[str]:
  loss, base = _number(out, "log_loss"), _base_log_loss(out)
  if loss > base:
    rate = f" {out['base_rate']:.4g}" if out.get("base_rate") is not None else ""
    yield (
      f"worse than the base rate: the held-out log loss is {loss:.4f}, and always predicting the training click rate{rate} gives "
      f"{base:.4f}: {_RATES}, and {_SCALE}"
    )


def _worse_than_logistic(out: Mapping[str, Any], curve: Sequence[Mapping[str, Any]]) -> Iterator[str]:
  loss, logistic, count = _number(out, "log_loss"), _number(out, "logistic_log_loss"), out.get("eval_examples")
  error = _error(out, "logistic_error", (loss, logistic), _number(out, "base_rate"), count)
  if loss > logistic * _LOGISTIC_MARGIN and loss - logistic > _LOGISTIC_ERRORS * error:
    ne = f" (NE {out['ne']:.4f} against {out['logistic_ne']:.4f})" if out.get("ne") and out.get("logistic_ne") else ""
    yield (
      f"worse than a logistic regression on the same features, which has a weight for every id: the held-out log loss is {loss:.4f} "
      f"against {logistic:.4f}{ne}: {_RATES}, train on more examples, or raise --num_rows if it is below the number of ids"
    )


def _ne_above_1(out: Mapping[str, Any], curve: Sequence[Mapping[str, Any]]) -> Iterator[str]:
  ne, base = _number(out, "ne"), _base_log_loss(out)
  if ne > 1:
    better = _number(out, "log_loss") <= base
    why = "the held-out rows have another click rate than the training rows" if better else f"the model predicts nothing of use: {_RATES}"
    yield f"NE is {ne:.4f}, above 1, the NE of a constant at the training click rate: {why}"


def _explodes(out: Mapping[str, Any], curve: Sequence[Mapping[str, Any]]) -> Iterator[str]:
  if not curve or out.get("restored_examples"):
    return  # a run that branched off another one has no first losses
  loss, base = _number(curve[0], "progressive_log_loss"), _entropy(_number(out, "base_rate"))
  if loss - math.log(2) > _EXPLODED * base:
    upto = "" if curve[0].get("examples") is None else f" up to example {curve[0]['examples']:,}"
    yield (
      f"the first losses explode: {loss:.3g} nats a training example{upto}, where the base rate costs {base:.3g}: {_SCALE}, or {_RATES}"
    )


def _rises(out: Mapping[str, Any], curve: Sequence[Mapping[str, Any]]) -> Iterator[str]:
  """The largest rise from any evaluation to a later one, if it is more than the sampling error of the held-out examples."""
  losses = [(_common_log_loss(row), row["examples"], row) for row in curve if row.get("examples") is not None]
  losses = [point for point in losses if math.isfinite(point[0]) and point[0] > 0]  # 0 where float64 has no smaller number
  pairs = [(min(losses[:i], key=lambda point: point[0]), losses[i]) for i in range(1, len(losses))]
  if not pairs:
    return
  (before, low, _), (after, high, row) = max(pairs, key=lambda pair: pair[1][0] / pair[0][0])
  epochs = _number(row, "epochs")
  ratio = after / before
  count = min((row["eval_examples"] for row in curve if row.get("eval_examples")), default=out.get("eval_examples"))
  error = _error(row, "rise_error", (before, after), _number(out, "base_rate"), count)
  if ratio >= _RISE and after - before > _RISE_ERRORS * error:
    cause = "the log may drift (compare --order=shuffled), or the learning rates are too high (--lr_find)"
    if epochs > 1:
      best, at, _ = min(losses, key=lambda point: point[0])
      again = f"the likely cause is that rows are trained on again ({epochs:.3g} passes by then; try --epochs=1)"
      cause = f"{again}; the best loss, {best:.4f}, was after {at:,} examples"
    percent = f"+{100 * (ratio - 1):.1f}%"
    yield f"the held-out loss rises: {before:.4f} after {low:,} examples, {after:.4f} after {high:,} ({percent}): {cause}"


def _common_log_loss(row: Mapping[str, Any]) -> float:
  """The log loss of the held-out examples that all evaluations of a run predict. The last evaluation may predict more."""
  return _number(row, "log_loss" if row.get("common_log_loss") is None else "common_log_loss")


def _error(row: Mapping[str, Any], name: str, losses: Sequence[float], rate: float, count: int | None) -> float:
  """The standard error of the difference of two mean losses: the measured one, or that of different examples."""
  known = _number(row, name)
  return known if math.isfinite(known) else math.hypot(*(standard_error(loss, rate, count) for loss in losses))


def standard_error(loss: float, rate: float, count: int | None) -> float:
  """A standard error of a mean log loss (nats), on the safe side: the losses scatter by their mean and by what a click costs.

  Args:
    loss: the mean.
    rate: the click rate. Unless it is between 0 and 1, the error is 0.
    count: examples; None or 0: not known, and the error is 0.
  """
  if not count or not 0 < rate < 1:
    return 0.0
  return math.hypot(loss, math.sqrt(rate * (1 - rate)) * abs(math.log(rate / (1 - rate)))) / math.sqrt(count)


def _miscalibrated(out: Mapping[str, Any], curve: Sequence[Mapping[str, Any]]) -> Iterator[str]:
  calibration, rate, count = _number(out, "calibration"), _number(out, "base_rate"), out.get("eval_examples")
  if not calibration >= 0:
    return
  error = math.sqrt((1 - rate) / (rate * count)) if count and 0 < rate < 1 else 0.0  # relative, of the number of held-out clicks
  far = not 1 / _CALIBRATION <= calibration <= _CALIBRATION
  if far and abs(calibration - 1) > _CALIBRATION_ERRORS * error:
    yield (
      f"calibration is {calibration:.3g}: the mean prediction is {calibration:.3g} times the held-out click rate: the click rate may have "
      "changed since the training rows, or the learning rates are too high (--lr_find)"
    )


_FINDERS: dict[str, Callable[[Mapping[str, Any], Sequence[Mapping[str, Any]]], Iterator[str]]] = {
  ONE_CLASS: _one_class,
  DIVERGED: _diverged,
  WORSE_THAN_BASE_RATE: _worse_than_base_rate,
  WORSE_THAN_LOGISTIC: _worse_than_logistic,
  NE_ABOVE_1: _ne_above_1,
  EXPLODES: _explodes,
  RISES: _rises,
  CALIBRATION: _miscalibrated,
}
