"""What a Slurm job of a sweep does: it becomes a sweeper, and afterwards its script has it queued again where that helps.

Submitted by `slurm`, run on the nodes through submitit.
"""

import os
import sys
from pathlib import Path
from typing import Any

from dlrm_jax.common import flags, record
from dlrm_jax.common.flags import UserError
from sweeps import claims, store
from sweeps.worker import WorkerConfig

FRUITLESS_STARTS = 5  # a job that was started so often in a row without bringing any run on is not started again
# In the job's script, after the sweepers. 0: nothing is left to do; 2: bad input, which would be so again. All else, such as 75 (stopped
# and saved) or a death, is queued again, unless Slurm itself ends the job or queues it again: then it is no longer RUNNING.
REQUEUE = (
  "code=$?",
  "job=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}",
  "job=${job:-$SLURM_JOB_ID}",
  'if [ $code -ne 0 ] && [ $code -ne 2 ] && scontrol show job "$job" | grep -q JobState=RUNNING; then scontrol requeue "$job"; fi',
  "exit $code",
)


def become_sweeper(words: list[str]) -> None:
  """This process becomes `python -m sweeps.worker` with these words, which alone gets signals and gives the exit code."""
  if os.environ.get("SLURM_PROCID", "0") == "0":
    try:
      check_fruitful(flags.parse(["sweeps.worker", *words], WorkerConfig), os.environ["SLURM_JOB_ID"])
    except (UserError, OSError) as error:
      flags.fail(str(error))
  sys.stdout.flush()
  os.execv(sys.executable, [sys.executable, "-u", "-m", "sweeps.worker", *words])


def check_fruitful(config: WorkerConfig, job: str) -> None:
  """Counts the starts of a job after which nothing had come on: no record, checkpoint or counted failure more than before.

  Raises UserError at the fifth in a row: the time limit is too short for a run to come to its first checkpoint, or the program cannot run
  on the node; being queued again and again would not help.
  """
  path = Path(config.run.workdir) / "slurm" / f"{job}_starts.json"
  now = [list(_progress(store.run_directory(config.run.workdir, run))) for run in config.only]
  before: dict[str, Any] = record.read_json(path) if path.exists() else {"progress": None, "fruitless": 0}
  fruitless = before["fruitless"] + 1 if before["progress"] == now else 0
  record.write_json(path, record.header() | {"progress": now, "fruitless": fruitless})
  if fruitless >= FRUITLESS_STARTS:
    raise UserError(
      f"job {job} was started {fruitless} times in a row without any of its runs coming on, and is not queued again; "
      f"see what it printed; --slurm_time_min={config.slurm.time_min} may be too short"
    )


def _progress(directory: Path) -> tuple[bool, int, int]:
  """How far a run has come: whether it has a record, examples saved, attempts that count."""
  saved = store.saved_examples(directory)
  return (directory / "record.json").exists(), saved, claims.counted(claims.attempts(directory), saved)
