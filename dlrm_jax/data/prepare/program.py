"""`python -m dlrm_jax.data.prepare`: the order of the work."""

import dataclasses
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from dlrm_jax.common import flags, record, starting, tasks
from dlrm_jax.common.progress import Bar, say
from dlrm_jax.common.text import number_of
from dlrm_jax.data import shard_format
from dlrm_jax.data.dataset import encoding_of
from dlrm_jax.data.dense_warnings import dense_warnings, say_warnings
from dlrm_jax.data.prepare import arrange, contents, inputs, parts, quotes, read, read_log, shards, splits, spool, vocabulary
from dlrm_jax.data.prepare.arrange import Arranging, Sorting
from dlrm_jax.data.prepare.counting import Counting
from dlrm_jax.data.prepare.inputs import Inputs
from dlrm_jax.data.prepare.like import Like
from dlrm_jax.data.prepare.options import PrepareConfig
from dlrm_jax.data.prepare.part_files import Part
from dlrm_jax.data.prepare.parts import Reading, TaskResult
from dlrm_jax.data.prepare.read_log import ReadLog
from dlrm_jax.data.prepare.schema import CRITEO, Schema
from dlrm_jax.data.prepare.schema_file import load_schema
from dlrm_jax.data.prepare.schema_json import schema_as_json
from dlrm_jax.data.prepare.shards import Writing
from dlrm_jax.data.prepare.staging import Staging, opened, refuse_occupied
from dlrm_jax.data.prepare.thin import Thinning
from dlrm_jax.data.prepare.timeline import Timeline, check_units, say_order, timeline
from dlrm_jax.data.prepare.weights import schema_of_log

_MIB = 1 << 20
_MOST_TASKS = 25_000  # the files of all tasks are mapped into memory together, and Linux allows 65,530 maps
_SAID_BYTES = 5_000_000  # a smaller log is prepared at once
_READING_VERSION = 3  # of the files that the first pass leaves for the second
_LOOK_S, _SAY_S = 1.0, 30.0  # between looks at the work of other shares, and between lines about it


def _schema(config: PrepareConfig, like: Like | None) -> Schema:
  schema = like.schema if like is not None else CRITEO if config.schema is None else load_schema(config.schema)
  flags.check(config.format != "criteo_tsv" or schema.strict, config, "format", f"another: the columns of {config.like} are not Criteo's")
  if schema.list_columns and config.format != "parquet":
    where = config.like or config.schema
    raise flags.UserError(
      f"{where}: column '{schema.list_columns[0]}' of lists: only --format=parquet has lists; name one column for each value"
    )
  return schema


def _inputs(config: PrepareConfig) -> tuple[Inputs, list[tuple[read.Piece, ...]]]:
  """The files of the log, and the pieces that each task of the first pass reads."""
  found = inputs.find_inputs(config.input)
  inside = [source for source in found.files if Path(config.output).resolve() in source.resolve().parents]
  if inside:
    raise flags.UserError(f"--output={config.output}: holds {inside[0]}, which is an input")
  piece_bytes = config.piece_mib * _MIB
  cut = read.bundles([read.pieces_of(i, source, config.format, piece_bytes) for i, source in enumerate(found.files)], piece_bytes)
  flags.check(len(cut) <= _MOST_TASKS, config, "piece_mib", f"larger: {len(cut):,} pieces are more than {_MOST_TASKS:,}")
  return found, cut


def _plan(config: PrepareConfig, like: Like | None, schema: Schema, sources: Sequence[Path]) -> dict[str, Any]:
  """All that the work depends on. A run with an equal plan does no work twice. The first pass depends on `reading` alone."""
  stats = [(str(source), source.stat()) for source in sources]
  reading = {
    "version": _READING_VERSION,
    "format": config.format,
    "piece_mib": config.piece_mib,
    "schema": schema_as_json(schema),
    "files": [{"path": path, "bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns} for path, stat in stats],
  }
  split = ("eval_rows", "eval_files", "eval_fraction", "test_fraction", "eval_from", "test_from")
  settings = (*split, "keep_negatives", "vocabulary", "min_count", "max_reject_fraction")
  return {
    "format": shard_format.FORMAT,
    "reading": reading,
    "rows_per_shard": shard_format.ROWS_PER_GROUP * shard_format.GROUPS_PER_SHARD,
    "settings": {name: getattr(config, name) for name in settings},
    **({} if like is None else {"like": like.entry | {"encoding": encoding_of(like.contents)}}),
  }


def _run(what: str, job: tasks.Job, is_done: Sequence[Callable[[], bool]], sizes: Sequence[int], config: PrepareConfig) -> None:
  """Does the tasks of this run's share that are not done yet."""
  workers = config.workers or len(os.sched_getaffinity(0))
  share, shares = config.share
  todo = [i for i in range(share, len(sizes), shares) if not is_done[i]()]
  with Bar(what, sum(sizes[i] for i in todo), is_bytes=what == "reading") as bar:
    tasks.run(job, todo, workers, bar)


def _wait(what: str, is_done: Sequence[Callable[[], bool]]) -> None:
  """Waits until the other shares have done their tasks."""
  said = time.monotonic()
  while missing := sum(not done() for done in is_done):
    if time.monotonic() > said + _SAY_S:
      say(f"{what}: waiting for {missing} of {len(is_done)} tasks of the other shares")
      said = time.monotonic()
    time.sleep(_LOOK_S)


def _read(config: PrepareConfig, reading: Reading) -> tuple[list[Path], tuple[TaskResult, ...]]:
  """The first pass. Returns the paths of the tasks' files, without their endings, and the results."""
  sizes = [sum(piece.size for piece in task) for task in reading.tasks]

  def results(reading: Reading, what: str) -> tuple[TaskResult, ...]:
    paths = [parts.result_path(reading.task(i)) for i in range(len(sizes))]
    is_read = [path.exists for path in paths]
    _run(what, reading, is_read, sizes, config)
    _wait(what, is_read)
    return tuple(map(TaskResult.read, paths))

  found = results(reading, "reading")
  inside = tuple(quotes.first_states([result.inside for result in found], [task[0].start == 0 for task in reading.tasks]))
  if any(inside):
    reading = dataclasses.replace(reading, inside=inside)
    found = results(reading, "reading again what begins in quotes")
  return [reading.task(i) for i in range(len(sizes))], found


def _in_order(config: PrepareConfig, place: Staging, schema: Schema, log: Timeline, limits: tuple[int, ...]) -> tuple[Part, ...]:
  """The parts of the log after its rows were brought into the order of their time, or of their split, where they are not."""
  assert schema.time is not None
  if not log.earlier_rows or not (schema.time.order or limits):
    return log.parts
  sorting = Sorting(place.order, log.parts, None if schema.time.order else limits)
  are_sorted = [arrange.sorted_path(place.order, i).exists for i in range(len(log.parts))]
  _run("sorting", sorting, are_sorted, [part.rows for part in log.parts], config)
  _wait("sorting", are_sorted)
  edges, new = arrange.plan(place.order, log.parts)
  done = [part.times.exists for part in new]
  _run("ordering", Arranging(place.order, log.parts, schema, tuple(edges)), done, [part.rows for part in new], config)
  _wait("ordering", done)
  return tuple(new)


def _thinned(
  config: PrepareConfig, place: Staging, schema: Schema, rows: tuple[Part, ...], rows_of: dict[str, int]
) -> tuple[tuple[Part, ...], dict[str, int], dict[str, Any] | None]:
  """Parts and splits without the negatives that are left out, and the entry `keep_negatives` of dataset.json, if any are."""
  if config.keep_negatives == 1:
    return rows, rows_of, None
  thinning = Thinning(place.kept, rows, schema, rows_of["train"], config.keep_negatives)
  _run("leaving out negatives", thinning, thinning.is_done, [part.rows for part in rows], config)
  _wait("leaving out negatives", thinning.is_done)
  kept = thinning.new_parts()
  train_rows = sum(part.rows for part in kept) - (sum(rows_of.values()) - rows_of["train"])
  flags.check(train_rows > 0, config, "keep_negatives", f"larger: it leaves none of the {rows_of['train']} training rows")
  return kept, rows_of | {"train": train_rows}, thinning.facts()


def prepare(config: PrepareConfig) -> dict[str, Any] | None:
  """Makes the data set and returns the contents of `dataset.json`; None if another of several runs finishes the work.

  Raises UserError on bad input, and then leaves nothing behind, except the rows that were read of a large log.
  """
  output, like = Path(config.output), None if config.like is None else Like.open(config.like)
  schema = _schema(config, like)
  spool.remove_left(output)
  if not inputs.is_stream(config.input):
    return _prepare(config, like, schema)
  flags.check(config.shard is None, config, "shard", "left out if --input is a pipe, which one run alone can read")
  refuse_occupied(output.absolute(), config.overwrite)
  with spool.spooled(config.input, output) as copy:
    return _prepare(dataclasses.replace(config, input=str(copy)), like, schema, resumable=False)


def _prepare(config: PrepareConfig, like: Like | None, schema: Schema, resumable: bool = True) -> dict[str, Any] | None:
  """`prepare` for a log of files. Unless `resumable`, nothing is kept of a run that does not end well."""
  found, cut = _inputs(config)
  if like is not None:
    schema = schema_of_log(found.files, config.format, schema)
  limits = splits.bounds(config, schema)
  plan = _plan(config, like, schema, found.files)
  with opened(Path(config.output), plan, config.overwrite, config.share[0] if config.shard else None, resumable) as place:
    if place.finished:
      return record.read_json(place.output / "dataset.json")
    outside, size = (False,) * len(cut), sum(path.stat().st_size for path in found.files)
    if size >= _SAID_BYTES:
      say(f"reading {number_of(len(found.files), 'file')} of {size / 1e6:,.0f} MB, then writing shards")
    tasks, results = _read(config, Reading(place.rows, found.files, tuple(cut), outside, config.format, schema, config.piece_mib * _MIB))
    if _plan(config, like, schema, found.files) != plan:
      raise flags.UserError(f"--input={config.input}: a file changed while it was read")
    log = ReadLog(found, tuple(cut), results)
    read_log.say_left_out(log)
    rejected = read_log.rejected(log, config.max_reject_fraction)
    rows = tuple(Part(parts.part_path(task, j), n) for task, result in zip(tasks, results, strict=True) for j, n in enumerate(result.parts))
    times = None
    if schema.time is not None and rows:
      times = timeline(rows, log.results)
      check_units(schema.time, log.results, times)
      say_order(schema.time, times)
      rows = _in_order(config, place, schema, times, limits)
    rows_of = splits.by_time(config, times, limits) if times is not None and limits else splits.by_place(config, log.rows_of_file())
    rows, rows_of, negatives = _thinned(config, place, schema, rows, rows_of)
    mode = config.vocabulary if like is None else like.mode
    ranked = mode == "frequency"
    counting = Counting(place.out, place.done, schema, rows, rows_of["train"], config.min_count, ranked, like)
    _run("counting", counting, counting.is_done, [1] * len(counting.is_done), config)
    _wait("counting", counting.is_done)
    counted = counting.results()
    wanted = shards.plan_shards(rows_of)
    written = [place.done / f"{shard.name}.json" for shard in wanted]
    _run("writing", Writing(place, schema, rows, tuple(wanted), counted), [p.exists for p in written], [s.rows for s in wanted], config)
    if config.share[0]:
      return None  # without waiting: the first share removes the directory that would show the end
    _wait("writing", [path.exists for path in written])
    ids = counted.vocabularies
    known = [vocabulary.load(path) for path in ids]
    tables = [one.cardinality for one in known] if ranked else [vocabulary.HASH_CARDINALITY] * len(schema.features)
    facts = {split: [record.read_json(p) for p, s in zip(written, wanted) if s.split == split] for split in rows_of}
    name, entry = place.output.name, contents.vocabulary_entry(mode, config.min_count if like is None else like.min_count, ids, known)
    made = contents.describe(name, entry, schema, log, facts, tables, counted, rejected, times, negatives)
    made |= {} if like is None else {"like": like.entry, "schema": schema_as_json(like.schema)}  # with weights, for the next log
    read_log.write_rejects(place.out / "rejects.tsv", tasks, log)
    record.write_json(place.out / "dataset.json", made)
    place.publish({"dataset.json", "rejects.tsv", *(path.name for path in ids), *(shard.name for shard in wanted)})
  return made


def main(config: PrepareConfig) -> None:
  try:
    made = prepare(config)
  except KeyboardInterrupt as stop:
    say(str(stop) or "interrupted: nothing was read yet")
    sys.exit(starting.EXIT_CODE)  # not at once: workers of several processes share objects that are freed at the end
  if made is None:
    print(f"share {config.shard} is done; the run with --shard=0/{config.share[1]} writes {config.output}")
  else:
    contents.print_summary(made, config.output)
    say_warnings(dense_warnings(made))
