"""Tests benchmarks/profile.py and trace.py: time divided by hand on made-up traces, scopes from program text, a small run."""

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import profile
from benchmarks.compiled.trace import Division, OpEvent, divide, op_names, read, scope_of
from benchmarks.profile import PRESETS, ProfileConfig, rows_of, steps_of
from dlrm_jax.common import flags
from dlrm_jax.common.flags import UserError


def parse(*words: str) -> ProfileConfig:
  return flags.parse(["profile", *words], ProfileConfig, PRESETS)


def ran(lane: int, start: float, end: float, op: str) -> OpEvent:
  return OpEvent((1, lane), start, end, ("jit_step", op))


def test_time_of_nested_and_parallel_operations_is_counted_once():
  """Two steps of 100 us. Lane 1: a loop from 10 to 70 that runs a 20..30 and b 30..50; lane 2: c 40..80. Then d 90..95.

  10..20 loop, 20..30 a, 30..40 b, 40..50 b and c halve it, 50..70 loop and c halve it, 70..80 c, 80..90 nothing, 90..95 d, 95..100 nothing.
  """
  step = [ran(1, 10, 70, "loop"), ran(1, 30, 50, "b"), ran(1, 20, 30, "a"), ran(2, 40, 80, "c"), ran(1, 90, 95, "d")]
  again = [OpEvent(e.lane, e.start + 1000, e.end + 1000, e.op) for e in step]
  outside = [ran(1, 200, 900, "a"), ran(2, 1100, 1200, "c")]
  got = divide([*outside, *again, *step], [(0.0, 100.0), (1000.0, 1100.0)])
  assert {op: time / 2 for (_, op), time in got.ops.items()} == pytest.approx(
    {"loop": 10 + 20 / 2, "a": 10, "b": 10 + 10 / 2, "c": 10 / 2 + 20 / 2 + 10, "d": 5}
  )
  assert (got.before / 2, got.between / 2, got.after / 2) == (10, 10, 5)
  assert got.wall == 200


def test_operations_that_touch_a_step_count_inside_it_alone():
  got = divide([ran(1, -20, 30, "a"), ran(2, 10, 30, "a"), ran(1, 60, 140, "b")], [(0, 100)])
  assert got == Division({("jit_step", "a"): 30, ("jit_step", "b"): 40}, 0, 30, 0)
  assert divide([], [(0, 100)]) == Division({}, 100, 0, 0)


def trace_file(tmp_path: Path, events: list[dict]) -> Path:
  path = tmp_path / "host.trace.json.gz"
  path.write_bytes(gzip.compress(json.dumps({"displayTimeUnit": "ns", "traceEvents": [*events, {}]}).encode()))
  return path


MARK = {"ph": "X", "pid": 7, "tid": 1, "ts": 5.5, "dur": 20, "name": "train", "args": {"step_num": "0"}}
DOT = {"ph": "X", "pid": 7, "tid": 2, "ts": 6, "dur": 2.25, "name": "dot.3", "args": {"hlo_module": "jit_step", "hlo_op": "dot.3"}}


def test_a_trace_is_read_by_its_marks(tmp_path):
  others = [
    {"ph": "M", "pid": 7, "name": "process_name", "args": {"name": "/host:CPU"}},
    {"ph": "X", "pid": 7, "tid": 2, "ts": 6, "dur": 9, "name": "ThunkExecutor::Execute"},
    {"ph": "X", "pid": 7, "tid": 1, "ts": 0, "dur": 50, "name": "train"},  # a function of that name
  ]
  events, steps = read(trace_file(tmp_path, [*others, MARK | {"ts": 40, "args": {"step_num": "1"}}, DOT, MARK]))
  assert events == [OpEvent((7, 2), 6, 8.25, ("jit_step", "dot.3"))]
  assert steps == [(5.5, 25.5), (40, 60)]


def test_traces_without_marks_or_cut_off_are_refused(tmp_path):
  with pytest.raises(UserError, match=r"names no operation \(hlo_op\)"):
    read(trace_file(tmp_path, [MARK, DOT | {"args": {}}]))
  with pytest.raises(UserError, match="names no step"):
    read(trace_file(tmp_path, [DOT]))
  with pytest.raises(UserError, match="holds 2 events and is cut off there; ask for fewer --steps"):
    read(trace_file(tmp_path, [MARK, DOT]), most_events=2)


@pytest.mark.parametrize(
  ("name", "scope"),
  [
    ("jit(step)/lookup/gather", "lookup"),
    ("jit(step)/jvp(overarch)/dot_general", "overarch"),
    ("jit(step)/transpose(jvp(overarch))/jit(relu)/select_n", "overarch"),
    ("jit(step)/jvp(loss)/bottom/dot_general", "bottom"),
    ("jit(step)/update/shard_map/while/body/exchange_values/all_to_all", "update/exchange_values"),
    ("jit(step)/shard_map/exchange_ids/all_gather", "exchange_ids"),
    ("jit(step)/jit(update)/mul", ""),  # a function, not a scope
    ("jit(step)/dense_update/mul", "dense_update"),
    ("jit(step)/my_lookup/add", ""),
    ("old.dense['bottom']['layers'][0]['kernel'].value", ""),
    ("", ""),
  ],
)
def test_scope_in_the_name_of_an_operation(name, scope):
  assert scope_of(name) == scope


STEP_TEXT = """HloModule jit_step, is_scheduled=true

%joined (p.0: f32[100,4], p.1: s32[6,1], p.2: f32[6,4]) -> f32[12,4] {
  %p.0 = f32[100,4]{1,0} parameter(0)
  %p.1 = s32[6,1]{1,0} parameter(1)
  %p.2 = f32[6,4]{1,0} parameter(2)
  %rows = f32[6,4]{1,0} gather(%p.0, %p.1), metadata={op_name="jit(step)/lookup/gather"}
  ROOT %both = f32[12,4]{1,0} concatenate(%p.2, %rows), metadata={op_name="jit(step)/jvp(interaction)/concatenate"}
}

%scaled (p.3: f32[12,4]) -> f32[12,4] {
  %p.3 = f32[12,4]{1,0} parameter(0)
  %twice = f32[12,4]{1,0} add(%p.3, %p.3), metadata={op_name="jit(step)/jvp(overarch)/add"}
  ROOT %square = f32[12,4]{1,0} multiply(%twice, %twice), metadata={op_name="jit(step)/transpose(jvp(loss))/mul"}
}

%deep (p.4: f32[12,4]) -> f32[12,4] {
  %p.4 = f32[12,4]{1,0} parameter(0)
  ROOT %root = f32[12,4]{1,0} negate(%p.4), metadata={op_name="jit(step)/dense_update/neg"}
}

ENTRY %main (table: f32[100,4], ids: s32[6,1], hidden: f32[6,4]) -> f32[12,4] {
  %table = f32[100,4]{1,0} parameter(0), metadata={op_name="table"}
  %ids = s32[6,1]{1,0} parameter(1)
  %hidden = f32[6,4]{1,0} parameter(2)
  %copy.1 = f32[6,4]{1,0} copy(%hidden)
  %fusion.1 = f32[12,4]{1,0} fusion(%table, %ids, %copy.1), kind=kLoop, calls=%joined, metadata={op_name="jit(step)/concatenate"}
  %fusion.2 = f32[12,4]{1,0} fusion(%fusion.1), kind=kLoop, calls=%scaled
  %fusion.3 = f32[12,4]{1,0} fusion(%fusion.2), kind=kLoop, calls=%deep
  %dot.1 = f32[12,4]{1,0} multiply(%fusion.2, %fusion.2)
  %dot.2 = f32[12,4]{1,0} multiply(%fusion.2, %fusion.3)
  %tanh.1 = f32[12,4]{1,0} tanh(%fusion.2), metadata={op_name="jit(step)/tanh"}
  ROOT %sum.1 = f32[12,4]{1,0} add(%dot.1, %dot.2), metadata={op_name="jit(step)/update/add"}
}
"""


def test_names_of_fusions_and_of_what_the_compiler_made():
  names = op_names(STEP_TEXT)
  scopes = {name: scope_of(names[name]) for name in names if "." in name and not name.startswith("p.")}
  assert scopes == {
    "copy.1": "",
    "fusion.1": "lookup",  # the gather takes the time, not the concatenation that it was fused into
    "fusion.2": "loss",  # its root
    "fusion.3": "dense_update",
    "dot.1": "loss",  # all it reads
    "dot.2": "update",  # it reads from two scopes, one reads it
    "tanh.1": "",
    "sum.1": "update",
  }


def test_rows_by_hand():
  ops = {("jit_step", "fusion.1"): 3000.0, ("jit_step", "fusion.2"): 1000.0, ("jit_step", "dot.1"): 1500.0, ("jit_step", "tanh.1"): 500.0}
  division = Division(ops | {("jit__draw", "fusion.2"): 2400.0}, 600.0, 0.0, 1000.0)
  rows, single = rows_of(division, STEP_TEXT, steps=2, others="draws")
  found = [
    (r["scope"], r["ms_per_step"], r["backward_ms_per_step"], r["share"], r["num_ops"], r.get("top_op"), r.get("top_op_ms")) for r in rows
  ]
  assert found == [
    ("lookup", 1.5, 0, 0.3, 1, "fusion.1", 1.5),
    ("loss", 1.25, 1.25, 0.25, 2, "dot.1", 0.75),
    ("draws", 1.2, 0, 0.24, 1, "fusion.2", 1.2),
    ("(no scope)", 0.25, 0, 0.05, 1, "tanh.1", 0.25),
    ("(before the first op)", 0.3, 0, 0.06, 0, None, None),
    ("(between ops)", 0, 0, 0, 0, None, None),
    ("(after the last op)", 0.5, 0, 0.1, 0, None, None),
  ]
  assert [(op["program"], op["op"], op["scope"]) for op in single[:2]] == [
    ("jit_step", "fusion.1", "lookup"),
    ("jit__draw", "fusion.2", "draws"),
  ]


def test_planted_data_is_profiled_over_whole_draws():
  assert steps_of(parse("--data=planted", "--preset=small", "--batch_size=1024", "--steps=10")) == 16  # 8192 examples are drawn at once
  assert steps_of(parse("--data=planted", "--preset=small", "--batch_size=8192", "--steps=3", "--steps_per_call=1")) == 3
  assert steps_of(parse("--data=planted", "--preset=small", "--batch_size=4096", "--steps=3", "--steps_per_call=3")) == 6
  assert steps_of(parse("--steps=10")) == 10


def program(*words: str) -> subprocess.CompletedProcess[str]:
  return subprocess.run([sys.executable, "-m", "benchmarks.profile", *words], capture_output=True, text=True, check=False)


def test_a_run_on_planted_data(tmp_path):
  out = tmp_path / "there" / "profile"
  small = ("--preset=tiny", "--batch_size=4096", "--steps=3", "--warmup=1", "--name=t", "--steps_per_call=2")
  done = program(*small, f"--output={out}")
  assert done.returncode == 0, done.stderr
  made = json.loads((out / "profile.json").read_text())
  assert (made["steps"], made["results"][0]["name"], made["results"][0]["batch_size"]) == (4, "t", 4096)
  times = {row["scope"]: row["ms_per_step"] for row in made["results"]}
  assert sum(times.values()) == pytest.approx(made["step_ms_profiled"], rel=1e-9)
  assert sum(row["share"] for row in made["results"]) == pytest.approx(1)
  assert sum(op["ms_per_step"] for op in made["ops"]) == pytest.approx(
    sum(t for scope, t in times.items() if scope[0] != "(" or scope == profile.NO_SCOPE)
  )
  expected = {"draws", "lookup", "interaction", "overarch", "loss", "dense_update", "update"}
  assert expected <= set(times) and all(times[scope] > 0 for scope in expected)
  trace_events = json.loads(gzip.decompress(Path(made["perfetto_trace"]).read_bytes()))["traceEvents"]
  assert sum(event.get("name") == "train" for event in trace_events) == 2  # calls
  assert Path(made["xprof_trace"]).stat().st_size > 10_000
  for line in ("dense_update", "a step, wall time", made["perfetto_trace"], f"tensorboard --logdir={out}"):
    assert line in done.stdout


@pytest.mark.parametrize(
  ("words", "message"),
  [
    (("--steps=0",), "--steps=0: must be at least 1"),
    (("--warmup=-1",), "--warmup=-1: must be at least 0"),
    (("--parallelism=pmap",), "--parallelism=pmap: must be jit"),
    (("--learner=per_id", "--preset=small"), "--learner=per_id: must be dlrm: nothing else is profiled"),
    (("--preset=nil",), "--preset=nil: must be among W1"),
  ],
)
def test_bad_flags(words, message):
  with pytest.raises(UserError, match=message):
    parse(*words)


@pytest.mark.parametrize(
  ("words", "message"),
  [
    ((), "--output=: must be a directory for the trace and profile.json"),
    (("--output={there}/file/deeper",), "--output={there}/file/deeper/profile.json: must be in a directory that can be written"),
    (("--output={there}/x", "--data=nowhere"), "--data=nowhere: must be planted, a directory"),
    (("--output={there}/x", "--mesh=64"), "--mesh=64: "),
  ],
)
def test_bad_input_leaves_nothing(tmp_path, words, message):
  (tmp_path / "file").write_text("")
  with pytest.raises(UserError) as error:
    profile.main(parse("--preset=tiny", "--batch_size=256", *(word.format(there=tmp_path) for word in words)))
  assert str(error.value).startswith(message.format(there=tmp_path)) and "\n" not in str(error.value)
  assert [path.name for path in tmp_path.iterdir()] == ["file"]
