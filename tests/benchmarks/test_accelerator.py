"""Tests benchmarks.accelerator: sections that end, fail, hang and find no time; what the rows are said to mean; wrong results are found."""

import dataclasses
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from benchmarks.accelerator import __main__ as program
from benchmarks.accelerator import correct, readme, rows, runner, sections, summary
from benchmarks.accelerator.findings import findings, is_right
from benchmarks.accelerator.small_steps import with_batch, with_model
from benchmarks.measure.workloads import RUNS
from dlrm_jax.common import flags, record
from dlrm_jax.common.flags import UserError
from dlrm_jax.embedding import engine

HEADER = {"hardware": {"platform": "gpu", "device": "NVIDIA <H200>", "num_devices": 1}, "software": {"jax": "0.11.2"}}


def found(*results: dict, **more) -> dict:
  return HEADER | {"sections": [], "results": list(results)} | more


def sentences(*results: dict, **more) -> list[str]:
  return [one.text for one in findings(found(*results, **more))]


def step(name: str, ms: float, num_rows: int = 100_000, section: str = "w1", **more) -> dict:
  return {"section": section, "name": name, "num_rows": num_rows, "pipelined_ms": ms, "pipelined_host_ms": 0.1 * ms} | more


def section(name: str, most_s: int = 60) -> sections.Section:
  return sections.Section(name, "none", most_s, "a trial")


def words(code: str) -> list[str]:
  return [sys.executable, "-c", code]


def ended(pid: int) -> bool:
  """Whether a process has ended; one whose parent has not waited for it yet counts as ended."""
  try:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
  except OSError:
    return True


def test_sections_end_each_in_its_own_way_and_keep_their_rows(tmp_path: Path):
  """One is done, one fails after a row, one hangs until its limit after a row and half a row, and no time is left for the last."""
  line = json.dumps({"section": "x", "value": 1})
  keep = f"import pathlib; p = pathlib.Path({str(tmp_path / runner.LINES)!r}).open('a'); p.write({line!r} + chr(10)); p.flush()"
  codes = {
    "good": keep,
    "bad": f"{keep}; print('why it failed'); raise SystemExit(3)",
    "slow": f"{keep}; p.write('{{\"sec'); p.flush(); import time; time.sleep(600)",
    "late": keep,
  }
  seen = []

  def command(one: sections.Section) -> list[str]:
    if one.name != "good":
      kept = record.read_json(tmp_path / runner.RESULTS)
      seen.append(([ran["status"] for ran in kept["sections"]], len(kept["results"])))  # on disk after each section
    return words(codes[one.name])

  (tmp_path / runner.LINES).write_text(line + "\n")  # of an earlier check
  record.write_json(tmp_path / runner.RESULTS, {"sections": [{"status": "old"}], "results": []})
  todo = [section("good"), section("bad"), section("slow", most_s=3), section("late")]
  ended = runner.run(todo, tmp_path, runner._LEAST_S + 2.9, tiny=True, command=command)
  assert [(one.section, one.status, one.exit_code) for one in ended] == [
    ("good", "done", 0),
    ("bad", "failed", 3),
    ("slow", "out of time", None),
    ("late", "not begun", None),
  ]
  assert seen == [(["done"], 1), (["done", "failed"], 2)]
  kept = record.read_json(tmp_path / runner.RESULTS)
  assert len(kept["results"]) == 3 and (kept["size"], len(kept["sections"])) == ("tiny", 4)
  assert (tmp_path / "logs" / "bad.txt").read_text() == "why it failed\n"
  text = summary.text(kept)
  assert "Section bad failed with exit code 3; logs/bad.txt says why." in text
  assert "Section slow was stopped after 3 s; its rows so far count." in text
  assert "Section late was not begun: no time was left." in text


def test_processes_of_a_section_end_with_it(tmp_path: Path):
  """At its limit, a section's child would hold the accelerator of the next section."""
  child = f"import os, pathlib, time; pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(os.getpid())); time.sleep(600)"
  code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
  (one,) = runner.run([section("slow", most_s=3)], tmp_path, 60.0, tiny=True, command=lambda _: words(code))
  assert one.status == "out of time"
  for _ in range(100):
    if not ended(int((tmp_path / "pid").read_text())):
      time.sleep(0.1)
  assert ended(int((tmp_path / "pid").read_text()))


def test_a_section_ends_when_its_runner_is_killed(tmp_path: Path):
  """The middle process stands for the runner. It is killed, and the section that it started ends by itself."""
  code = "from benchmarks.accelerator import section; import os, pathlib, time; section._end_with(os.getppid()); "
  code += f"pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(os.getpid())); time.sleep(600)"
  middle = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {code!r}], start_new_session=True)"
  process = subprocess.Popen(words(middle))
  for _ in range(600):
    if (tmp_path / "pid").exists() and (pid := (tmp_path / "pid").read_text()):
      break
    time.sleep(0.1)
  process.kill()
  process.wait()
  for _ in range(100):
    if not ended(int(pid)):
      time.sleep(0.1)
  assert ended(int(pid))


@pytest.mark.parametrize(("budget_s", "slower", "most"), [(runner._LEAST_S + 1, 100.0, "16"), (1000.0, 3.0, "6"), (1000.0, 1.0, "2")])
def test_a_section_has_its_limit_but_no_more_than_is_left(budget_s, slower, most, tmp_path: Path, capsys):
  runner.run([section("one", most_s=2)], tmp_path, budget_s, tiny=True, slower=slower, command=lambda _: words("pass"))
  assert f"(at most {most} s)" in capsys.readouterr().err


def test_ctrl_c_ends_the_section_and_says_what_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
  pid = tmp_path / "pid"
  code = f"import os, pathlib, time; pathlib.Path({str(pid)!r}).write_text(str(os.getpid())); time.sleep(600)"
  monkeypatch.setattr(runner, "_words", lambda *_: words(code))

  wait, asked = subprocess.Popen.wait, []

  def interrupted(self: subprocess.Popen, timeout: float | None = None) -> int:
    """Interrupts the wait for the section once that runs."""
    if self.args == words(code) and not asked:
      asked.append(True)
      while not (pid.exists() and pid.read_text()):
        time.sleep(0.05)
      raise KeyboardInterrupt
    return wait(self, timeout)

  monkeypatch.setattr(subprocess.Popen, "wait", interrupted)
  with pytest.raises(SystemExit) as stop:
    program.main(program.AcceleratorConfig(output=str(tmp_path / "out"), sections=("env",)))
  assert stop.value.code == 130 and "begins anew and replaces them" in capsys.readouterr().err
  with pytest.raises(ProcessLookupError):
    os.kill(int(pid.read_text()), 0)


def test_a_check_that_was_not_made_is_no_success(tmp_path: Path):
  ran = {"section": "correct", "status": "not begun", "seconds": 0.0, "exit_code": None}
  nothing = found(sections=[ran])
  assert not is_right(nothing) and "Nothing was checked: whether results are right here is not known." in [
    f.text for f in findings(nothing)
  ]
  assert is_right(found(sections=[ran | {"section": "w1"}]))
  broken = {"section": "correct", "what": "engine", "case": "a", "error": "ValueError: no"}
  right = {"section": "correct", "what": "engine", "case": "b", "ok": True}
  assert not is_right(found(right, broken, sections=[ran])) and is_right(found(right, sections=[ran]))
  program_out = tmp_path / "out"
  with pytest.raises(SystemExit) as stop:
    program.main(program.AcceleratorConfig(output=str(program_out), sections=("correct",), budget_s=1.0))
  assert stop.value.code == 1 and (program_out / "summary.html").exists()


def test_a_case_that_fails_has_a_row_and_the_next_one_runs(tmp_path: Path, capsys):
  kept = rows.Rows("w1", tmp_path / "rows")
  kept.case(lambda: {"ms": float("nan")}, name="first")
  kept.case(lambda: 1 / 0, name="second")
  kept.case(lambda: [{"a": 1}, {"a": 2}], name="third")
  first, second, *third = rows.read(tmp_path / "rows")
  assert (first["section"], first["name"], first["ms"]) == ("w1", "first", None)
  assert second["error"] == "ZeroDivisionError: division by zero"
  assert [(row["name"], row["a"]) for row in third] == [("third", 1), ("third", 2)]
  assert "Traceback" in capsys.readouterr().err
  assert sentences(second) == ["w1: second was not measured: ZeroDivisionError: division by zero"]
  assert rows.read(tmp_path / "none") == []


def test_every_section_has_a_function():
  for one in sections.SECTIONS.values():
    assert callable(one.load())


def test_right_and_wrong_results_are_told_apart():
  engine_rows = [{"section": "correct", "what": "engine", "case": name, "ok": ok} for name, ok in (("a", True), ("b", False))]
  steps = {"section": "correct", "what": "steps beside the CPU's", "case": "W1", "steps": 10, "same_bits_twice": False}
  steps |= {"tables_difference": 0.18, "tables_difference_of_order": 0.066}
  assert sentences(engine_rows[0]) == ["The engine equals the dense oracle in 1 of 1 cases."]
  assert sentences(*engine_rows) == ["The engine equals the dense oracle in 1 of 2 cases; not with b."]
  shown = "10 steps of W1 end in tables 0.18 from the CPU's, whose own are 0.066 apart if examples come in another order: rounding"
  assert sentences(steps | {"ok": True}) == [f"{shown} explains that.", "The same steps do not give the same bits twice."]
  again = sentences(steps | {"ok": False, "same_bits_twice": True})
  assert again == [f"{shown} does not explain that.", "The same steps give the same bits twice."]
  broken = steps | {"ok": False, "tables_difference": None}  # NaN, as it is written
  assert sentences(broken)[0] == "10 steps of W1 here end in tables that hold NaN or infinity." and not is_right(found(broken))
  assert summary.page(found(broken)) and summary.text(found(broken)).count("NO") == 1
  assert is_right(found(engine_rows[0], steps | {"ok": True}))
  assert not is_right(found(*engine_rows)) and not is_right(found(steps | {"ok": False}))


def test_what_times_of_steps_say():
  small = [step("W1", 0.25, 1000), step("W1", 0.5, 100_000), step("W1", 0.26, 1_000_000)]
  (flat,) = findings(found(small[0], small[2]))
  assert (flat.text, flat.good) == (
    "A step of W1 takes 0.25 ms with tables of 1,000 rows and 0.26 ms with 1,000,000, 1.04 times as long.",
    True,
  )
  (bumpy,) = findings(found(*small))
  assert bumpy.text.endswith("1.04 times as long; the longest is 0.5 ms, with 100,000.") and bumpy.good is None
  eight = step("W1, 8 steps a call", 0.2)
  assert sentences(small[0], eight) == []  # of other tables
  (shrinks,) = findings(found(step("W1", 0.5, 1000), step("W1", 0.3, 10_000), step("W1", 0.2, 100_000)))
  assert shrinks.good is True and "0.40 times as long" in shrinks.text
  assert sentences(small[1], eight) == ["With 8 steps in a call, a step of W1 takes 0.40 times as long as alone."]
  held = step("small", 0.3, pipelined_host_ms=0.29)
  assert sentences(held, eight) == ["The host, not the device, sets the time of 1 of 2 small steps: small, 100,000 rows."]
  assert sentences(held, eight, hardware={"platform": "cpu", "cpu": "x"}) == []


def test_what_large_steps_lookups_and_peers_say():
  same = {"embed_dim": 128, "batch_size": 65_536, "compute_dtype": "bfloat16"}
  ours = step("large, bfloat16", 6.0, 1_000_000, "large", table_dtype="float32", **same)
  ours |= {"pipelined_examples_per_s": 1.1e7, "pipelined_mfu": 0.161, "pipelined_bandwidth_share": 0.09, "peak_source": "datasheet"}
  shown = "large, bfloat16: 6 ms a step, 11,000,000 examples/s, 16% of the peak FLOP/s, 9% of the peak bandwidth (datasheet)."
  peers = [
    {"section": "peer", "trainer": name, "workload": "step", "num_rows": 1_000_000, "pipelined_ms": ms} | same
    for name, ms in (("a", 9.0), ("b", 7.5))
  ]
  assert sentences(ours, *peers) == [shown, "large, bfloat16: the fastest of 2 others, b, takes 7.5 ms, 1.25 times as long as ours."]
  assert sentences(ours, peers[0] | {"compute_dtype": "float32"}, peers[1] | {"workload": "emb"}) == [shown]
  assert len(sentences(ours | {"table_dtype": "bfloat16"}, *peers)) == 1  # theirs are float32
  slower = findings(found(ours, peers[0] | {"pipelined_ms": 3.0}))[-1]
  assert slower.good is False and slower.text.endswith("takes 3 ms, 0.50 times as long as ours.")
  gather = {"section": "lookup", "operation": "gather", "num_rows": 1_000_000, "embed_dim": 128, "skew": 3.0, "share_of_copy": 0.42}
  assert sentences(gather) == ["A gather of 1,000,000 rows a table, dim 128, skew 3, moves its bytes at 42% of a copy's bandwidth."]
  assert sentences(size="tiny") == ["Tiny sizes: this tried the program, and its times say nothing."]


def test_text_and_page_hold_findings_and_tables():
  given = found(step("W1 <b>", 0.25, 1000), {"section": "correct", "what": "engine", "case": "a", "ok": False})
  text, page = summary.text(given), summary.page(given)
  assert "! The engine equals the dense oracle in 0 of 1 cases; not with a." in text.splitlines()
  assert "W1 <b>    1,000         0.250          0.025" in text
  assert '<li class="bad">The engine equals the dense oracle in 0 of 1 cases; not with a.</li>' in page
  assert "NVIDIA &lt;H200&gt;" in page and "W1 &lt;b&gt;" in page and "<b>" not in page and "http" not in page


def test_the_kept_figures_and_the_readme_agree(tmp_path: Path):
  root = Path(__file__).resolve().parents[2]
  for path in readme.RESULTS.glob("*.json"):
    assert is_right(record.read_json(path)) and summary.text(record.read_json(path))
  page = tmp_path / "README.md"
  page.write_text((root / "README.md").read_text())
  program.main(program.AcceleratorConfig(markdown=str(page)))
  assert page.read_text() == (root / "README.md").read_text()
  h200 = [line.split("|")[2].strip() for line in readme.section().splitlines()[2:6]]
  assert h200 == ["8 of 8", "0.262 ms", "0.263 ms", "0.364 ms"]


def test_steps_beside_the_cpu_find_a_wrong_update(monkeypatch: pytest.MonkeyPatch):
  """Right steps are found right. Gradients of tables that are a percent too large here alone are found out."""
  run = with_model(with_batch(dataclasses.replace(RUNS["small"], data="criteo_like", steps_per_call=1), 64), num_rows=50)
  right = correct.beside_cpu(run, 3)
  assert right["ok"] and right["same_bits_twice"] and right["tables_difference"] < 1e-5 and 0 < right["tables_difference_of_order"] < 1e-5
  original, calls = engine.update, []

  def wrong(plan, mesh, tables, routes, grads, rule):
    calls.append(1)
    scale = 1.01 if len(calls) == 1 else 1.0  # the program here, and not that of the CPU
    return original(plan, mesh, tables, routes, {name: scale * grad for name, grad in grads.items()}, rule)

  monkeypatch.setattr(engine, "update", wrong)
  changed = with_model(dataclasses.replace(run, train=dataclasses.replace(run.train, table_optimizer="sgd")), num_rows=51)
  found_wrong = correct.beside_cpu(changed, 3)
  assert not found_wrong["ok"] and found_wrong["tables_difference"] > 1e-4, found_wrong


def test_nan_in_any_table_is_wrong(monkeypatch: pytest.MonkeyPatch):
  def trained(run, device, steps, first=None, order=None):
    last = np.array([np.nan if first is None else 1.0])
    return correct.Trained([], np.ones(steps), [np.ones(2), last])

  monkeypatch.setattr(correct, "trained", trained)
  row = correct.beside_cpu(RUNS["W1"], 3)
  assert row["ok"] is False and np.isnan(row["tables_difference"]) and row["tables_difference_of_order"] == 0


def test_difference_by_hand():
  assert correct.difference(np.array([3.0, 0.0]), np.array([3.0, 4.0])) == pytest.approx(4 / 5)


@pytest.mark.parametrize(
  ("given", "message"),
  [
    ([], r"^--output=: must be a directory$"),
    (["--output=x", "--sections=env,env"], "--sections=env,env: must be each section once, one at least"),
    (["--output=x", "--sections=nothing"], "--sections=nothing"),
    (["--output=x", "--budget_s=0"], "--budget_s=0"),
  ],
)
def test_bad_flags_are_refused(given, message):
  with pytest.raises(UserError, match=message):
    flags.parse(["accelerator", *given], program.AcceleratorConfig)


@pytest.mark.slow
def test_the_whole_program_at_tiny_sizes(tmp_path: Path):
  """Every section ends, results are right, and two such directories can be compared."""
  program.main(program.AcceleratorConfig(output=str(tmp_path / "a"), size="tiny", budget_s=900.0))
  kept = record.read_json(tmp_path / "a" / runner.RESULTS)
  assert [(one["section"], one["status"]) for one in kept["sections"]] == [(name, "done") for name in sections.SECTIONS]
  assert not [row for row in kept["results"] if row.get("error")] and is_right(kept)
  assert {row["section"] for row in kept["results"]} == set(sections.SECTIONS)
