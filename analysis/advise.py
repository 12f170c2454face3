"""Advises how to spend a larger budget: on examples, rows, dim, overarch or bottom MLP, with intervals, or that the data cannot tell.

  python -m analysis.advise --workdir=DIR --budget_flops=1e13 [--target_loss=0.75] [--output=advice.json]
  python -m analysis.advise --workdir=DIR --budget_examples=1e7

Joint laws of examples and sizes are fitted to all training passes, and weighted by their errors on larger runs than those fitted.
They predict the loss of each way to spend the budget. The budget is the training FLOPs of one run, or the number of examples that cost as
many at the base model. Intervals come from fits to 200 sweeps drawn from the laws with the noise of the seeds. They include how far the
laws are from the measured ends, and how fast the errors on larger runs grew with the distance. Gains are against the base's measured loss.
Where the points contradict every law, or the log drifts, there is no advice and the reason is printed (exit code 2 if no workload has any).
"""

import dataclasses
from pathlib import Path

from analysis.load import load
from analysis.questions.additive import Refused, models
from analysis.questions.advice import advise, option_rows, to_reach
from analysis.questions.base_run import Base
from analysis.questions.tuning import tuned
from dlrm_jax.common import flags, record, terminal


@dataclasses.dataclass(frozen=True)
class AdviseConfig:
  """Flags of `python -m analysis.advise`."""

  workdir: str = flags.option(help="directory of a sweep (sweep.json, runs/) with at least one model axis")
  budget_flops: float | None = flags.option(None, "training FLOPs of the next run", above=0)
  budget_examples: float | None = flags.option(None, "the budget as the number of examples that cost it at the base model", above=0)
  target_loss: float | None = flags.option(
    None, "also print the least budget that reaches this loss (excess on planted data, else NE)", above=0
  )
  output: str = flags.option("", "JSON file to write the advice to; none when empty")

  def __post_init__(self) -> None:
    flags.check_fields(self)
    flags.check(bool(self.workdir), self, "workdir", "a directory")
    if (self.budget_flops is None) == (self.budget_examples is None):
      raise flags.UserError("--budget_flops, --budget_examples: give one of the two")


def times_of(config: AdviseConfig, base: Base) -> float:
  """The budget over the base run's. Raises UserError where it is not larger."""
  if config.budget_flops is not None:
    if config.budget_flops <= base.flops:
      raise flags.UserError(f"--budget_flops={config.budget_flops:g}: must be above the {base.flops:g} of the base run")
    return config.budget_flops / base.flops
  assert config.budget_examples is not None
  if config.budget_examples <= base.examples:
    raise flags.UserError(f"--budget_examples={config.budget_examples:g}: must be above the {base.examples:g} of the base run")
  return config.budget_examples / base.examples


def main(config: AdviseConfig) -> None:
  sweep, _ = tuned(load(config.workdir))
  found, console, fitted = [], terminal.console(160), models(sweep)
  none = all(isinstance(model, Refused) for model in fitted)  # then the error below says why
  for model in fitted:
    if isinstance(model, Refused):
      advice = advise(model, float("nan"))
      found.append(advice.as_dict())
      for line in (*([] if none else [advice.verdict]), *advice.notes):
        console.print(f"{model.workload}: {line}")
      continue
    advice = advise(model, times_of(config, model.base))
    found.append(advice.as_dict())
    title = f"{model.workload}: {advice.times:,.4g} times the base run's {advice.base['flops']:.3g} FLOPs, by {model.metric}"
    terminal.show(console, title, *option_rows(advice))
    for line in (advice.verdict, *advice.notes):
      console.print(line)
    if config.target_loss is not None:
      found[-1]["target"] = to_reach(model, config.target_loss)
      console.print(f"A loss of {found[-1]['target']}")
  if config.output:
    record.write_json(Path(config.output), record.header() | {"advice": found})
  if none:
    raise flags.UserError("; ".join(f"{entry['workload']}: {entry['verdict']}" for entry in found))


if __name__ == "__main__":
  flags.run(main, AdviseConfig)
