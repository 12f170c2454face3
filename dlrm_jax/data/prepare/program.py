"""`python -m dlrm_jax.data.prepare`: the order of the work."""

import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from dlrm_jax.common import flags, record, starting, tasks
from dlrm_jax.common.progress import Bar, say
from dlrm_jax.data import shard_format
from dlrm_jax.data.dataset import encoding_of
from dlrm_jax.data.dense_warnings import dense_warnings, say_warnings
from dlrm_jax.data.prepare import arrange, contents, parts, read, shards, splits, vocabulary
from dlrm_jax.data.prepare.arrange import Arranging, Sorting
from dlrm_jax.data.prepare.contents import ReadLog
from dlrm_jax.data.prepare.counting import Counting
from dlrm_jax.data.prepare.like import Like
from dlrm_jax.data.prepare.options import PrepareConfig
from dlrm_jax.data.prepare.part_files import Part
from dlrm_jax.data.prepare.parts import PieceResult, Reading
from dlrm_jax.data.prepare.schema import CRITEO, Schema
from dlrm_jax.data.prepare.schema_file import load_schema
from dlrm_jax.data.prepare.schema_json import schema_as_json
from dlrm_jax.data.prepare.shards import Writing
from dlrm_jax.data.prepare.staging import Staging, opened
from dlrm_jax.data.prepare.timeline import Timeline, check_units, say_order, timeline

_MIB = 1 << 20
_MOST_PIECES = 25_000  # the files of all pieces are mapped into memory together, and Linux allows 65,530 maps
_LOOK_S, _SAY_S = 1.0, 30.0  # between looks at the work of other shares, and between lines about it


def _inputs(config: PrepareConfig, like: Like | None) -> tuple[Schema, list[Path], list[read.Piece]]:
  schema = like.schema if like is not None else CRITEO if config.schema is None else load_schema(config.schema)
  flags.check(config.format != "criteo_tsv" or schema.strict, config, "format", f"another: the columns of {config.like} are not Criteo's")
  if schema.list_columns and config.format != "parquet":
    where = config.like or config.schema
    raise flags.UserError(
      f"{where}: column '{schema.list_columns[0]}' of lists: only --format=parquet has lists; name one column for each value"
    )
  sources = read.find_inputs(config.input)
  inside = [source for source in sources if Path(config.output).resolve() in source.resolve().parents]
  if inside:
    raise flags.UserError(f"--output={config.output}: holds {inside[0]}, which is an input")
  cut = [read.pieces_of(i, source, config.format, config.piece_mib * _MIB) for i, source in enumerate(sources)]
  pieces = [piece for of_file in cut for piece in of_file]
  flags.check(len(pieces) <= _MOST_PIECES, config, "piece_mib", f"larger: {len(pieces):,} pieces are more than {_MOST_PIECES:,}")
  return schema, sources, pieces


def _plan(config: PrepareConfig, like: Like | None, schema: Schema, sources: Sequence[Path]) -> dict[str, Any]:
  """All that the work depends on. A run with an equal plan does no work twice. The first pass depends on `reading` alone."""
  stats = [(str(source), source.stat()) for source in sources]
  reading = {
    "format": config.format,
    "piece_mib": config.piece_mib,
    "schema": schema_as_json(schema),
    "files": [{"path": path, "bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns} for path, stat in stats],
  }
  split = ("eval_rows", "eval_files", "eval_fraction", "test_fraction", "eval_from", "test_from")
  settings = (*split, "vocabulary", "min_count", "max_reject_fraction")
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
      print(f"{what}: waiting for {missing} of {len(is_done)} tasks of the other shares", file=sys.stderr, flush=True)
      said = time.monotonic()
    time.sleep(_LOOK_S)


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


def prepare(config: PrepareConfig) -> dict[str, Any] | None:
  """Makes the data set and returns the contents of `dataset.json`; None if another of several runs finishes the work.

  Raises UserError on bad input, and then leaves nothing behind, except the rows that were read of a large log.
  """
  like = None if config.like is None else Like.open(config.like)
  schema, sources, cut = _inputs(config, like)
  limits = splits.bounds(config, schema)
  plan = _plan(config, like, schema, sources)
  with opened(Path(config.output), plan, config.overwrite, config.share[0] if config.shard else None) as place:
    if place.finished:
      return record.read_json(place.output / "dataset.json")
    reading = Reading(place.rows, tuple(sources), tuple(cut), config.format, schema, config.piece_mib * _MIB)
    results = [parts.result_path(place.rows, i) for i in range(len(cut))]
    is_read = [path.exists for path in results]
    _run("reading", reading, is_read, [piece.size for piece in cut], config)
    _wait("reading", is_read)
    if _plan(config, like, schema, sources) != plan:
      raise flags.UserError(f"--input={config.input}: a file changed while it was read")
    log = ReadLog(tuple(sources), tuple(cut), tuple(PieceResult(**record.read_json(path)) for path in results))
    rejected = contents.rejected(log, config.max_reject_fraction)
    rows = tuple(Part(parts.part_path(place.rows, i, j), n) for i, result in enumerate(log.results) for j, n in enumerate(result.parts))
    times = None
    if schema.time is not None and rows:
      times = timeline(rows, log.results)
      check_units(schema.time, log.results, times)
      say_order(schema.time, times)
      rows = _in_order(config, place, schema, times, limits)
    rows_of = splits.by_time(config, times, limits) if times is not None and limits else splits.by_place(config, log.rows_of_file())
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
    made = contents.describe(name, entry, schema, log, facts, tables, counted, rejected, times)
    made |= {} if like is None else {"like": like.entry}
    contents.write_rejects(place.out / "rejects.tsv", place.rows, log)
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
