"""Names from users through every program: columns, data sets, groups and benchmarks with names that look like something else.

Every name comes out as it went in: in JSON, CSV and Parquet to the character, on pages and figures as text, on the terminal at most cut.
"""

import csv
import importlib.util
import json
import re
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable, Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import nasty_names
import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
from places import REAL

import benchmarks.compare.__main__ as compare
import dlrm_jax.plan as plan
from analysis import fit, kept
from analysis.report import program as report
from dlrm_jax import export, predict, train
from dlrm_jax.common import flags
from dlrm_jax.common.flags import join_list
from dlrm_jax.common.text import visible
from dlrm_jax.config import PLACEMENTS, RunConfig
from dlrm_jax.data.describe import program as describe
from dlrm_jax.data.prepare import program as prepare
from dlrm_jax.presets import PRESETS
from sweeps import plan as sweep_plan
from sweeps import run as sweep_run
from sweeps import status as sweep_status
from sweeps.presets import PRESETS as SWEEPS

ROWS = 600
TITLE = 'shop [bold] :smile: "x", <b>&amp;\u202e $(x) a/b'  # the data set's own name
RUN = ("--preset=tiny", "--num_examples=512", "--batch_size=64", "--first_eval=256", "--eval_examples=60")
Say = Callable[..., str]


@pytest.fixture
def say(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Say:
  """Runs a program and returns what it printed, with one blank for several and for the end of a line: titles are folded."""

  def called(main: Callable[[Any], None], cls: type, presets: Mapping[str, Any] | None, *words: str) -> str:
    monkeypatch.setattr(sys, "argv", ["program", *words])
    flags.run(main, cls, presets)
    said = capsys.readouterr()
    assert "\x1b" not in said.out + said.err
    return re.sub(r"[ \n]+", " ", said.out + said.err)

  return called


def printed(name: str) -> str:
  """A name as it is in what `say` returns."""
  return re.sub(r"[ \n]+", " ", visible(name)).strip(" ")


def toml(text: str) -> str:
  """A text in TOML."""
  return '"' + "".join(c if c.isalnum() and c.isascii() else f"\\U{ord(c):08x}" for c in text) + '"'


def write_log(folder: Path, log_format: str, categorical: list[str], dense: list[str]) -> Path:
  """A log with these columns, and its schema."""
  rng = np.random.default_rng(5)
  columns: dict[str, Any] = {"y,label": rng.integers(0, 2, ROWS)}
  columns |= {name: rng.integers(0, 20, ROWS) for name in categorical}
  columns |= {name: rng.integers(0, 90, ROWS) for name in dense}
  path = folder / f"log.{log_format}"
  if log_format == "csv":
    with path.open("w", newline="", encoding="utf-8") as file:
      out = csv.writer(file, lineterminator="\n")
      out.writerow(columns)
      out.writerows(zip(*columns.values(), strict=True))
  else:
    pl.DataFrame(columns).write_parquet(path)
  schema = f"label = {toml('y,label')}\nname = {toml(TITLE)}\ncategorical = [{', '.join(map(toml, categorical))}]\n[dense]\n"
  (folder / "log.toml").write_text(schema + "".join(f"{toml(name)} = {{}}\n" for name in dense))
  return path


class Page(HTMLParser):
  """The texts of a page, its elements, and its tables' cells."""

  def __init__(self, text: str):
    super().__init__(convert_charrefs=True)
    self.tags: list[str] = []
    self.texts: list[str] = []
    self.feed(text)

  def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
    self.tags.append(tag)
    assert not [name for name, _ in attrs if name.startswith("on")]
    self.texts.append("")

  def handle_data(self, data: str) -> None:
    self.texts[-1:] = [(self.texts[-1] if self.texts else "") + data]


def check_page(path: Path, names: list[str]) -> None:
  """The names are texts of a page, which has no more scripts than the frame gives it."""
  page = Page(path.read_text())
  assert page.tags.count("script") == 3 and "b" not in page.tags
  for name in names:
    assert visible(name, keep="\n").strip("\r") in page.texts, name


def texts_of(path: Path) -> list[str]:
  """The texts of an SVG, which is well-formed."""
  return ["".join(node.itertext()).replace("\u00a0", " ") for node in ET.parse(path).iter() if node.tag.endswith("}text")]


def check_figure(path: Path, names: list[str]) -> None:
  """The names are texts of a figure, without blanks around them. Long ones are cut."""
  texts = texts_of(path)
  assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
  for name in names:
    shown = visible(name).replace("\u00a0", " ").strip().strip("\ufeff").strip()  # JavaScript's blanks
    assert not shown or shown in texts or any(text.endswith("…") and shown.startswith(text[:-1]) for text in texts), (name, texts)


@pytest.mark.parametrize(
  ("log_format", "count", "seed", "sweeps"),
  [
    ("csv", 14, 1, False),
    ("parquet", 14, 2, True),
    pytest.param("csv", len(nasty_names.PLAIN) + 20, 3, True, marks=pytest.mark.slow),
    pytest.param("parquet", len(nasty_names.ALL) + 20, 4, True, marks=pytest.mark.slow),
  ],
)
def test_columns_and_data_sets(tmp_path: Path, say: Say, log_format: str, count: int, seed: int, sweeps: bool) -> None:
  """`sweeps`: through sweeps and reports, too, which read prepared data alone."""
  names = nasty_names.names(count, seed, controls=log_format == "parquet")
  categorical, dense = names[: count * 3 // 4], names[count * 3 // 4 :]
  log, data = write_log(tmp_path, log_format, categorical, dense), tmp_path / "set [x]"
  words = (f"--format={log_format}", f"--input={log}", f"--schema={tmp_path / 'log.toml'}", f"--output={data}", "--workers=1")

  said = say(prepare.main, prepare.PrepareConfig, None, *words)
  made = json.loads((data / "dataset.json").read_text())
  assert made["name"] == TITLE and TITLE in said
  assert [c["name"] for c in made["columns"]["categorical"]] == categorical
  assert set(dense) <= {c["name"] for c in made["columns"]["dense"]}
  assert set(pq.read_schema(next(data.glob("train-*"))).names) >= {f"id.{name}" for name in categorical}
  assert all(printed(name) in said for name in categorical if len(name) < 30)

  said = say(describe.main, describe.DescribeConfig, None, str(data), f"--output={tmp_path / 'page'}")
  described = json.loads((tmp_path / "page" / "describe.json").read_text())
  assert [entry["name"] for entry in described["categorical"]] == categorical and described["name"] == TITLE
  assert all(printed(name) in said for name in names if len(name) < 12) and TITLE in said
  check_page(tmp_path / "page" / "index.html", [*names, f"Data set: {TITLE}"])
  check_figure(tmp_path / "page" / "id_frequency_by_feature.svg", categorical[:50])
  check_figure(tmp_path / "page" / "missing.svg", names)
  check_figure(tmp_path / "page" / "unseen.svg", categorical)
  check_figure(tmp_path / "page" / "dense.svg", dense)

  placed = dict(zip(categorical, PLACEMENTS * count, strict=False))
  by_hand = "--placement=" + join_list(["auto", *(f"{name}:{placement}" for name, placement in placed.items())])
  on_two = (*RUN, f"--data={data}", "--mesh=2", by_hand)
  said = say(plan.main, plan.PlanConfig, {name: plan.PlanConfig(run=run) for name, run in PRESETS.items()}, *on_two)
  for name, placement in placed.items():
    assert len(name) > 9 or re.search(rf"{re.escape(printed(name))} [\d,]+ 4 1 {placement}", said), (name, said)

  say(train.main, RunConfig, PRESETS, *on_two, f"--workdir={tmp_path / 'run'}", "--checkpoint")
  record = json.loads((tmp_path / "run" / "record.json").read_text())
  assert {table["name"]: table["placement"] for table in record["tables"]} == placed
  assert record["config"]["data"] == TITLE

  scores, checkpoint = tmp_path / "scores [w].parquet", tmp_path / "run" / "checkpoint"
  score = (f"--restore={checkpoint}", f"--input={log}", f"--format={log_format}", f"--output={scores}", f"--data={data}")
  say(predict.main, predict.PredictConfig, None, *score, "--batch_size=60")
  assert pq.read_metadata(scores).num_rows == ROWS
  if importlib.util.find_spec("flatbuffers"):  # jax.export needs it
    say(export.main, export.ExportConfig, None, f"--restore={checkpoint}", f"--data={data}", f"--output={tmp_path / 'exported'}")
  alike = (f"--format={log_format}", f"--input={log}", f"--like={data}", f"--output={tmp_path / 'next'}", "--workers=1")
  say(prepare.main, prepare.PrepareConfig, None, *alike)
  made_alike = json.loads((tmp_path / "next" / "dataset.json").read_text())
  assert [c["name"] for c in made_alike["columns"]["categorical"]] == categorical
  if not sweeps:
    return

  sweep = (*RUN, f"--data={data}", "--axes=data,dim", "--sizes_dim=2,4", "--axis_examples=512", by_hand, "--mesh=2")
  configs = {name: sweep_plan.extended(one, sweep_plan.PlanConfig, measure=False) for name, one in SWEEPS.items()}
  assert TITLE in say(sweep_plan.main, sweep_plan.PlanConfig, configs, *sweep)
  workdir = tmp_path / "sweep [y]"
  assert TITLE in say(sweep_run.main, type(SWEEPS["tiny"]), SWEEPS, *sweep, f"--workdir={workdir}", "--measure=false")
  assert TITLE in say(sweep_status.main, sweep_status.StatusConfig, None, f"--workdir={workdir}")
  saved = json.loads(next(workdir.glob("runs/*/record.json")).read_text())
  assert saved["config"]["mesh"]["placement"] == ["auto", *(f"{name}:{placement}" for name, placement in placed.items())]

  said = say(report.main, report.ReportConfig, None, f"--workdir={workdir}")
  check_page(workdir / "report" / "index.html", [TITLE])
  points = pl.read_csv(workdir / "report" / "points.csv", glob=False)
  assert set(points["workload"]) == {TITLE}
  say(kept.main, kept.KeepConfig, None, f"--workdir={workdir}", f"--output={tmp_path / 'kept [z].parquet'}")
  say(report.main, report.ReportConfig, None, f"--workdir={tmp_path / 'kept [z].parquet'}", f"--output={tmp_path / 'again'}")
  check_page(tmp_path / "again" / "index.html", [TITLE])
  assert pl.read_csv(tmp_path / "again" / "points.csv")["workload"].to_list() == points["workload"].to_list()


@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 8))])
def test_columns_and_groups_of_points(tmp_path: Path, say: Say, seed: int) -> None:
  """`analysis.fit` drops blanks around names of columns and of groups, as the readers of CSV files do."""
  names = list(dict.fromkeys(name.strip() for name in nasty_names.names(24, seed, controls=False)))
  x, y, group, *groups = [name for name in names if name]
  rows = [(n, 2.0 * n**-0.3 + 0.1, name) for name in groups for n in (10, 30, 100, 300, 1000, 3000, 10000)]
  with (tmp_path / "points.csv").open("w", newline="") as file:
    csv.writer(file).writerows([(x, y, group), *rows])
  words = (
    f"--input={tmp_path / 'points.csv'}",
    f"--x={join_list([x])}",
    f"--y={y}",
    f"--group={group}",
    f"--output={tmp_path / 'fits.json'}",
  )
  said = say(fit.main, fit.FitConfig, None, *words)
  fits = json.loads((tmp_path / "fits.json").read_text())["fits"]
  assert [entry["group"] for entry in fits] == groups and {entry["status"] for entry in fits} == {"ok"}
  assert all(printed(name) in said for name in groups if len(name) < 8)


@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 8))])
def test_rows_of_benchmarks(tmp_path: Path, say: Say, seed: int) -> None:
  names = [name for name in nasty_names.names(20, seed, controls=True) if name.strip()]
  files = [tmp_path / "a [x].json", tmp_path / "b :smile:.json"]
  for path, scale in zip(files, (1.0, 1.5), strict=True):
    rows = [{"name": name, "batch_size": 64, "step_ms_p50": scale * (k + 1)} for k, name in enumerate(names)]
    path.write_text(json.dumps({"schema_version": 1, "command": [], "hardware": {"cpu": "x"}, "software": {}, "results": rows}))
  said = say(compare.main, compare.CompareConfig, None, *map(str, files), f"--output={tmp_path / 'out'}")
  made = json.loads((tmp_path / "out" / "compare.json").read_text())["results"]
  assert [row["name"] for row in made if row["file"] == str(files[0])] == names
  check_figure(tmp_path / "out" / "compare.svg", [name for name in names if len(name) < 60])
  assert all(printed(name) in said for name in names if len(name) < 60) and "a [x]" in said and "b :smile:" in said


def test_a_feature_that_is_not_there_is_named(tmp_path: Path, refusal: Callable[..., str]) -> None:
  """The message shows the features as they are written after --placement."""
  from dlrm_jax.data.prepare.program import PrepareConfig

  log = write_log(tmp_path, "parquet", ["c,d", "a\nb", '"q'], ["x"])
  words = [f"--input={log}", "--format=parquet", f"--schema={tmp_path / 'log.toml'}", f"--output={tmp_path / 'set'}", "--workers=1"]
  prepare.prepare(flags.parse(["prepare", *words], PrepareConfig))
  presets = {name: plan.PlanConfig(run=run) for name, run in PRESETS.items()}
  shown = refusal(plan.main, plan.PlanConfig, presets, [*RUN, f"--data={tmp_path / 'set'}", "--mesh=2", '--placement="c,e":row'])
  assert shown == 'error: --placement="c,e:row": no such feature; there are "c,d", a\\nb, """q"\n'


def test_the_reader_of_pages_reads():
  page = Page("<p>a&lt;b</p><td>x</td><td></td>")
  assert page.tags == ["p", "td", "td"] and page.texts == ["a<b", "x", ""]


def test_the_case_of_names_with_brackets(tmp_path: Path, say: Say) -> None:
  case = REAL / "cases" / "bracket_names"
  if not case.exists():
    pytest.skip("the cases are not in ../shared/data")
  words = ("--format=parquet", f"--input={case / 'log.parquet'}", f"--schema={case / 'log.toml'}", f"--output={tmp_path / 'set'}")
  assert "price[usd]" in say(prepare.main, prepare.PrepareConfig, None, *words, "--workers=1")
  names = [column["name"] for column in json.loads((tmp_path / "set" / "dataset.json").read_text())["columns"]["categorical"]]
  placed = "--placement=" + join_list(f"{name}:table" for name in names)
  presets = {name: plan.PlanConfig(run=run) for name, run in PRESETS.items()}
  said = say(plan.main, plan.PlanConfig, presets, *RUN, f"--data={tmp_path / 'set'}", "--mesh=2", placed)
  assert all(re.search(rf"{re.escape(name)} [\d,]+ 4 1 table", said) for name in names) and "rate[/s]" in names and "c,d" in names
