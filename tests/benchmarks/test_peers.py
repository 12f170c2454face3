"""Tests benchmarks.peers: turns and ratios from made-up times, failing workers, our own worker against numpy, the table, bad input."""

import dataclasses
import datetime
import json
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from benchmarks.peers import __main__ as program
from benchmarks.peers import config as peers_config
from benchmarks.peers import worker
from benchmarks.peers.check import check_losses, difference
from benchmarks.peers.config import PeersConfig, bytes_of, check_memory, spec_of, usable_cores
from benchmarks.peers.process import ROOT, Worker, command_of, environment
from benchmarks.peers.table import markdown_table
from benchmarks.peers.worker import Clock, Spec
from dlrm_jax.common import flags
from dlrm_jax.common.flags import UserError
from dlrm_jax.common.markdown import replaced

PEERS_PYTHON = ".venv-peers/bin/python"

# Answers what a worker answers, with times from a table: trainer -> ms of each round's steps. Appends who was asked what to a file.
FAKE = """
import json, sys

TIMES = {"ours": [[9, 10, 12], [20, 20, 20], [40, 41, 30]], "fbgemm": [[30, 30, 31], [41, 40, 39], [200, 190, 210]]}
spec, log, fault = json.loads(sys.stdin.readline()), sys.argv[1], sys.argv[2]
name = spec["trainer"]
print(json.dumps({"ready": True, "versions": f"lib_{name} 1.0"}), flush=True)
turn = 0
for line in sys.stdin:
  request = json.loads(line)
  with open(log, "a") as file:
    file.write(json.dumps([name, spec["workload"], spec["num_rows"], request]) + "\\n")
  if "run" not in request:
    print(json.dumps({"floor_ms": 31.5, "floor_cpu_ms": 8.0}), flush=True)
    continue
  steps = request["run"]
  if steps == 3 and name == "fbgemm" and fault == "dies":
    print("low on luck", file=sys.stderr)
    sys.exit(7)
  if steps == 3 and name == "fbgemm" and fault == "garbage":
    print("Segmentation fault", flush=True)
    continue
  losses = [0.5 * (1.01 if fault == "differs" and name == "fbgemm" else 1)] * steps
  factor = spec["num_rows"] / 1000
  ms = [t * factor for t in TIMES[name][turn]] if steps == 3 else [1.0] * steps
  answer = {"wall_s": [t / 500 for t in ms], "cpu_s": [t / 1000 for t in ms], "losses": losses, "idle_cpu_s": 0.001}
  print(json.dumps(answer | {"peak_rss_bytes": 2**30 * spec["num_rows"] // 1000}), flush=True)
  turn += steps == 3
"""


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
  """Replaces all workers by the script above. Returns a function that makes configs and one that returns the requests so far."""
  script, log = tmp_path / "fake.py", tmp_path / "log"
  script.write_text(FAKE)

  def config(fault: str = "", **options) -> PeersConfig:
    monkeypatch.setattr(program, "command_of", lambda spec, peers_python: [sys.executable, str(script), str(log), fault])
    same = {"trainers": ("ours", "fbgemm"), "workloads": ("W1",), "num_rows": (1000, 4000), "peers_python": sys.executable}
    return PeersConfig(**(same | {"output": str(tmp_path / "out.json"), "rounds": 3, "steps": 3, "batch_size": 64} | options))

  def asked() -> list[list]:
    return [json.loads(line) for line in log.read_text().splitlines()]

  return config, asked


def test_turns_and_ratios_by_hand(fake, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
  config, asked = fake
  program.main(config())
  timed = [(name, rows) for name, _, rows, request in asked() if request.get("run") == 3]
  assert timed == [("ours", 1000), ("fbgemm", 1000), ("ours", 4000), ("fbgemm", 4000)] * 3
  assert all(request["warmup"] == 2 for *_, request in asked() if request.get("run") == 3)
  rows = {(row["name"], row["num_rows"]): row for row in json.loads((tmp_path / "out.json").read_text())["results"]}
  ours, fbgemm = rows["ours", 1000], rows["fbgemm", 1000]
  # medians of rounds: ours 10, 20, 40, fbgemm 30, 40, 200 ms of processor time, twice that by the wall
  for prefix in ("", "cpu_"):
    assert [fbgemm[f"{prefix}ratio_to_ours{end}"] for end in ("", "_min", "_max")] == pytest.approx([3, 2, 5])
    assert ours[f"{prefix}ratio_to_ours"] == 1
    assert rows["fbgemm", 4000][f"{prefix}growth"] == pytest.approx(4) and fbgemm[f"{prefix}growth"] == 1
  assert (ours["step_ms_p50"], ours["cpu_ms_p50"]) == pytest.approx((40, 20))
  assert ours["step_ms_p90"] == pytest.approx(2 * (40 + 0.2 * 1))  # 0.9 of the way from the first of nine to the last
  assert ours["examples_per_s"] == pytest.approx(64 * 9 / 0.404)
  assert (ours["steps"], ours["rounds"], ours["idle_cpu_ms"], ours["cores"], ours["embed_dim"]) == (9, 3, 1, 1, 16)
  assert (fbgemm["peak_rss_bytes"], fbgemm["versions"], fbgemm["check_relative_difference"]) == (2**30, "lib_fbgemm 1.0", 0)
  assert (ours["floor_cpu_ms"], ours["times_floor"], fbgemm["times_floor"]) == (8, pytest.approx(2.5), None)  # 20 / 8
  assert ours["check_relative_difference"] is None
  assert not any(isinstance(value, (dict, list)) for row in rows.values() for value in row.values())
  printed, progress = capsys.readouterr()
  assert "3.00" in printed and "round 3/3" in progress


def test_without_ours_there_is_no_ratio(fake, tmp_path: Path):
  config, _ = fake
  program.main(config(trainers=("fbgemm",), num_rows=(1000,)))
  (row,) = json.loads((tmp_path / "out.json").read_text())["results"]
  assert row["ratio_to_ours"] is None and row["step_ms_p50"] > 0


@pytest.mark.skipif(len(usable_cores()) < 2, reason="this process may use one core only")
def test_scaling_has_rows_of_one_core_and_of_two(fake, tmp_path: Path):
  config, _ = fake
  program.main(config(trainers=("ours",), num_rows=(1000,), scaling=True))
  rows = [row for row in json.loads((tmp_path / "out.json").read_text())["results"] if row["series"] == "scaling"]
  assert [(row["cores"], row["num_rows"], row["speedup"]) for row in rows] == [(1, 100_000, 1), (2, 100_000, 1)]


def test_scaling_is_skipped_with_a_line_on_one_core(fake, tmp_path: Path, capsys, monkeypatch):
  config, _ = fake
  monkeypatch.setattr(peers_config, "usable_cores", lambda: usable_cores()[:1])
  program.main(config(trainers=("ours",), num_rows=(1000,), scaling=True))
  assert {row["series"] for row in json.loads((tmp_path / "out.json").read_text())["results"]} == {"W1"}
  assert "--scaling: skipped" in capsys.readouterr().err


@pytest.mark.parametrize(
  ("fault", "message"),
  [
    ("dies", "worker fbgemm W1 1,000 rows ended with exit code 7: low on luck"),
    ("garbage", "worker fbgemm W1 1,000 rows answered 'Segmentation fault', which is not a JSON object"),
    ("differs", "fbgemm does not compute what ours does: losses differ by 1.0e-02, more than 0.001; .*"),
  ],
)
def test_a_worker_that_fails_is_named_and_nothing_is_written(fake, tmp_path: Path, fault, message):
  config, _ = fake
  with pytest.raises(UserError, match=f"^{message}$"):
    program.main(config(fault))
  assert not (tmp_path / "out.json").exists()


def test_a_worker_that_cannot_start_is_named(tmp_path: Path):
  spec = spec_of(PeersConfig(batch_size=8), tmp_path, "ours", "W1", 10, usable_cores()[:1])
  with pytest.raises(UserError, match=r"^worker ours W1 10 rows ended with exit code 1: ValueError: no luck$"):
    Worker(spec, [sys.executable, "-c", "raise ValueError('no luck')"])


def test_the_check_compares_under_the_same_optimiser(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
  """`ours` runs once for each optimiser, and every trainer starts from its weights."""
  started = []

  class Fake:
    def __init__(self, spec: Spec):
      self.spec = spec
      started.append((spec.trainer, spec.table_optimizer, bool(spec.weights)))

    def ask(self, request: dict) -> dict:
      return {"losses": [1.0, 2.0 if self.spec.trainer == "ours" else 2.001]}

    def __enter__(self):
      return self

    def __exit__(self, *_):
      pass

  config = PeersConfig(batch_size=8)
  specs = [spec_of(config, tmp_path, name, "W1", 10, (0,)) for name in ("fbgemm", "pytorch_sgd", "torchrec")]
  check = getattr(check_losses, "__wrapped__", check_losses)  # without the run-time types, which Fake does not have
  assert check(specs, tmp_path, Fake) == pytest.approx(dict.fromkeys(("fbgemm", "pytorch_sgd", "torchrec"), 0.0005))
  rowwise = "rowwise_adagrad"
  assert started == [
    *[("ours", rowwise, False), ("fbgemm", rowwise, True)],
    *[("ours", "sgd", False), ("pytorch_sgd", "sgd", True), ("torchrec", rowwise, True)],
  ]
  told = capsys.readouterr().err.splitlines()
  assert len(told) == 3 and "pytorch_sgd within 5.0e-04 of ours" in told[1]


def test_losses_that_are_not_numbers_are_refused():
  assert difference([1.0, 1.9], [1.0, 2.0]) == pytest.approx(0.05)
  assert not difference([1.0, float("nan")], [1.0, 2.0]) <= 1e-3


def test_times_are_of_steps_after_warmup_and_batches_go_on_in_turn(monkeypatch: pytest.MonkeyPatch):
  now = {"wall": 0.0, "cpu": 0.0}
  monkeypatch.setattr(worker.time, "perf_counter", lambda: now["wall"])
  monkeypatch.setattr(worker.time, "process_time", lambda: now["cpu"])

  class Steps:
    versions = ""

    def step(self, number: int) -> float:
      now["wall"] += number
      now["cpu"] += number / 2
      return 10.0 * number

  clock = Clock(Steps())
  now["cpu"] += 0.25  # while others have their turn
  first, second = clock.run(2, 1), clock.run(1, 2)
  assert (first["wall_s"], first["cpu_s"], first["losses"]) == ([1, 2], [0.5, 1], [10, 20])
  assert (second["wall_s"], second["losses"]) == ([5], [50])
  assert (first["idle_cpu_s"], second["idle_cpu_s"]) == (0.25, 0)


def small(directory: Path, workload: str, **changes) -> Spec:
  spec = spec_of(PeersConfig(batch_size=32), directory, "ours", workload, 30, usable_cores()[-1:])
  return dataclasses.replace(spec, bottom=(8, 16), overarch=(12, 1), **changes)


def test_our_worker_trains_the_model_it_exports(tmp_path: Path):
  """Compares the first loss with a forward pass in numpy from the exported weights."""
  spec = small(tmp_path, "W1")
  with Worker(spec, command_of(spec, PEERS_PYTHON)) as ours:
    ours.ask({"export": str(tmp_path / "weights.npz")})
    answer = ours.ask({"run": 3, "warmup": 0})
    assert ours.versions.startswith("jax ")
  w, batches = worker.load(str(tmp_path / "weights.npz")), worker.load(spec.inputs)
  dense_bm, ids_bf, label_b = (batches[name][0].astype(np.float64) for name in ("dense_kbm", "ids_kbf", "label_kb"))

  def mlp(x, part, last):
    for number in range(2):
      x = x @ w[f"{part}.{number}.kernel"] + w[f"{part}.{number}.bias"]
      x = x if last and number == 1 else np.maximum(x, 0)
    return x

  hidden_bd = mlp(dense_bm, "bottom", last=False)
  rows_bfd = w["rows_fvd"][np.arange(26), ids_bf.astype(int)]
  vectors_bfd = np.concatenate([hidden_bd[:, None], rows_bfd], axis=1)
  dots_bp = np.stack([(vectors_bfd[:, f] * vectors_bfd[:, g]).sum(axis=1) for f in range(27) for g in range(f + 1, 27)], axis=1)
  logit_b = mlp(np.concatenate([hidden_bd, dots_bp], axis=1), "overarch", last=True)[:, 0]
  losses = [np.mean(np.logaddexp(0, logit_b) - label_b * logit_b)]
  assert answer["losses"][:1] == pytest.approx(losses, rel=1e-5)
  assert len(answer["wall_s"]) == len(answer["cpu_s"]) == 3 and len(set(answer["losses"])) == 3
  assert answer["peak_rss_bytes"] > 50e6


def test_our_worker_times_the_tables_alone(tmp_path: Path):
  spec = small(tmp_path, "emb")
  with Worker(spec, command_of(spec, PEERS_PYTHON)) as ours:
    answer = ours.ask({"run": 3, "warmup": 1})
  assert min(answer["wall_s"]) > 0 and np.isnan(answer["losses"]).all()


@pytest.mark.slow
@pytest.mark.skipif(not (ROOT / PEERS_PYTHON).exists(), reason="no .venv-peers: `make peers` makes it")
def test_peers_compute_what_ours_does(tmp_path: Path):
  names = [name for name in peers_config.TRAINERS if name != "ours"]
  specs = [spec_of(PeersConfig(batch_size=256), tmp_path, name, "W1", 100, usable_cores()[-1:]) for name in names]
  found = check_losses(specs, tmp_path, lambda spec: Worker(spec, command_of(spec, PEERS_PYTHON)))
  assert found["pytorch_sgd"] < 1e-5 and found["pytorch_adagrad"] < 1e-4 and set(found) == set(names)


def test_workers_get_as_many_threads_as_cores_and_sleep_while_they_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
  monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "8")
  ours = spec_of(PeersConfig(batch_size=8), tmp_path, "ours", "W1", 10, (3, 5))
  found = environment(ours)
  assert (found["OMP_NUM_THREADS"], found["OMP_WAIT_POLICY"], found["JAX_PLATFORMS"]) == ("2", "passive", "cpu")
  assert "JAX_NUM_CPU_DEVICES" not in found and "MALLOC_TOP_PAD_" not in found
  assert "MALLOC_TOP_PAD_" in environment(dataclasses.replace(ours, trainer="fbgemm"))


def row(name: str, workload: str, rows: int, ms: float, times: float, growth: float = 1.0, cores: int = 1) -> dict:
  out = {"name": name, "workload": workload, "series": workload, "num_rows": rows, "cores": cores, "batch_size": 2048}
  out |= {
    "cpu_ms_p50": ms,
    "step_ms_p50": 10 * ms,
    "cpu_ratio_to_ours": times,
    "ratio_to_ours": 10 * times,
    "floor_ms": 31.62,
    "floor_cpu_ms": 31.6,
    "times_floor": 1.27,
  }
  optimizer = peers_config.TRAINERS[name]
  return out | {"cpu_growth": growth, "peak_rss_bytes": 1.5 * 2**30, "table_optimizer": optimizer, "versions": f"lib 1, {name} 2"}


def test_the_table_by_hand():
  rows = [row("ours", "W1", 1000, 40, 1), row("fbgemm", "W1", 1000, 80, 2.125), row("ours", "W1", 10**6, 44, 1, 1.1)]
  rows += [row("fbgemm", "W1", 10**6, 79, 1.75, 0.99), row("ours", "W2", 10**5, 50, 1), row("fbgemm", "W2", 10**5, 100, 2)]
  expected = """\
    | trainer | tables learn by | W1 1k | W1 1M | growth | peak GiB at 1M | W2 100k |
    | --- | --- | ---: | ---: | ---: | ---: | ---: |
    | **dlrm-jax** | row-wise Adagrad | 40.0 | 44.0 | 1.10 | 1.50 | 50.0 |
    | fbgemm + PyTorch | row-wise Adagrad | 80.0 (2.12x) | 79.0 (1.75x) | 0.99 | 1.50 | 100.0 (2.00x) |"""
  assert markdown_table(rows) == textwrap.dedent(expected)
  on_two = markdown_table([row("ours", "W1", 1000, 4, 1, cores=2), row("fbgemm", "W1", 1000, 8, 0.2, cores=2)])
  assert "| 40.0 | 1.50 |" in on_two and "| 80.0 (2.00x) | 1.50 |" in on_two  # on several cores the wall's time counts


def test_the_section_says_how_it_was_made():
  header = {
    "command": ["python", "-m", "benchmarks.peers", "--cores=0", "--output=x.json", "--markdown=README.md"],
    "hardware": {"cpu": "Abacus 3"},
    "software": {"git_commit": "0123456789abcdef+changes"},
  }
  text = program.section([row("ours", "W1", 1000, 40, 1), row("fbgemm", "W1", 1000, 80, 2)], header, datetime.date(2026, 2, 3))
  assert "Ms of processor time on one core for a step of 2,048 examples" in text and "matrix products of W1 alone take us 31.6 ms" in text
  assert "`python -m benchmarks.peers --cores=0` on Abacus 3, 2026-02-03, commit 0123456789ab+changes, lib 1, ours 2, fbgemm 2." in text


def test_markdown_is_replaced_between_the_markers_only(fake, tmp_path: Path):
  config, _ = fake
  page = tmp_path / "README.md"
  page.write_text("before\n<!-- how-fast -->\nold\n<!-- /how-fast -->\nafter\n")
  program.main(config(markdown=str(page)))
  text = page.read_text()
  assert text.startswith("before\n<!-- how-fast -->\n| trainer |") and text.endswith(".*\n<!-- /how-fast -->\nafter\n")
  assert "old" not in text and "| fbgemm + PyTorch | row-wise Adagrad | 40.0 (3.00x) |" in text
  assert replaced(replaced(text, "how-fast", "a"), "how-fast", "b") == replaced(text, "how-fast", "b")


@pytest.mark.parametrize(
  ("words", "message"),
  [
    (("--output=",), "--output=: must be a JSON file to write"),
    (("--trainers=ours,keras",), "--trainers=ours,keras: must be among ours, fbgemm, torchrec, pytorch_sgd, pytorch_adagrad"),
    (("--trainers=ours,ours",), "--trainers=ours,ours: must be one or more, each once"),
    (("--workloads=",), "--workloads=: must be one or more, each once"),
    (("--num_rows=1000,1",), "--num_rows=1000,1: must be each at least 2"),
    (("--rounds=0",), "--rounds=0: must be at least 1"),
    (("--warmup=-1",), "--warmup=-1: must be at least 0"),
    (("--cores=999",), "--cores=999: must be among .*, each once"),
    (
      ("--peers_python=none/python",),
      r"--trainers=fbgemm,torchrec,.*: no such file none/python: `make peers` makes the peers' environment",
    ),
    (("--trainers=ours", "--markdown={tmp}/none.md"), r"--markdown={tmp}/none.md: cannot be read \(No such file or directory\)"),
    (("--trainers=ours", "--markdown={tmp}/page.md"), "--markdown={tmp}/page.md: must have the lines <!-- how-fast --> and .*, each once"),
    (("--trainers=ours", "--num_rows=60000000"), "--num_rows=60000000: the 1 workers of W1 need about .* GiB together, .* are available.*"),
  ],
)
def test_bad_input_is_refused_in_one_line_before_anything_is_timed(words, message, tmp_path: Path, monkeypatch):
  monkeypatch.setattr(program, "measure", lambda *_: pytest.fail("timed"))
  (tmp_path / "page.md").write_text("<!-- /how-fast -->\n<!-- how-fast -->\n")
  with pytest.raises(UserError, match=f"^{message.replace('{tmp}', str(tmp_path))}$"):
    program.main(
      flags.parse(["peers", f"--output={tmp_path}/x.json", *(word.replace("{tmp}", str(tmp_path)) for word in words)], PeersConfig)
    )
  assert [path.name for path in tmp_path.iterdir()] == ["page.md"]


def test_memory_by_hand(tmp_path: Path):
  config = PeersConfig(batch_size=8)
  ours, adagrad = (spec_of(config, tmp_path, name, "W1", 1000, (0,)) for name in ("ours", "pytorch_adagrad"))
  assert (bytes_of(ours, 26), bytes_of(adagrad, 26)) == (5e8 + 26_000 * 72, 5e8 + 26_000 * 136)
  check_memory({"W1": [ours, adagrad]}, 1e9 + 26_000 * 208, 26)
  with pytest.raises(UserError, match=r"the 2 workers of W1 need about 0\.9 GiB together, 0\.9 are available"):
    check_memory({"W1": [ours, adagrad]}, 1e9 + 26_000 * 208 - 1, 26)
