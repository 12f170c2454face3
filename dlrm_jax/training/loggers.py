"""Loggers of a run (`--log_to`): its curve and its training loss go to TensorBoard, to a CSV file, or to a program of the user's.

A logger only receives numbers: it changes none, and one that fails is reported and left out while the run goes on. Called by
`trajectory`. Another package adds a logger as an entry point of the group `dlrm_jax.loggers`: a name, and a function that takes what
`MakeLogger` takes and returns a `Logger`.
"""

import csv
import importlib.metadata
import io
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from dlrm_jax.common import record
from dlrm_jax.common.flags import UserError
from dlrm_jax.common.progress import say

GROUP = "dlrm_jax.loggers"


class Logger(Protocol):
  """Where numbers of a run go. Each method may raise: the run then goes on without this logger."""

  def log(self, examples: int, values: Mapping[str, float]) -> None:
    """Takes finite numbers by name, such as `curve/ne` and `train/log_loss`, after so many examples of training."""

  def close(self) -> None:
    """The run has ended."""


# (the run's directory, examples that it begins with, its config as the record has it) -> a logger. What was logged there after more
# examples belongs to a run that was stopped, and which this one repeats.
MakeLogger = Callable[[Path, int, Mapping[str, Any]], Logger]


class CsvLogger:
  """WORKDIR/log.csv with the columns examples, name, value: a line for each number."""

  def __init__(self, directory: Path, start: int, config: Mapping[str, Any]):
    del config
    path = directory / "log.csv"
    lines = path.read_text().splitlines()[1:] if path.exists() else []
    kept = [line for line in lines if line.partition(",")[0].isdecimal() and int(line.partition(",")[0]) <= start]
    record.write_text(path, "".join(line + "\n" for line in ("examples,name,value", *(kept if start else []))))
    self._file = path.open("a")

  def log(self, examples: int, values: Mapping[str, float]) -> None:
    lines = io.StringIO()
    csv.writer(lines, lineterminator="\n").writerows([examples, name, repr(value)] for name, value in values.items())
    self._file.write(lines.getvalue())
    self._file.flush()

  def close(self) -> None:
    self._file.close()


class TensorBoardLogger:
  """Event files in WORKDIR/tensorboard, by tensorboardX, with the count of examples as the step.

  They are written in this thread. tensorboardX's SummaryWriter has a thread and a queue, and a full disk ends the thread: the training
  would wait for room in the queue for ever.
  """

  def __init__(self, directory: Path, start: int, config: Mapping[str, Any]):
    del config
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto import event_pb2

    self._event = event_pb2.Event
    (directory / "tensorboard").mkdir(parents=True, exist_ok=True)
    self._writer = EventsWriter(os.fspath(directory / "tensorboard" / "events"), f".{start}.{os.getpid()}")  # a name that no other has
    if start:  # TensorBoard then drops what it has of later steps
      self._write(event_pb2.Event(step=start + 1, session_log=event_pb2.SessionLog(status=event_pb2.SessionLog.START)))

  def _write(self, event: Any) -> None:
    event.wall_time = time.time()
    self._writer.write_event(event)
    self._writer.flush()

  def log(self, examples: int, values: Mapping[str, float]) -> None:
    event = self._event(step=examples)
    for name, value in values.items():
      event.summary.value.add(tag=name, simple_value=value)
    self._write(event)

  def close(self) -> None:
    self._writer.close()


_OWN: dict[str, MakeLogger] = {"csv": CsvLogger, "tensorboard": TensorBoardLogger}


def makers(names: Sequence[str]) -> dict[str, MakeLogger]:
  """The functions that make these loggers. Raises UserError for a name that is unknown, or whose library is absent."""
  others = {point.name: point for point in importlib.metadata.entry_points(group=GROUP)} if set(names) - set(_OWN) else {}
  found: dict[str, MakeLogger] = {}
  for name in names:
    if name not in _OWN and name not in others:
      raise UserError(f"--log_to={name}: must be among {', '.join(_OWN)}, or an entry point of the group {GROUP}")
    try:
      if name == "tensorboard":
        import tensorboardX  # noqa: F401
      found[name] = _OWN[name] if name in _OWN else others[name].load()
    except ImportError as error:
      hint = "pip install 'dlrm-jax[tensorboard]' installs tensorboardX" if name == "tensorboard" else "it is not installed as a whole"
      raise UserError(f"--log_to={name}: {error}; {hint}") from None
  return found


class Loggers:
  """The loggers of a run, none at first. Whatever one raises is reported once, and ends that logger alone."""

  def __init__(self, names: Sequence[str]):
    """Raises UserError as `makers` does."""
    self._makers, self._open = makers(names), dict[str, Logger]()

  def open(self, directory: Path, start: int, config: Mapping[str, Any]) -> None:
    """Makes them, in the run's directory."""
    for name, make in self._makers.items():
      self._guarded(name, lambda make=make, name=name: self._open.update({name: make(directory, start, config)}))  # type: ignore[misc]

  def log(self, examples: int, values: Mapping[str, Any]) -> None:
    """Passes on the numbers that are finite."""
    known = {name: float(value) for name, value in values.items() if value is not None and math.isfinite(value)}
    for name, logger in list(self._open.items()) if known else []:
      self._guarded(name, lambda logger=logger: logger.log(examples, known))  # type: ignore[misc]

  def close(self) -> None:
    """Closes them."""
    for name, logger in list(self._open.items()):
      self._guarded(name, logger.close)
    self._open = {}

  def _guarded(self, name: str, do: Callable[[], object]) -> None:
    try:
      do()
    except Exception as error:
      self._open.pop(name, None)
      say(f"--log_to={name}: {type(error).__name__}: {' '.join(str(error).split())}; the run goes on without it")
