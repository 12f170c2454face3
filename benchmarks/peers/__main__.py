"""Times our training step beside other libraries' on this machine, in turn, in one run, and says how they compare.

  python -m benchmarks.peers --output=peers.json                          # needs `make peers` once
  python -m benchmarks.peers --output=ours.json --trainers=ours

Each trainer, workload and size is a process of its own, pinned to the same cores; they take turns of a few steps, so that noise falls
on all alike, and ratios are medians over rounds. Before that, the losses of a few steps from the same weights are compared.
An output file that exists is replaced.
"""

import datetime
import functools
import sys
import tempfile
from pathlib import Path

from benchmarks.peers.check import check_losses
from benchmarks.peers.config import PeersConfig, available_bytes, check_files, check_memory, series, spec_of
from benchmarks.peers.process import Worker, command_of
from benchmarks.peers.rounds import measure, rows_of
from benchmarks.peers.table import SECTION, section, show_rows
from benchmarks.peers.worker import Spec
from dlrm_jax.common import flags, markdown, record
from dlrm_jax.data.criteo import NUM_CATEGORICAL
from dlrm_jax.machine import hardware

_CHECK_ROWS = 1000


def main(config: PeersConfig) -> None:
  """Checks everything, then the trainers against each other, times them, writes the JSON file and prints the rows."""
  hardware.select_platform()
  check_files(config)
  if config.markdown:
    markdown.check_markers(config.markdown, SECTION)
  say = functools.partial(print, file=sys.stderr, flush=True)

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
    differences = check_losses(checked, directory, start, say)
    rows = []
    for name, specs in todo.items():
      measured = measure(specs, start, config.rounds, config.steps, config.warmup, functools.partial(say, f"{name}:"))
      rows += rows_of(name, measured, config.batch_size, differences)
  header = hardware.header()
  record.write_json(config.output, header | {"results": rows})
  show_rows(rows)
  if config.markdown:
    markdown.write(config.markdown, SECTION, section(rows, header, datetime.date.today()))


if __name__ == "__main__":
  flags.run(main, PeersConfig)
