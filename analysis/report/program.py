"""The program behind `python -m analysis.report`: its flags, and the files that it writes."""

import dataclasses
from pathlib import Path
from typing import Any

from analysis.fitting.laws import LAWS
from analysis.load import KEPT_SUFFIX
from analysis.report.analysis import Analysis, analyse
from analysis.report.findings import findings
from analysis.report.tables import print_tables
from dlrm_jax.common import flags, record
from dlrm_jax.common.progress import Bar, say
from dlrm_jax.training.alarms import as_json


@dataclasses.dataclass(frozen=True)
class ReportConfig:
  """Flags of `python -m analysis.report`."""

  workdir: str = flags.option(help="directory of a sweep (sweep.json, runs/) or of one run (record.json), or a file of analysis.kept")
  output: str = flags.option("", "directory of the report; WORKDIR/report when empty")
  law: str = flags.option(
    "auto",
    "law fitted to every curve; auto: power where the constant is known to be 0, else power_constant",
    ("auto", *(name for name, law in LAWS.items() if law.num_x == 1)),
  )
  x_min: float | None = flags.option(
    None, "smallest number of examples fitted; by default 2**17 on planted data (all if too few are left), else a 64th of the run"
  )
  x_max: float | None = flags.option(None, "largest number of examples that data laws are fitted to")

  def __post_init__(self) -> None:
    flags.check_fields(self)
    flags.check(bool(self.workdir), self, "workdir", "a directory")
    if self.x_min is not None and self.x_max is not None:
      flags.check(self.x_min < self.x_max, self, "x_min", f"below --x_max={self.x_max:g}")


def main(config: ReportConfig) -> None:
  if Path(config.workdir).is_file() and config.workdir.endswith(KEPT_SUFFIX) and not config.output:
    raise flags.UserError(f"--output=: give a directory, since --workdir={config.workdir} is a file")
  found = analyse(config.workdir, config.law, config.x_min, config.x_max)
  output = Path(config.output or found.everything.path / "report")

  from analysis.report import document, plots, rates_figure  # Altair is slow to import: not before the input is known to be good
  from dlrm_jax.common.figures import render

  say("drawing the figures of the report")
  figures = plots.figures(found.sweep, found.rows, found.sizes, found.schemes, found.speeds)
  figures += rates_figure.figures(found.rates)
  with Bar("drawing", len(figures)) as bar:
    for figure in figures:
      render.write_figures(output, [figure])
      bar(1)
  record.write_text(output / "points.csv", found.everything.evaluations().write_csv())
  record.write_json(output / "laws.json", record.header() | _contents(found))
  record.write_text(output / "index.html", document.document(found, figures))
  print_tables(found.laws, found.tables)
  for line in (*findings(found), *found.warnings):
    print(line)
  print(f"report: {output / 'index.html'}")


def _contents(found: Analysis) -> dict[str, Any]:
  """What `laws.json` holds after its header."""
  sweep = found.everything
  left_out = {"not_done": list(sweep.not_done), "diverged": list(sweep.diverged), "failed": list(sweep.failed)}
  out: dict[str, Any] = {"num_runs": sweep.num_done, **left_out, "fits": [row.as_dict() for row in found.laws]}
  out |= {"parts": found.parts, "throughput": found.speeds, "learning_rates": [choice.as_dict() for choice in found.choices]}
  out["repeated_data"] = [model.as_dict() for model in found.repeats]
  out["ne_laws"] = [law.as_dict() for law in found.ne]
  out["rate_laws"] = [law.as_dict() for law in found.rates]
  out |= {"schemes": [row.as_dict() for row in found.schemes], "comparison": [c.as_dict() for c in found.compared]}
  drifts = dict.fromkeys(curve.drift for curve in found.curves)
  out |= {"drift": [drift.as_dict() for drift in drifts if drift is not None], "findings": findings(found)}
  out["alarms"] = [{"config_id": name, **entry} for name, alarms in sweep.alarms.items() for entry in as_json(alarms)]
  return out | {"advice": [a.as_dict() for a in found.advice]}
