"""Times our training step and other libraries' on this machine, in turns within one run, and compares them.

  python -m benchmarks.peers --output=peers.json                          # needs `make peers` once
  python -m benchmarks.peers --output=ours.json --trainers=ours

Each trainer, workload and size is a process of its own. All are pinned to the same cores and take turns of a few steps, so noise falls on
all alike. Ratios are medians over rounds. First the program compares the losses of a few steps from the same weights.
An existing output file is replaced.
"""

import datetime
import tempfile
from pathlib import Path

from benchmarks.measure.output import write_and_show
from benchmarks.peers.check import check_losses
from benchmarks.peers.config import PeersConfig, available_bytes, check_files, check_memory, series, spec_of
from benchmarks.peers.process import Worker, command_of
from benchmarks.peers.rounds import measure, rows_of
from benchmarks.peers.table import COLUMNS, SECTION, TITLE, section
from benchmarks.peers.worker import Spec
from dlrm_jax.common import flags, markdown
from dlrm_jax.common.progress import say
from dlrm_jax.data.criteo import NUM_CATEGORICAL
from dlrm_jax.machine import hardware

_CHECK_ROWS = 1000


def main(config: PeersConfig) -> None:
  """Checks the flags and the losses of the trainers, times them, writes the JSON file and prints the rows."""
  hardware.select_platform()
  check_files(config)
  if config.markdown:
    markdown.check_markers(config.markdown, SECTION)

  def start(spec: Spec) -> Worker:
    return Worker(spec, command_of(spec, config.peers_python))

  with tempfile.TemporaryDirectory() as temporary:
    directory = Path(temporary)
    todo = series(config, directory)
    check_memory(todo, available_bytes(), NUM_CATEGORICAL)
    if config.scaling and "scaling" not in todo:
      say("--scaling: skipped, since this process may use one core only")
    peers = [name for name in config.trainers if name != "ours"]
    checked = [spec_of(config, directory, name, "W1", _CHECK_ROWS, config.pinned) for name in peers if config.check]
    differences = check_losses(checked, directory, start)
    rows = []
    for name, specs in todo.items():
      measured = measure(specs, start, config.rounds, config.steps, config.warmup, name)
      rows += rows_of(name, measured, config.batch_size, differences)
  header = write_and_show(config.output, rows, TITLE, COLUMNS)
  if config.markdown:
    markdown.write(config.markdown, SECTION, section(rows, header, datetime.date.today()))


if __name__ == "__main__":
  flags.run(main, PeersConfig)
