"""Exports a trained model as StableHLO (jax.export), with its tables as arrays next to the program. jax and numpy alone reload it.

python -m dlrm_jax.export --restore=runs/one/checkpoint --output=exported
python exported/example.py

    DIR/program.bin       the serialised program: (arrays, dense [b, M], ids [b, L], weights [b, L] where there are bags) -> logits [b]
    DIR/arrays/*.npy      the trained weights: MLPs, and all rows of all tables as one array (not embedded: it may be larger than memory)
    DIR/vocabulary/*.npy  for each feature, the hashes of the values that have an id, ascending, and their ids
    DIR/metadata.json     names, shapes and order of the inputs, transforms, vocabularies, files of the arrays
    DIR/example.npz       a few inputs and their logits
    DIR/example.py        reloads all this with jax and numpy alone, and compares the logits

The batch size b is left open, and one program serves every platform of --platforms.
"""

import dataclasses
import importlib
import tempfile
from pathlib import Path

from dlrm_jax.common import flags, record
from dlrm_jax.common.progress import say
from dlrm_jax.machine import hardware
from dlrm_jax.serving.exported import write
from dlrm_jax.serving.restored import restore_model

PLATFORMS = ("cpu", "cuda", "tpu", "rocm")


@dataclasses.dataclass(frozen=True)
class ExportConfig:
  """Flags of `python -m dlrm_jax.export`."""

  restore: str = flags.option(help="the trained model: WORKDIR of a run, WORKDIR/checkpoint, or one of the directories in it")
  output: str = flags.option(help="the directory to make; it must be new or empty")
  platforms: tuple[str, ...] = flags.option(("cpu", "cuda", "tpu"), "platforms that the program is lowered for", PLATFORMS)
  data: str | None = flags.option(None, "the data set that the model was trained on, if it has moved")

  def __post_init__(self) -> None:
    flags.check_fields(self)
    flags.check(bool(self.platforms), self, "platforms", "at least one platform")


def main(config: ExportConfig) -> None:
  output = Path(config.output).absolute()
  if output.exists() and (not output.is_dir() or any(output.iterdir())):
    raise flags.UserError(f"--output={config.output}: exists already; choose a new directory")
  try:
    importlib.import_module("flatbuffers")
  except ImportError:
    raise flags.UserError("jax.export needs flatbuffers: pip install flatbuffers") from None
  hardware.select_platform()
  model = restore_model(config.restore, config.data, portable=True)
  say(f"exporting {config.restore} for {', '.join(config.platforms)}")
  output.parent.mkdir(parents=True, exist_ok=True)
  with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}.") as temporary:
    made = Path(temporary) / output.name
    made.mkdir()
    write(model, config.platforms, made)
    record.sync(made)
    made.replace(output)
  size = sum(file.stat().st_size for file in output.rglob("*") if file.is_file())
  platforms = ", ".join(config.platforms)
  print(f"exported for {platforms}: {size / 2**20:,.1f} MiB in {config.output}; python {config.output}/example.py reloads it")


if __name__ == "__main__":
  flags.run(main, ExportConfig)
