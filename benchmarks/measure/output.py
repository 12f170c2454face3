"""What every benchmark does with its output: the file is checked before anything is timed, then written, and the rows are printed."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from benchmarks.measure import table
from dlrm_jax.common import record
from dlrm_jax.common.flags import UserError
from dlrm_jax.machine import hardware

_SIMULATED = "Simulated devices share the host's cores: efficiencies and bandwidths between them say nothing about hardware."


def check_output(output: str) -> None:
  """Raises UserError unless `--output` names a file that can be written; makes its directory."""
  path = Path(output)
  if not output or path.is_dir():
    raise UserError(f"--output={output}: must be a JSON file to write" + (", not a directory" if output else ""))
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent):
      pass
  except OSError as error:
    raise UserError(f"--output={path}: must be in a directory that can be written ({error.strerror})") from None


def write_and_show(output: str, rows: Sequence[table.Row], title: str, columns: table.Columns, num_devices: int = 1) -> dict[str, Any]:
  """Writes the rows to the JSON file `output`, prints them as a table, and warns where several devices are simulated.

  Returns the header of the file: command, hardware and software.
  """
  header = hardware.header()
  record.write_json(output, header | {"results": rows})
  table.show(title, columns, rows)
  if num_devices > 1 and jax.devices()[0].platform == "cpu":
    print(_SIMULATED)
  return header
