"""The file a benchmark writes: looked at before anything is timed or compiled."""

import tempfile
from pathlib import Path

from dlrm_jax.common.flags import UserError


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
