"""Runs independent tasks in this process or in several workers, with progress. Used by `prepare`; sweeps use `end_with`."""

import concurrent.futures
import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

_POLL_S = 0.1


@runtime_checkable
class Job(Protocol):
  """Numbered tasks. Any process can do each of them, and can do it again with the same result."""

  def do(self, index: int, advance: Callable[[int], None]) -> None:
    """Does a task and writes its result to disk. Calls `advance` as it goes, with the progress made since the last call."""


_job: Job
_counter: Any


def _start(job: Job, counter: Any, parent: int) -> None:
  """Sets up a worker."""
  global _job, _counter
  _job, _counter = job, counter
  end_with(parent)


def end_with(parent: int) -> None:
  """From now on this process ends when `parent`, which started it, has ended in any way: by SIGTERM, and a minute later by force."""

  def watch() -> None:
    while os.getppid() == parent:
      time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGTERM)  # a process that trains saves first
    time.sleep(60)
    os._exit(1)

  threading.Thread(target=watch, daemon=True).start()


def _advance(count: int) -> None:
  with _counter.get_lock():
    _counter.value += count


def _do(index: int) -> None:
  _job.do(index, _advance)


def run(job: Job, todo: Sequence[int], workers: int, advance: Callable[[int], None]) -> None:
  """Does the tasks `todo`, up to `workers` at a time. Raises what a task raises, and ChildProcessError if a worker is killed.

  Ctrl-C ends the workers at once. What they had not finished is done again by the next run.
  """
  workers = min(workers, len(todo))
  if workers <= 1:
    for index in todo:
      job.do(index, advance)
    return
  context = multiprocessing.get_context("spawn")
  counter = context.Value("q", 0)
  pool = concurrent.futures.ProcessPoolExecutor(workers, context, _start, (job, counter, os.getpid()))
  started: dict[int, Any] = {}
  try:
    with _interrupts_later():  # workers inherit it: Ctrl-C reaches this process alone, which then ends them
      waiting = {pool.submit(_do, index) for index in todo}
      started = dict(pool._processes)
    try:
      _wait(waiting, counter, advance)
    except Exception as error:
      pool.shutdown(cancel_futures=True)
      if isinstance(error, concurrent.futures.process.BrokenProcessPool):
        wrong = "a worker was killed, probably because memory ran out: use fewer --workers or a smaller --piece_mib"
        raise ChildProcessError(wrong) from None
      raise
    pool.shutdown()
  except KeyboardInterrupt:
    with _interrupts_later():  # a worker that still starts would miss what this process frees when it ends, and complain
      for worker in started.values():
        worker.kill()
      pool.shutdown(cancel_futures=True)
    raise


def _wait(waiting: set[concurrent.futures.Future[None]], counter: Any, advance: Callable[[int], None]) -> None:
  """Waits for all tasks, and calls `advance` meanwhile. Raises what a task raises."""
  shown = 0
  while waiting:
    done, waiting = concurrent.futures.wait(waiting, _POLL_S, concurrent.futures.FIRST_EXCEPTION)
    now = counter.value
    advance(now - shown)
    shown = now
    for task in done:
      task.result()


@contextlib.contextmanager
def _interrupts_later() -> Iterator[None]:
  """SIGINT arrives when the block has ended. Processes that are started in it never get it."""
  mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
  try:
    yield
  finally:
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
