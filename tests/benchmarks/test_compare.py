"""Tests benchmarks.compare: matched rows, ratios and differences by hand, words among flags, the chart, bad input."""

import dataclasses
import json
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.compare import __main__ as program
from benchmarks.compare import results
from benchmarks.compare.__main__ import CompareConfig, chosen_metric, mean_ratios
from benchmarks.compare.chart import MOST_LINES, compare_chart, shortened
from benchmarks.compare.results import differences, direction, load, ratio_text, value_text
from benchmarks.compare.side_by_side import Line, file_labels, match
from dlrm_jax.common import flags
from dlrm_jax.common.flags import UserError

CPU = {"cpu": "Some(R) Processor @ 2.50GHz", "cores": 2, "platform": "cpu", "device": "cpu", "num_devices": 1}
GPU = CPU | {"platform": "gpu", "device": "NVIDIA A100", "num_devices": 8}
STEP = {"name": "W1", "batch_size": 2048, "num_rows": 1000, "embed_dim": 16, "mesh": "1", "placements": "26 row", "steps": 50}


def write(path: Path, rows: list[dict], hardware: dict | None = None, jax: str = "0.10.2", flags: tuple[str, ...] = ()) -> str:
  command = ["python", "-m", "benchmarks.step", f"--output={path}", *flags]
  software = {"python": "3.11.7", "jax": jax, "git_commit": None}
  content = {"schema_version": 1, "command": command, "hardware": hardware or CPU, "software": software, "results": rows}
  path.write_text(json.dumps(content))
  return str(path)


def times(*values: float | None) -> list[dict]:
  return [STEP | {"mesh": str(2**n), "step_ms_p50": value, "examples_per_s": 1e5 / (value or 1)} for n, value in enumerate(values)]


def test_rows_are_matched_by_what_identifies_them_wherever_they_stand(tmp_path):
  a = load(write(tmp_path / "a.json", times(80.0, 40.0, 25.0)))
  shuffled = [times(8.0, 12.0, 5.0)[n] | {"steps": 7, "placements": "26 column"} for n in (2, 0, 1)]
  b = load(write(tmp_path / "b.json", [*shuffled, times(8.0)[0] | {"batch_size": 4096, "placements": "26 column"}]))
  got = match([a, b], "step_ms_p50")
  assert [(line.label, line.values, line.ratios) for line in got.lines] == [
    ("batch 2,048 · mesh 1", (80, 8), (1, pytest.approx(0.1))),
    ("batch 2,048 · mesh 2", (40, 12), (1, pytest.approx(0.3))),
    ("batch 2,048 · mesh 4", (25, 5), (1, pytest.approx(0.2))),
  ]
  assert got.alone == ((b.path, "batch 4,096 · mesh 1", 8),)
  assert got.differing == {"placements": ("26 row", "26 column")}  # one value in each file: it is what is compared
  assert got.common == {"name": "W1", "batch_size": 2048, "num_rows": 1000, "embed_dim": 16}
  assert mean_ratios(got, 2) == [1, pytest.approx(0.006 ** (1 / 3))]


def test_a_field_with_several_values_in_a_file_keeps_rows_apart(tmp_path):
  rows = [STEP | {"placements": p, "step_ms_p50": t} for p, t in (("26 row", 10.0), ("26 column", 20.0))]
  a, b = load(write(tmp_path / "a.json", rows)), load(write(tmp_path / "b.json", [rows[1] | {"step_ms_p50": 5.0}]))
  got = match([a, b], "step_ms_p50")
  assert [(line.label, line.values) for line in got.lines] == [("26 column", (20, 5))]
  assert got.alone == ((a.path, "26 row", 10),) and got.differing == {}


def test_three_files_and_missing_values(tmp_path):
  paths = [write(tmp_path / f"{n}.json", rows) for n, rows in enumerate([times(4.0, None), times(2.0, 3.0, 0.0), times(8.0, 6.0, 7.0)])]
  got = match([load(path) for path in paths], "step_ms_p50")
  assert [line.values for line in got.lines] == [(4, 2, 8), (None, 3, 6), (None, 0, 7)]
  assert [line.ratios for line in got.lines] == [(1, 0.5, 2), (None, None, None), (None, None, None)]
  assert Line("", {}, (0.0, 3.0)).ratios == (None, None)
  assert mean_ratios(got, 3) == [1, 0.5, 2]


def test_rows_that_cannot_be_matched_are_reported(tmp_path):
  a = load(write(tmp_path / "a.json", times(8.0)))
  b = load(write(tmp_path / "b.json", [times(4.0)[0] | {"num_rows": 10_000}]))
  with pytest.raises(UserError, match=r"no rows in common: they differ in num_rows \(1000 \| 10000\); --ignore=NAME"):
    match([a, b], "step_ms_p50")
  got = match([a, b], "step_ms_p50", ("num_rows",))
  assert [line.values for line in got.lines] == [(8, 4)] and got.differing == {"num_rows": (1000, 10_000)}
  with pytest.raises(UserError, match="--ignore=colour: must be among name, batch_size, num_rows"):
    match([a, b], "step_ms_p50", ("colour",))
  twice = load(write(tmp_path / "twice.json", times(8.0, 4.0)))
  with pytest.raises(UserError, match=r"twice.json: several rows are name=W1, .*: nothing tells them apart but what --ignore names"):
    match([twice, a], "step_ms_p50", ("mesh",))


def test_fractions_are_facts_unless_they_are_settings(tmp_path):
  some = {"ratio_to_ours": None, "versions": "jax 1"}
  rows = [STEP | some | {"skew": skew, "distinct_share": skew / 7, "step_ms_p50": skew} for skew in (1.0, 3.0)]
  a = load(write(tmp_path / "a.json", rows))
  b = load(
    write(tmp_path / "b.json", [row | {"ratio_to_ours": row["skew"], "step_ms_p50": row["skew"] * 2, "versions": "2"} for row in rows])
  )
  assert [(line.label, line.ratios[1]) for line in match([a, b], "step_ms_p50").lines] == [("skew 1.0", 2), ("skew 3.0", 2)]


@pytest.mark.parametrize(
  ("better", "fields"),
  [
    (
      "lower",
      "step_ms_p50 cpu_ms_p90 floor_ms ms_per_step backward_ms_per_step peak_rss_bytes exchange_bytes_per_device compile_s cpu_growth",
    ),
    ("higher", "examples_per_s algorithm_bytes_per_s flops_per_s examples_per_cpu_s mfu bandwidth_share efficiency speedup"),
    (None, "name batch_size size_bytes steps planted_zipf_s mesh skew distinct_share"),
  ],
)
def test_direction_of_metrics(better, fields):
  assert {name: direction(name) for name in fields.split()} == dict.fromkeys(fields.split(), better)


def test_metric_chosen_and_unknown(tmp_path):
  a = load(write(tmp_path / "a.json", [STEP | {"examples_per_s": 5.0, "step_ms_p50": None, "floor_ms": 1.0}]))
  b = load(write(tmp_path / "b.json", [STEP | {"examples_per_s": 6.0, "step_ms_p50": 2.0}]))
  assert chosen_metric([a, b], "") == "examples_per_s"  # the first file knows no step time
  assert chosen_metric([b, dataclasses.replace(b, path="c")], "") == "step_ms_p50"
  with pytest.raises(UserError, match="--metric=floor_ms: must be in all files: examples_per_s$"):
    chosen_metric([a, b], "floor_ms")
  none = load(write(tmp_path / "none.json", [STEP]))
  with pytest.raises(UserError, match="have no metric in common"):
    chosen_metric([a, none], "")


def test_differences_and_labels_of_files(tmp_path):
  (tmp_path / "old").mkdir()
  a = load(write(tmp_path / "a.json", times(8.0), flags=("--mesh=1", "--checkpoint")))
  b = load(write(tmp_path / "old" / "a.json", times(4.0), GPU, "0.9.0", ("--mesh=8", "--seed=3")))
  changed = differences([a, b])
  assert changed == {
    "hardware.platform": ("cpu", "gpu"),
    "hardware.device": ("cpu", "NVIDIA A100"),
    "hardware.num_devices": ("1", "8"),
    "software.jax": ("0.10.2", "0.9.0"),
    "--mesh": ("1", "8"),
    "--checkpoint": ("given", "-"),
    "--seed": ("-", "3"),
  }
  assert file_labels([a, b], {"placements": ("26 row", "26 table")}, changed) == [
    f"{tmp_path.name}/a: Some, 26 row, jax 0.10.2, --mesh=1, ...",
    "old/a: 8 x NVIDIA A100, 26 table, jax 0.9.0, --mesh=8, ...",
  ]
  assert load(write(tmp_path / "four.json", times(8.0), CPU | {"num_devices": 4})).device == "Some as 4 simulated devices"


def topology(name: str, needed: int, bytes_each: int) -> dict:
  found = {"kind": "all-to-all", "category": "exchange_values", "in_loop": True, "bytes": bytes_each}
  return {
    "command": ["python", "-m", "benchmarks.topology"],
    "hardware": {"cpu": "Some", "cores": 1},
    "software": {"jax": "0.10.2"},
    "topology": name,
    "mesh": "8",
    "batch_size": 512,
    "memory": {"needed_bytes": needed, "fits": True},
    "collectives": [found, found, found | {"category": "dense", "in_loop": False}],
    "exchange": {"values_over_least": 1.25},
    "compile_s": 7.0,
  }


def test_topologies_by_memory_and_by_collective(tmp_path):
  for number, (name, needed, size) in enumerate([("tpu:v5e:2x4", 900, 100), ("tpu:v4:2x2x2", 300, 50)]):
    (tmp_path / f"{number}.json").write_text(json.dumps(topology(name, needed, size)))
  files = [load(str(tmp_path / "0.json")), load(str(tmp_path / "1.json"))]
  assert chosen_metric(files, "") == "needed_bytes"
  got = match(files, "needed_bytes")
  assert [line.values for line in got.lines] == [(900, 300)] and got.differing == {"topology": ("tpu:v5e:2x4", "tpu:v4:2x2x2")}
  assert [line.values for line in match(files, "values_over_least").lines] == [(1.25, 1.25)]
  assert [(line.label, line.values) for line in match(files, "collective_bytes").lines] == [
    ("all-to-all exchange_values", (200, 100)),
    ("all-to-all dense", (100, 50)),
  ]
  assert file_labels(files, got.differing, differences(files)) == ["0: tpu:v5e:2x4", "1: tpu:v4:2x2x2"]


def test_numbers_as_text():
  assert [value_text("step_ms_p50", v) for v in (38.84, 0.0123, 1234.5, None)] == ["38.8", "0.0123", "1,234", "-"]
  assert [value_text("needed_bytes", v) for v in (1767254016, 900)] == ["1.77GB", "900B"]
  assert value_text("examples_per_s", 52_649.0) == "52.6k"
  assert [ratio_text(ratio) for ratio in (1.794, 0.5, 0.0412)] == ["1.79x", "0.50x", "0.041x"]
  assert shortened("x" * 40 + "y" * 60) == "x" * 31 + "…" + "y" * 31


def test_chart_holds_the_values_and_leaves_rows_out():
  lines = [Line(f"row {n}", {}, (float(n), None if n == 3 else n / 4)) for n in range(40)]
  spec = compare_chart([line for line in lines if line.values[0]], ["a", "b"], "step_ms_p50", "lower", [])
  (marks,) = spec["datasets"].values()
  assert len({mark["row"] for mark in marks}) == MOST_LINES
  assert [(m["row"][3:], m["file"], m["value"], m["first"], m["text"]) for m in marks[2:6]] == [
    ("row 2", "a", 2, 2, "2"),
    ("row 2", "b", 0.5, 2, "0.5  (0.25x)"),
    ("row 3", "a", 3, 3, "3"),
    ("row 4", "a", 4, 4, "4"),
  ]
  low, high = spec["layer"][0]["encoding"]["x"]["scale"]["domain"]
  assert low < 0.25 and high > 30


def test_program_leaves_chart_and_numbers(tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  a = write(tmp_path / "before.json", times(*(10.0 + n for n in range(MOST_LINES + 3))))
  b = write(
    tmp_path / "after.json", [*times(*(5.0 for n in range(MOST_LINES + 2))), STEP | {"name": "W2", "step_ms_p50": 1.0}], jax="0.9.0"
  )
  program.main(flags.parse(["compare", a, "--output=out", b], CompareConfig))
  made = json.loads(Path("out/compare.json").read_text())
  assert (made["metric"], made["better"], made["differences"]) == ("step_ms_p50", "lower", {"software.jax": ["0.10.2", "0.9.0"]})
  assert [(r["file"], r["mesh"], r["value"], r["ratio"]) for r in made["results"][2:4]] == [
    (a, "2", 11, 1),
    (b, "2", 5, pytest.approx(5 / 11)),
  ]
  assert len(made["results"]) == 2 * (MOST_LINES + 2)
  assert {(row["file"], row["value"]) for row in made["unmatched"]} == {(a, 10.0 + MOST_LINES + 2), (b, 1.0)}
  shown = capsys.readouterr().out
  assert "step_ms_p50: lower is better" in shown and "differs: software.jax: 0.10.2 | 0.9.0" in shown
  assert f"only in {b}: W2" in shown and f"the chart shows {MOST_LINES} of {MOST_LINES + 2} rows" in shown
  picture = Path("out/compare.svg").read_text()
  assert picture.startswith("<svg") and "5  (0.45x)" in picture.replace("\u00a0", " ") and "before: Some" in picture
  head = Path("out/compare.png").read_bytes()[:24]
  assert head[:8] == b"\x89PNG\r\n\x1a\n" and struct.unpack(">II", head[16:])[0] > 1000


@pytest.mark.parametrize(
  ("words", "message"),
  [
    ((), "benchmark files to compare: none given; name two at least"),
    (("a.json",), "benchmark files to compare: a.json given; name two at least"),
    (("a.json", "a.json"), "a.json: given twice"),
    (("a.json", "nil.json"), "nil.json: no such file"),
    (("a.json", "text.json"), "text.json: not valid JSON"),
    (("a.json", "record.json"), "record.json: not a benchmark file: it has no hardware and software"),
    (("a.json", "empty.json"), "empty.json: not a benchmark file: it has no results"),
    (("a.json", "other.json"), "a.json and other.json: no rows in common: they differ in name"),
    (("a.json", "b.json", "--metric=joy"), "--metric=joy: must be in all files: step_ms_p50, examples_per_s"),
    (("a.json", "zero.json", "--metric=peak_rss_bytes"), "a.json and zero.json: have no metric in common"),
    (("zero.json", "zero2.json", "--metric=peak_rss_bytes"), "--metric=peak_rss_bytes: no value is above 0"),
    (("a.json", "b.json", "--output=a.json"), "--output=a.json/compare.json: must be in a directory that can be written"),
  ],
)
def test_bad_input_leaves_nothing(tmp_path, monkeypatch, words, message):
  monkeypatch.chdir(tmp_path)
  for name, rows in (("a", times(8.0)), ("b", times(4.0)), ("other", [times(4.0)[0] | {"name": "W2"}]), ("empty", [])):
    write(Path(f"{name}.json"), rows)
  for name in ("zero", "zero2"):
    write(Path(f"{name}.json"), [STEP | {"peak_rss_bytes": 0}])
  Path("text.json").write_text("{")
  Path("record.json").write_text('{"results": [{"a": 1}]}')
  before = {path.name for path in tmp_path.iterdir()}
  with pytest.raises(UserError) as error:
    program.main(flags.parse(["compare", "--output=out", *words], CompareConfig))
  assert str(error.value).startswith(message) and "\n" not in str(error.value)
  assert {path.name for path in tmp_path.iterdir()} == before


def test_words_among_flags():
  """Tests `flags`: a field declared with words=True takes the words in order, wherever flags are. Other programs refuse words."""
  got = flags.parse(["compare", "a", "--metric=m", "b", "--output", "d", "c"], CompareConfig)
  assert (got.files, got.metric, got.output) == (("a", "b", "c"), "m", "d")

  @dataclasses.dataclass(frozen=True)
  class Plain:
    size: int = flags.option(3, "a size")

  with pytest.raises(UserError, match="unexpected argument 'extra': flags are written --name=value"):
    flags.parse(["plain", "--size=4", "extra"], Plain)
  with pytest.raises(UserError, match="unexpected argument 'extra'"):
    flags.parse(["plain", "extra", "--size=4"], Plain)
  with pytest.raises(UserError, match="Unknown command line flag 'files'"):
    flags.parse(["compare", "a", "b", "--files=c"], CompareConfig)


def test_as_a_program(tmp_path):
  a, b = write(tmp_path / "a.json", times(8.0)), write(tmp_path / "b.json", times(4.0))
  run = lambda *words: subprocess.run([sys.executable, "-m", "benchmarks.compare", *words], capture_output=True, text=True, check=False)  # noqa: E731
  done = run(a, b)
  assert done.returncode == 0 and "0.50x" in done.stdout and {path.name for path in tmp_path.iterdir()} == {"a.json", "b.json"}
  helped = run("--help")
  assert helped.returncode == 0 and "FILES ...: benchmark files, two at least" in helped.stdout and "--files" not in helped.stdout
  bad = run(a)
  assert bad.returncode == 2 and bad.stderr.count("\n") == 1 and bad.stdout == ""


def test_profiles_are_compared_by_scope(tmp_path):
  rows = [
    STEP | {"scope": scope, "ms_per_step": time, "share": time / 3, "num_ops": 4} for scope, time in (("lookup", 1.0), ("update", 2.0))
  ]
  a = load(write(tmp_path / "a.json", rows))
  b = load(write(tmp_path / "b.json", [row | {"ms_per_step": row["ms_per_step"] ** 2, "num_ops": 9} for row in rows]))
  assert results.metrics_of([a, b]) == ["ms_per_step"]
  assert [(line.label, line.ratios[1]) for line in match([a, b], "ms_per_step").lines] == [("lookup", 1), ("update", 2)]
