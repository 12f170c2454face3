"""The first minutes on a machine: whether results are right, how fast it is, and where time is lost, on any CPU, GPU or TPU.

  python -m benchmarks.accelerator --output=runs/accelerator                     # every section, within 460 seconds
  python -m benchmarks.accelerator --output=runs/accelerator --sections=env,correct,w1 --budget_s=200
  python -m benchmarks.compare a/results.json b/results.json                     # compares two machines

Sections run in order of value, each in a process of its own with a time limit. What they find is in OUTPUT/results.json after each of them.
When time runs out, the last ones are left out. At the end OUTPUT/summary.txt and OUTPUT/summary.html say what was found.
"""

import dataclasses
import os
import sys
from pathlib import Path

from benchmarks.accelerator import readme, runner, summary
from benchmarks.accelerator.findings import is_right
from benchmarks.accelerator.sections import SECTIONS
from dlrm_jax.common import flags, markdown, record
from dlrm_jax.common.flags import UserError, option
from dlrm_jax.common.progress import say
from dlrm_jax.common.starting import EXIT_CODE
from dlrm_jax.machine.device_files import accelerators

_CPU_SLOWER = 6.0  # times the limits of sections on a machine without an accelerator


@dataclasses.dataclass(frozen=True)
class AcceleratorConfig:
  """Flags of `python -m benchmarks.accelerator`."""

  output: str = option("", "directory for results.json, summary.txt, summary.html and logs; required, except with --markdown")
  sections: tuple[str, ...] = option(
    tuple(SECTIONS), "what is measured: " + "; ".join(f"{name}: {section.about}" for name, section in SECTIONS.items()), tuple(SECTIONS)
  )
  budget_s: float = option(460.0, "seconds for all sections", above=0)
  size: str = option("full", "tiny: small sizes that try the program; their times mean nothing", ("full", "tiny"))
  markdown: str = option("", "only put the table of benchmarks/results between <!-- new-machine --> and <!-- /new-machine --> of this file")

  def __post_init__(self) -> None:
    flags.check_fields(self)
    flags.check(bool(self.output or self.markdown), self, "output", "a directory")
    flags.check(len(set(self.sections)) == len(self.sections) > 0, self, "sections", "each section once, one at least")


def main(config: AcceleratorConfig) -> None:
  """Runs the sections and writes the summary. Exits with 1 where a result is wrong, none was checked, or a section failed."""
  if config.markdown:
    markdown.check_markers(config.markdown, readme.SECTION)
    markdown.write(config.markdown, readme.SECTION, readme.section())
    return
  output = Path(config.output)
  if output.exists() and not output.is_dir():
    raise UserError(f"--output={output}: must be a directory")
  output.mkdir(parents=True, exist_ok=True)
  todo = [section for section in SECTIONS.values() if section.name in config.sections]
  slower = 1.0 if accelerators() and os.environ.get("JAX_PLATFORMS") != "cpu" else _CPU_SLOWER
  try:
    ended = runner.run(todo, output.absolute(), config.budget_s, config.size == "tiny", slower)
  except KeyboardInterrupt:
    say(f"interrupted: {output}/{runner.RESULTS} has the sections that ended; the same command begins anew and replaces them")
    sys.exit(EXIT_CODE)
  found = record.read_json(output / runner.RESULTS)
  record.write_text(output / "summary.txt", summary.text(found))
  record.write_text(output / "summary.html", summary.page(found))
  print(summary.text(found))
  print(f"{output}/summary.html, summary.txt, results.json, logs")
  if any(one.status == "failed" for one in ended) or not is_right(found):
    sys.exit(1)


if __name__ == "__main__":
  flags.run(main, AcceleratorConfig)
