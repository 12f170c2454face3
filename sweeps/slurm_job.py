"""What a Slurm job of a sweep does: it becomes a sweeper, and its script then queues the job again where that helps.

Submitted by `slurm`. Submitit runs it on the nodes.
"""

import os
import sys
from pathlib import Path
from typing import Any

from dlrm_jax.common import flags, record
from dlrm_jax.common.flags import UserError
from sweeps import claims, store
from sweeps.worker import WorkerConfig

FRUITLESS_STARTS = 5  # a job that was started this often in a row without progress of any run is not started again
# The job's script runs this after the sweepers. Exit code 0: nothing is left to do. 2: bad input, which a new start would meet again. After
# any other code, such as 75 (stopped and saved) or a death, the job is queued again. A job that Slurm itself ends or queues again is no
# longer RUNNING then, and is left alone.
REQUEUE = (
  "code=$?",
  "job=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}",
  "job=${job:-$SLURM_JOB_ID}",
  'if [ $code -ne 0 ] && [ $code -ne 2 ] && scontrol show job "$job" | grep -q JobState=RUNNING; then scontrol requeue "$job"; fi',
  "exit $code",
)


def become_sweeper(words: list[str]) -> None:
  """Replaces this process by `python -m sweeps.worker` with these words, so that the sweeper gets all signals and sets the exit code."""
  if os.environ.get("SLURM_PROCID", "0") == "0":
    try:
      check_fruitful(flags.parse(["sweeps.worker", *words], WorkerConfig), os.environ["SLURM_JOB_ID"])
    except (UserError, OSError) as error:
      flags.fail(str(error))
  sys.stdout.flush()
  os.execv(sys.executable, [sys.executable, "-u", "-m", "sweeps.worker", *words])


def check_fruitful(config: WorkerConfig, job: str) -> None:
  """Counts the starts of a job without progress: no new record, checkpoint or counted failure since the last start.

  Raises UserError at the fifth in a row, when another start would not help. Then the time limit is too short for a first checkpoint, or the
  program cannot run on the node.
  """
  path = Path(config.run.workdir) / "slurm" / f"{job}_starts.json"
  now = [list(_progress(store.run_directory(config.run.workdir, run))) for run in config.only]
  before: dict[str, Any] = record.read_json(path) if path.exists() else {"progress": None, "fruitless": 0}
  fruitless = before["fruitless"] + 1 if before["progress"] == now else 0
  record.write_json(path, record.header() | {"progress": now, "fruitless": fruitless})
  if fruitless >= FRUITLESS_STARTS:
    raise UserError(
      f"job {job} was started {fruitless} times in a row without progress of any of its runs, and is not queued again; "
      f"see its output; --slurm_time_min={config.slurm.time_min} may be too short"
    )


def _progress(directory: Path) -> tuple[bool, int, int]:
  """The progress of a run: whether it has a record, its saved examples, its attempts that count."""
  saved = store.saved_examples(directory)
  return (directory / "record.json").exists(), saved, claims.counted(claims.attempts(directory), saved)
