"""A sweep on a real Slurm (tests/helpers/slurm.sh): the records of an inline sweep whatever happens to the jobs, refusals in one line."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sweep_case
from places import HELPERS
from sweep_case import ended, started

pytestmark = [pytest.mark.slow, pytest.mark.slurm]
# One core for all, since a CPU's results depend in the last bits on how many there are.
SLURM = ("--launcher=slurm", "--slurm_cpus_per_task=1", "--slurm_time_min=30", "--slurm_mem_gib=2")
SMALL = ("--preset=tiny", "--axes=dim", "--axis_examples=0", "--batch_size=128", "--num_rows=300", "--overarch=8,1", "--measure=false")
SWEEP = (*SMALL, "--sizes_dim=2,4", "--seeds=2", "--num_examples=65536")
EXAMPLES = 12_000_000  # of a run that is still training when another program has started and looks at it
LONG = (*SMALL, "--sizes_dim=4", "--eval_examples=2048", "--checkpoint_every_s=1")


@pytest.fixture(scope="module", autouse=True)
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
  """A cluster of two nodes, whose clients find it through SLURM_CONF. It ends with its standard input, so with the tests at the latest."""
  directory, before = tmp_path_factory.mktemp("slurm"), os.environ.get("SLURM_CONF")
  command = ["taskset", "-c", str(min(os.sched_getaffinity(0))), "bash", str(HELPERS / "slurm.sh"), str(directory)]
  with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
    assert process.stdin and process.stdout
    try:
      said = process.stdout.readline()
      if said != "ready\n":
        pytest.skip(said.strip())
      os.environ["SLURM_CONF"] = str(directory / "slurm.conf")
      yield
    finally:
      if before is None:
        os.environ.pop("SLURM_CONF", None)
      else:
        os.environ["SLURM_CONF"] = before
      process.stdin.close()
      process.wait(60)


def told(*command: str) -> str:
  """What a program of Slurm says."""
  return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def jobs() -> list[str]:
  """The jobs that are left, each job of an array by itself."""
  return told("squeue", "--noheader", "--array", "--format=%A").split()


def until(workdir: Path, what: Callable[[], bool], seconds: float = 200.0) -> None:
  """Waits until something is so of a sweep."""
  end = time.monotonic() + seconds
  while not what():
    assert time.monotonic() < end and jobs(), told("squeue") + printed(workdir)
    time.sleep(0.1)


def inline(workdir: Path, *words: str, devices: int = 1) -> Path:
  """The same sweep in one process, on the core that the cluster has."""
  return sweep_case.finished(workdir, *words, cores=(min(os.sched_getaffinity(0)),), devices=devices)


def slurm(workdir: Path, *words: str) -> tuple[int, str]:
  """`sweeps.run --launcher=slurm` with these words: its exit code, and what it said."""
  return ended(started(workdir, *SLURM, *words))


def begun(workdir: Path) -> bool:
  """Whether a run of a sweep has saved a checkpoint."""
  return any(workdir.glob("runs/*/checkpoint/*/checkpoint.json"))


def trains(workdir: Path, resumed: bool) -> bool:
  """Whether the last attempt at the one run of a sweep has come further than where it began: at the start, or at a checkpoint."""
  claims = [json.loads(path.read_text()) for path in sorted(workdir.glob("runs/*/attempts/[0-9]*.json"))]
  return bool(claims) and (claims[-1]["began"] > 0) == resumed and claims[-1]["examples"] > claims[-1]["began"]


def printed(workdir: Path) -> str:
  """What the jobs printed."""
  return "\n".join(f"{path.name}: {path.read_text()}" for path in sorted(workdir.glob("slurm/*_log.*")))


def test_a_sweep_through_a_job_array_gives_the_records_of_an_inline_one(tmp_path: Path):
  code, said = slurm(tmp_path / "slurm", *SWEEP, "--workers=2", "--slurm_wait")
  assert code == 0, said + printed(tmp_path / "slurm")
  assert "4 runs, 2 jobs at a time, each 1 node with 1 core, 2 GiB" in said
  assert "all 4 runs recorded" in said
  assert jobs() == []
  expected = sweep_case.results(inline(tmp_path / "inline", *SWEEP))
  assert len(expected) == 4
  assert sweep_case.results(tmp_path / "slurm") == expected
  assert set(map(tuple, sweep_case.outcomes(tmp_path / "slurm").values())) == {("done",)}
  owners = [json.loads(path.read_text())["slurm_job"] for path in (tmp_path / "slurm").glob("runs/*/attempts/0001.json")]
  assert len(set(owners)) == 2  # both jobs of the array took part
  code, said = slurm(tmp_path / "slurm", *SWEEP, "--slurm_wait")
  assert code == 0 and "submitted" not in said


def test_jobs_train_at_the_rates_that_were_found(tmp_path: Path):
  """The records are those of an inline sweep with --lr_find, and hold what was tried."""
  words = (*SMALL, "--sizes_dim=4", "--num_examples=65536", "--lr_find", "--table_lr=0.002", "--dense_lr=0.002")
  code, said = slurm(tmp_path / "slurm", *words, "--slurm_wait")
  assert code == 0, said + printed(tmp_path / "slurm")
  assert "rates: the trials are trained here" in said and "all 1 runs recorded" in said
  expected = sweep_case.results(inline(tmp_path / "inline", *words))
  assert sweep_case.results(tmp_path / "slurm") == expected
  assert "picked" in json.dumps(expected)


def requeue(workdir: Path) -> str:
  """As an administrator, or Slurm itself where jobs are preempted without grace."""
  told("scontrol", "requeue", *jobs())
  return "stopped"


def preempt(workdir: Path) -> str:
  """A job of a partition that goes first wants both nodes; it gets them when the grace of the sweep's job is over."""
  told("sbatch", "--nodes=2", "--cpus-per-task=2", "--mem=100", "--output=/dev/null", "--wrap=sleep 3")
  return "stopped"


def kill(workdir: Path) -> str | None:
  """A worker that dies, as for want of memory."""
  for pid in sweep_case.processes_of(workdir):
    os.kill(pid, signal.SIGKILL)
  return None


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
  """The long run, inline."""
  return inline(tmp_path_factory.mktemp("inline"), *LONG, f"--num_examples={EXAMPLES}")


@pytest.mark.parametrize("happens", [requeue, preempt, kill])
def test_a_job_that_is_disturbed_is_queued_again_and_goes_on(undisturbed: Path, tmp_path: Path, happens: Callable[[Path], str | None]):
  words = (*LONG, f"--num_examples={EXAMPLES}", "--slurm_partition=low")
  code, said = slurm(tmp_path, *words)
  assert code == 0 and "submitted" in said, said
  until(tmp_path, lambda: begun(tmp_path))
  (job,) = jobs()
  outcome = happens(tmp_path)
  until(tmp_path, lambda: trains(tmp_path, resumed=True))
  assert "Restarts=1 " in told("scontrol", "show", "job", job)
  code, said = slurm(tmp_path, *words, "--slurm_wait")  # meets the job that is there, and submits no other
  assert code == 0, said + printed(tmp_path)
  assert "1 of the runs are in jobs" in said and "submitted" not in said
  assert list(sweep_case.outcomes(tmp_path).values()) == [[outcome, "done"]]
  assert sweep_case.results(tmp_path) == sweep_case.results(undisturbed)


def test_at_the_time_limit_a_job_saves_and_is_queued_again_and_when_cancelled_it_saves_and_is_not(tmp_path: Path):
  code, said = slurm(tmp_path, *LONG, "--num_examples=2000000000", "--slurm_time_min=1")
  assert code == 0, said
  until(tmp_path, lambda: trains(tmp_path, resumed=True))
  assert "SIGUSR2" in printed(tmp_path)
  told("scancel", *jobs())
  while jobs():
    time.sleep(0.1)
  (outcomes,) = sweep_case.outcomes(tmp_path).values()
  assert len(outcomes) >= 2 and set(outcomes) == {"stopped"}
  time.sleep(8)  # longer than a requeued job stays away
  assert jobs() == []


def test_runs_of_several_processes_find_each_other_and_survive_a_requeue_and_the_death_of_one(tmp_path: Path):
  words = (*LONG, "--num_examples=524288", "--batch_size=512", "--evals_per_octave=4", "--mesh=2")
  workdir = tmp_path / "slurm"
  code, said = slurm(workdir, *words)
  assert code == 0 and "each 2 nodes with 1 core" in said, said
  until(workdir, lambda: trains(workdir, resumed=False))
  told("scontrol", "requeue", *jobs())
  until(workdir, lambda: trains(workdir, resumed=True))
  os.kill(max(sweep_case.processes_of(workdir)), signal.SIGKILL)
  code, said = slurm(workdir, *words, "--slurm_wait")
  assert code == 0, said + printed(workdir)
  (outcomes,) = sweep_case.outcomes(workdir).values()
  assert outcomes in (["stopped", None, "done"], ["stopped", "broke", "done"])  # the other process may still tell whom it lost
  assert sweep_case.results(workdir) == sweep_case.results(inline(tmp_path / "inline", *words, devices=2))


@pytest.mark.parametrize(
  ("words", "why"),
  [
    (
      ("--slurm_partition=nowhere",),
      "dim=4 seed 0 dlrm needs 1 node with 1 core, 2 GiB: sbatch: invalid partition specified: nowhere; Batch",
    ),
    (("--slurm_mem_gib=100",), "1 core, 100 GiB: partition main has 0 such nodes; its largest has 2 cores, 7.812 GiB"),
    (("--slurm_cpus_per_task=64",), "needs 1 node with 64 cores, 2 GiB: partition main has 0 such nodes"),
    (
      ("--slurm_gpus", "--slurm_partition=low"),
      "1 core, 1 GPU, 2 GiB: partition low has 0 such nodes; its largest has 2 cores, 0 GPUs, 7.8",
    ),
    (("--slurm_time_min=300",), "2 GiB: --slurm_time_min=300: partition main allows jobs of at most 60 minutes"),
    (("--axes=devices", "--sizes_devices=1,4", "--mesh=4"), "devices=4 seed 0 dlrm needs 4 nodes with 1 core, 2 GiB: partition main has 2"),
  ],
)
def test_what_the_cluster_refuses_is_told_in_one_line(tmp_path: Path, words: tuple[str, ...], why: str):
  code, said = slurm(tmp_path, *LONG, "--num_examples=1000", *words)
  *_, line = said.splitlines()
  assert code == 2 and line.startswith("error: --launcher=slurm: ") and why in line, said
  assert "submitted" not in said and said.count("error") == 1
  assert jobs() == []
