"""Trains one model and writes record.json and curve.jsonl.

python -m dlrm_jax.train --data=planted --workdir=runs/one
python -m dlrm_jax.train --data=DIR --workdir=runs/two --num_examples=900000

SIGTERM and SIGUSR2 save the run and end the program with code 75; the same command goes on, to the same bits.
"""

from pathlib import Path

import jax

from dlrm_jax.common import flags, stopping
from dlrm_jax.common.progress import say
from dlrm_jax.config import RunConfig
from dlrm_jax.data.dense_warnings import say_warnings
from dlrm_jax.data.source import PreparedSource, open_source
from dlrm_jax.machine import hardware, mesh
from dlrm_jax.presets import PRESETS
from dlrm_jax.training import loop
from dlrm_jax.training.found_rates import at_found_rates


def main(config: RunConfig) -> None:
  """Checks, trains, prints one line of results, and before it the alarms on standard error."""
  flags.check(bool(config.workdir), config, "workdir", "a directory for record.json and curve.jsonl")
  if (Path(config.workdir) / "record.json").exists():
    raise flags.UserError(f"--workdir={config.workdir}: holds a finished run (record.json); choose another directory")
  if (Path(config.workdir) / "sweep.json").exists():
    raise flags.UserError(f"--workdir={config.workdir}: holds a sweep (sweep.json); choose another directory")
  hardware.select_platform()
  config = mesh.connect(config)
  hardware.share_compiled()
  source = open_source(config)
  if isinstance(source, PreparedSource) and not jax.process_index():
    say_warnings(source.dataset.warnings)
  with stopping.installed():
    config = at_found_rates(config, source)
    out = loop.train(config, config.workdir, source)
  if jax.process_index():
    return
  for alarm in out["alarms"]:
    say(f"alarm {alarm['code']}: {alarm['text']}")
  if out["status"] == "diverged":
    raise flags.UserError(f"{out['diverged_metric']} was not finite at step {out['diverged_step']}; see {config.workdir}/record.json")
  held_out = ("log_loss", "ne", "base_rate_ne", "logistic_ne", "roc_auc", "calibration", "excess")
  names = held_out if out["eval_examples"] else ("progressive_log_loss", "progressive_ne")
  known = {name: out[name] for name in names if out.get(name) is not None}
  notes = {"calibration": " (mean prediction / click rate)"}
  scores = "  ".join(f"{name}={value:.5f}{notes.get(name, '')}" for name, value in known.items())
  print(f"{scores}  examples={out['examples']:,}  examples/s={out['examples_per_s']:,.0f}  in {config.workdir}/record.json")


if __name__ == "__main__":
  flags.run(main, RunConfig, PRESETS)
