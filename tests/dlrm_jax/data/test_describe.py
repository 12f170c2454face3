"""`dlrm_jax.data.describe`: counts against a slow reference, planted Zipf slopes, base rates by hand, the files that it writes."""

import json
import math
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from page_links import Links
from places import REAL

from dlrm_jax.common import flags, record
from dlrm_jax.common.figures import chart, render
from dlrm_jax.common.flags import UserError
from dlrm_jax.common.progress import Bar
from dlrm_jax.data import dataset
from dlrm_jax.data.describe import columns, frequency, inventory, panels, plots, program, tables
from dlrm_jax.data.describe.dense_columns import QUANTILES
from dlrm_jax.data.describe.histogram import Histogram
from dlrm_jax.data.describe.program import DescribeConfig
from dlrm_jax.data.prepare.program import PrepareConfig, prepare

ROWS, EVAL, TEST = 120_000, 8_000, 4_000
SLOPES = {"c0": (1.1, 100_000), "c1": (1.4, 20_000), "c2": (0.8, 2_000)}  # exponent, values
SLOPE_TOLERANCE = 0.04  # of one draw; the rarest ids of the fit were seen 10 times


def planted_log(path: Path) -> pl.DataFrame:
  """A click log whose columns have Zipf's law, with a base rate that moves, empty cells, and numbers of very different magnitudes."""
  rng = np.random.default_rng(3)
  t = np.arange(ROWS) / ROWS
  columns = {"y": (rng.random(ROWS) < 0.2 + 0.1 * np.sin(9 * t)).astype(np.int64)}
  for name, (s, values) in SLOPES.items():
    p = np.arange(1, values + 1) ** -s
    columns[name] = rng.permutation(values)[rng.choice(values, ROWS, p=p / p.sum())]
  columns["few"] = rng.integers(0, 5, ROWS)
  columns["wide"] = np.round(rng.lognormal(0, 4, ROWS) * rng.choice([-1, 1], ROWS), 6)
  columns["time"] = 1.6e9 + 128 * rng.integers(0, 3000, ROWS)  # float32 itself is no finer than 128 there
  columns["same"] = np.full(ROWS, 7.5)
  frame = pl.DataFrame(columns).with_columns(
    pl.when(pl.Series(rng.random(ROWS) < 0.25)).then(None).otherwise(pl.col("c1")).alias("c1"),
    pl.when(pl.Series(rng.random(ROWS) < 0.1)).then(None).otherwise(pl.col("wide")).alias("wide"),
  )
  frame.write_parquet(path)
  return frame


def make(root: Path, source: Path, schema: str, *words: str) -> Path:
  (root / "schema.toml").write_text(schema)
  shared = ["--format=parquet", f"--input={source}", f"--schema={root / 'schema.toml'}", f"--output={root / 'set'}"]
  prepare(flags.parse(["prepare", "--workers=1", *shared, *words], PrepareConfig))
  return root / "set"


SCHEMA = 'label = "y"\ncategorical = ["c0", "c1", "c2", "few"]\n'
SCHEMA += "[dense]\n" + "".join(f'{name} = {{ transform = "none" }}\n' for name in ("wide", "time", "same"))


@pytest.fixture(scope="module")
def log(tmp_path_factory):
  path = tmp_path_factory.mktemp("log") / "log.parquet"
  planted_log(path)
  return path


@pytest.fixture(scope="module")
def planted(log, tmp_path_factory):
  words = (f"--eval_rows={EVAL + TEST}", f"--test_fraction={TEST / (EVAL + TEST)}")
  out = make(tmp_path_factory.mktemp("planted"), log, SCHEMA, *words)
  program.main(DescribeConfig((str(out),)))
  return out


def shards(root: Path, split: str) -> pl.DataFrame:
  return pl.concat([pl.read_parquet(path) for path in sorted(root.glob(f"{split}-*.parquet"))])


def described(path: Path) -> dict:
  return json.loads((path / "describe.json").read_text())


def numbers(out: Path) -> dict:
  """The contents of describe.json, without drawing figures."""
  opened = dataset.open_dataset(out)
  return json.loads(record.dumps(program.as_json(opened, record.read_json(out / "dataset.json"), inventory.take(opened, 0))))


def check_counts(entry: dict, ids: list[int], ranked: bool):
  """Checks an entry of a feature against a Counter over its ids; -1 is padding."""
  counter = Counter(ids)
  padding = counter.pop(-1, 0)
  total = counter.total()
  if ranked:
    assert entry["zero_share"] == counter.pop(0, 0) / total
  else:
    assert entry["zero_share"] is None
  seen = sorted(counter.values(), reverse=True)
  assert entry["distinct_seen"] == len(seen) and entry["lookups"] == total
  assert entry["top_share"] == seen[0] / total and entry["padding_share"] == padding / len(ids)
  assert entry["frequency"]["seen"] == [seen[rank - 1] for rank in entry["frequency"]["rank"]]
  assert entry["frequency"]["rank"][0] == 1 and entry["frequency"]["rank"][-1] == len(seen)
  often = sum(count >= 10 for count in seen)
  if often < 100:
    assert entry["zipf"] is None
  else:
    assert (entry["zipf"]["first_rank"], entry["zipf"]["last_rank"]) == (10, often)


def test_counts_are_those_of_the_shards(planted):
  train, entries = shards(planted, "train"), described(planted / "describe")["categorical"]
  assert [entry["name"] for entry in entries] == ["c0", "c1", "c2", "few"]
  for entry in entries:
    check_counts(entry, train[f"id.{entry['name']}"].to_list(), ranked=True)


def test_planted_slopes_come_back(planted):
  entries = {entry["name"]: entry for entry in described(planted / "describe")["categorical"]}
  for name, (slope, _) in SLOPES.items():
    np.testing.assert_allclose(entries[name]["zipf"]["slope"], slope, atol=SLOPE_TOLERANCE)
    assert entries[name]["zipf"]["error"] < 0.1
  assert entries["few"]["zipf"] is None


def test_base_rates_by_hand(planted):
  labels = pl.concat([shards(planted, split) for split in ("train", "eval", "test")])["label"].to_list()
  bins = described(planted / "describe")["base_rate"]
  assert len(bins) == 100 and len(labels) == ROWS
  for number, entry in enumerate(bins):
    first, last = math.ceil(number * ROWS / 100), math.ceil((number + 1) * ROWS / 100)
    assert (entry["first_row"], entry["rows"], entry["clicks"]) == (first, last - first, sum(labels[first:last]))
    assert entry["rate"] == sum(labels[first:last]) / (last - first)
    assert entry["low"] < entry["rate"] < entry["high"]


def test_uneven_bins_hold_every_row_once(tmp_path):
  rng = np.random.default_rng(1)
  rows = 25_733  # a prime
  frame = pl.DataFrame({"y": (rng.random(rows) < 0.3).astype(np.int64), "c": rng.integers(0, 9, rows)})
  frame.write_parquet(tmp_path / "log.parquet")
  out = make(tmp_path, tmp_path / "log.parquet", 'label = "y"\ncategorical = ["c"]\n', "--eval_rows=777")
  bins = inventory.take(dataset.open_dataset(out), 0).base_rate
  assert len(bins) == 100 and [b.first_row for b in bins] == [math.ceil(number * rows / 100) for number in range(100)]
  assert sum(b.rows for b in bins) == rows and {b.rows for b in bins} <= {257, 258}
  labels = frame["y"].to_list()
  assert [b.clicks for b in bins] == [sum(labels[b.first_row : b.first_row + b.rows]) for b in bins]


def test_bins_of_a_log_with_times_are_days_and_splits_show_their_times(tmp_path):
  """60 days of 300 rows, with clicks in the mornings alone. Bins of 20 hours would zigzag."""
  row = np.arange(60 * 300)
  second = row * (24 * 3600 // 300)
  columns = {"y": ((second % 86_400 < 43_200) & (row % 2 == 0)).astype(np.int64), "c": row % 7}
  columns["ts"] = 1_717_200_000 + second  # 2024-06-01
  pl.DataFrame(columns).write_parquet(tmp_path / "log.parquet")
  schema = 'label = "y"\ncategorical = ["c"]\n[time]\ncolumn = "ts"\n'
  out = make(tmp_path, tmp_path / "log.parquet", schema, "--eval_from=2024-07-25")
  found, contents = inventory.take(dataset.open_dataset(out), 0), record.read_json(out / "dataset.json")
  assert found.bin_days == 1 and [(b.rows, b.rate) for b in found.base_rate] == [(300, 0.25)] * 60
  table = tables.splits(contents)
  assert table.columns[-2:] == ["first time", "last time"]
  assert [cells[-2:] for cells in table.rows] == [
    ["2024-06-01T00:00:00Z", "2024-07-24T23:55:12Z"],
    ["2024-07-25T00:00:00Z", "2024-07-30T23:55:12Z"],
  ]
  assert [split["first_time"] for split in numbers(out)["splits"].values()] == ["2024-06-01T00:00:00Z", "2024-07-25T00:00:00Z"]
  assert " A bin is about 1 day long. The band" in plots._base_rate(found, {"train": 0}, False).caption
  assert "Negatives are left out" in plots._base_rate(found, {"train": 0}, True).caption


def test_bins_follow_days_only_where_that_helps():
  def bins(last: str, rows: int = 10**6, **changed: object) -> tuple[int, int | None]:
    splits = {"train": {"rows": rows, "first_time": "2024-01-01T00:00:00Z", "last_time": last}}
    time = {"column": "ts", "ordered_by": "time", "earlier_rows": 9}
    return inventory.time_bins({"splits": splits, "time": time | changed} | changed)

  assert bins("2024-02-10T00:00:00Z") == (40, 1)
  assert bins("2024-09-07T00:00:00.123456789Z") == (83, 3)  # 250 days
  assert bins("2024-02-10T00:00:00Z", rows=9_000) == (20, 2)  # a bin has 250 rows or more
  assert bins("2024-01-21T00:00:00Z") == (100, None)  # five bins a day show its cycle
  assert bins("2024-01-01T00:00:00Z", rows=100) == (1, None)
  assert bins("2024-02-10T00:00:00Z", ordered_by="files") == (100, None)
  assert bins("2024-02-10T00:00:00Z", ordered_by="files", earlier_rows=0) == (40, 1)
  assert bins("2024-02-10T00:00:00Z", keep_negatives={"share": 0.1}) == (100, None)
  assert inventory.time_bins({"splits": {"train": {"rows": 500}}}) == (2, None)


def test_bars_of_unequal_width_have_a_labelled_axis():
  """The narrowest bar is as high as its share."""
  spec = panels._histogram(Histogram((-0.5, 0.5, 1.5, 5.5), (10, 20, 70), True)).to_dict()
  assert spec["encoding"]["y"]["axis"].get("labels", True)
  (rows,) = spec["datasets"].values()
  width = np.diff(np.log1p([-0.5, 0.5, 1.5, 5.5]))
  np.testing.assert_allclose([row["height"] for row in rows], np.array([0.1, 0.2, 0.7]) * width.min() / width, rtol=1e-5)
  assert rows[int(width.argmin())]["height"] == rows[int(width.argmin())]["share"]


def test_wilson_interval():
  """Newcombe 1998, Statistics in Medicine 17:857, Table I, method 3: 81/263, 15/148, 0/20, 1/29."""
  cases = {(81, 263): (0.2553, 0.3662), (15, 148): (0.0624, 0.1605), (0, 20): (0.0, 0.1611), (1, 29): (0.0061, 0.1718)}
  for counts, interval in cases.items():
    np.testing.assert_allclose(inventory.wilson(*counts), interval, atol=5e-5)


def test_dense_columns(planted):
  train, contents = shards(planted, "train"), json.loads((planted / "dataset.json").read_text())
  for entry, known in zip(described(planted / "describe")["dense"], contents["columns"]["dense"], strict=True):
    values = train[f"dense.{entry['name']}"].to_numpy()
    assert (entry["low"], entry["high"]) == (values.min(), values.max())
    np.testing.assert_allclose(entry["mean"], values.mean(dtype=np.float64), rtol=1e-12)
    assert entry["zero_share"] == np.mean(values == 0) and entry["missing_share"] == known["missing_share"]
    exact = np.quantile(values, QUANTILES, method="inverted_cdf")
    got = np.array(list(entry["quantiles"].values()))
    np.testing.assert_allclose(got, exact, rtol=0 if entry["name"] != "wide" else 1 / 2000)
    inside = (values >= entry["edges"][0]) & (values <= entry["edges"][-1])
    assert sum(entry["counts"]) == pytest.approx(inside.sum(), rel=1e-3)
    assert inside.mean() > 0.997
    if entry["name"] == "time":  # 3,000 steps of 128 seconds, 75 in each bar
      edges = values.min() + 128.0 * (75 * np.arange(41) - 0.5)
      assert entry["edges"] == edges.tolist() and entry["counts"] == np.histogram(values.astype(np.float64), edges)[0].tolist()
    if entry["name"] == "same":
      assert entry["counts"] == [ROWS - EVAL - TEST] and np.mean(entry["edges"]) == 7.5


def test_missing_cells_are_not_in_the_histogram_where_the_data_set_says_which_they_are(tmp_path):
  """The mean, 3.7 or so, fills them. It is no whole number, and would be the highest bar."""
  rng = np.random.default_rng(8)
  number = pl.Series(rng.poisson(3.7, 4000))
  frame = pl.DataFrame({"y": rng.integers(0, 2, 4000), "c": rng.integers(0, 9, 4000), "x": number})
  frame = frame.with_columns(pl.when(pl.Series(rng.random(4000) < 0.4)).then(None).otherwise(pl.col("x")).alias("x"))
  frame.write_parquet(tmp_path / "log.parquet")
  out = make(tmp_path, tmp_path / "log.parquet", 'label = "y"\ncategorical = ["c"]\n[dense]\nx = { transform = "standard" }\n')
  entry, indicator = numbers(out)["dense"]
  there = frame["x"][:3600].drop_nulls().to_numpy()
  assert entry["name"] == "x" and indicator["name"] == "x.missing"
  assert entry["edges"] == (np.arange(there.max() + 2) - 0.5).tolist() and entry["counts"] == np.bincount(there).tolist()
  assert entry["median_number"] == pytest.approx(np.median(there), abs=1e-5)
  assert entry["zero_share"] == 0 and indicator["zero_share"] == len(there) / 3600  # filled cells are 0 after the transform
  assert indicator["counts"] == [len(there), 3600 - len(there)] and indicator["edges"] == [-0.5, 0.5, 1.5]


def test_wide_histogram_leaves_the_outer_thousandths_out(planted):
  wide = described(planted / "describe")["dense"][0]
  values = shards(planted, "train")["dense.wide"].to_numpy()
  np.testing.assert_allclose(
    [wide["edges"][0], wide["edges"][-1]], np.quantile(values, [0.001, 0.999], method="inverted_cdf"), rtol=1 / 2000
  )


def test_hashed_ids(log, planted, tmp_path):
  out = make(tmp_path, log, SCHEMA, f"--eval_rows={EVAL + TEST}", "--vocabulary=hash")
  train = shards(out, "train")
  for entry, ranked in zip(numbers(out)["categorical"], described(planted / "describe")["categorical"], strict=True):
    check_counts(entry, train[f"id.{entry['name']}"].to_list(), ranked=False)
    assert entry["top_share"] == ranked["top_share"] and entry["distinct_seen"] >= ranked["distinct_seen"]
    if entry["zipf"]:
      np.testing.assert_allclose(entry["zipf"]["slope"], ranked["zipf"]["slope"], atol=0.01)


def test_only_the_first_rows_are_looked_at(planted, tmp_path, capsys, monkeypatch):
  monkeypatch.setattr(columns, "_ROWS_AT_ONCE", 1)  # a row group at a time
  assert 32_000 < dataset.open_dataset(planted).rows_per_group < 40_000
  program.main(DescribeConfig((str(planted),), output=str(tmp_path / "page"), max_rows=40_001))
  assert not (tmp_path / "describe").exists()
  made, train = described(tmp_path / "page"), shards(planted, "train")[:40_001]
  for entry in made["categorical"]:
    check_counts(entry, train[f"id.{entry['name']}"].to_list(), ranked=True)
  wide = train["dense.wide"].to_numpy()
  np.testing.assert_allclose(made["dense"][0]["mean"], wide.mean(dtype=np.float64), rtol=1e-12)
  np.testing.assert_allclose(
    list(made["dense"][0]["quantiles"].values()), np.quantile(wide, QUANTILES, method="inverted_cdf"), rtol=1 / 2000
  )
  assert made["rows_looked_at"] == 40_001 and sum(entry["rows"] for entry in made["base_rate"]) == ROWS
  sentence = "Ids and dense values are those of the first 40,001 of 108,000 training rows; base rates are those of all 120,000 rows."
  sentence += " Held-out ids are those of all 12,000 rows."
  assert sentence in capsys.readouterr().out and sentence in (tmp_path / "page" / "index.html").read_text()


def unseen_by_hand(frame: pl.DataFrame, column: str, held_out: int, min_count: int) -> float:
  """The share of the held-out cells of a raw log whose value the training rows have fewer than `min_count` times."""
  seen = Counter(frame[column][: len(frame) - held_out].to_list())
  return float(np.mean([seen[value] < min_count for value in frame[column][len(frame) - held_out :].to_list()]))


@pytest.mark.parametrize(("words", "min_count"), [((), 2), (("--min_count=1",), 1), (("--min_count=5",), 5), (("--vocabulary=hash",), 1)])
def test_the_share_of_held_out_ids_that_training_has_not_seen(log, tmp_path, words, min_count, monkeypatch):
  """Counted in the raw log. With hashed ids several passes over the ids give the same."""
  out = make(tmp_path, log, SCHEMA, f"--eval_rows={EVAL + TEST}", f"--test_fraction={TEST / (EVAL + TEST)}", *words)
  frame, made = pl.read_parquet(log), numbers(out)
  few = frequency.counted
  monkeypatch.setattr(frequency, "counted", lambda read: few(read, 512, 64))
  for entry, again in zip(made["categorical"], numbers(out)["categorical"], strict=True):
    assert entry["held_out_lookups"] == EVAL + TEST
    np.testing.assert_allclose(entry["unseen_share"], unseen_by_hand(frame, entry["name"], EVAL + TEST, min_count), rtol=1e-12, atol=1e-15)
    assert again["unseen_share"] == entry["unseen_share"] and again["held_out_lookups"] == entry["held_out_lookups"]
  assert made["categorical"][0]["unseen_share"] > 0.05 and made["categorical"][3]["unseen_share"] == 0
  contents = record.read_json(out / "dataset.json")
  table = tables.categorical(contents, inventory.take(dataset.open_dataset(out), 0))
  name, note = {2: ("id 0", "fewer than 2 times, or never"), 5: ("id 0", "fewer than 5 times")}.get(
    min_count, ("unseen", "Held out, unseen: share")
  )
  assert f"held out, {name}" in table.columns and note in table.note


def test_a_bag_of_held_out_rows_counts_without_its_padding(tmp_path):
  lists = [[1, 2]] * 50 + [[1, 9], [8], [], [2, 2]]
  pl.DataFrame({"y": [0, 1] * 27, "tags": lists}).write_parquet(tmp_path / "log.parquet")
  schema = 'label = "y"\n[bags]\ntags = { column = "tags", length = 3 }\n'
  for words in ((), ("--vocabulary=hash",)):
    (tmp_path / "-".join(("set", *words))).mkdir()
    (tags,) = numbers(make(tmp_path / "-".join(("set", *words)), tmp_path / "log.parquet", schema, "--eval_rows=4", *words))["categorical"]
    assert tags["held_out_lookups"] == 5 and tags["unseen_share"] == pytest.approx(2 / 5)


@pytest.mark.parametrize("count", [3, 5, 6, 18])
def test_the_largest_features_have_colours_that_differ(count):
  """18 shades of one colour could not be told apart."""
  features = [
    inventory.Feature(f"f[{i}]", 100, 1, 1000, 0.0, 0.0, 0.1, 0, None, frequency.spectrum([np.arange(1, i + 3)]), None)
    for i in range(count)
  ]
  spec = plots._together(features).spec
  coloured = spec["layer"][-1]["encoding"]["color"]
  names = [f"f[{i}]" for i in reversed(range(count))]
  assert coloured["scale"]["domain"] == names[:5] and coloured["type"] == "nominal"
  grey = [layer for layer in spec["layer"] if "color" not in layer["encoding"]]
  assert len(grey) == (count > 5)
  drawn = render.svg(spec)
  assert all((f">{name}<" in drawn) == (name in names[:5]) for name in names)
  colours = dict(re.findall(r'feature: (f\[[0-9]+\]);[^>]*? stroke="(#[0-9a-f]{6})"', drawn))
  assert set(colours) == set(names) and len({colours[name] for name in names[:5]}) == min(count, 5)
  assert {colours[name] for name in names[5:]} <= {chart.THEMES["light"]["style"]["theory"]["color"]}


def test_bags_and_their_padding(tmp_path):
  rng = np.random.default_rng(5)
  rows = 4000
  lists = [rng.zipf(1.3, rng.integers(0, 6)).clip(0, 10**6).tolist() for _ in range(rows)]
  columns = {"y": rng.integers(0, 2, rows), "one": rng.integers(0, 30, rows), "tags": lists}
  pl.DataFrame(columns, strict=False).write_parquet(tmp_path / "log.parquet")
  schema = 'label = "y"\ncategorical = ["one"]\n[bags]\ntags = { column = "tags", length = 3 }\n'
  out = make(tmp_path, tmp_path / "log.parquet", schema)
  one, tags = numbers(out)["categorical"]
  train = shards(out, "train")
  ids = [x for name in ("id.tags.0", "id.tags.1", "id.tags.2") for x in train[name].to_list()]
  assert -1 in ids and tags["bag_length"] == 3 and tags["truncated"] == sum(len(values) > 3 for values in lists)
  check_counts(tags, ids, ranked=True)
  check_counts(one, train["id.one"].to_list(), ranked=True)


@pytest.mark.parametrize(("most_ids", "merge_ids"), [(1 << 22, 1 << 20), (64, 32), (2, 1), (1000, 1)])
def test_ids_that_do_not_fit_at_once_are_counted_in_several_passes(most_ids, merge_ids):
  rng = np.random.default_rng(2)
  ids = np.concatenate([rng.integers(-1, 700, 3000), [2**31 - 1, 2**31 - 2, 0, -1]]).astype(np.int32)
  passes, pieces = 0, np.array_split(ids, 9)

  def read():
    nonlocal passes
    passes += 1
    return iter(pieces)

  got = list(frequency.counted(read, most_ids, merge_ids))
  joined, seen = (np.concatenate(arrays) for arrays in zip(*got, strict=True))
  assert joined.tolist() == sorted(set(ids.tolist()))
  assert dict(zip(joined.tolist(), seen.tolist(), strict=True)) == Counter(ids.tolist())
  assert passes == len(got) and (passes > 1) == (most_ids < 1000)
  spectrum = frequency.spectrum(part for _, part in got)
  assert spectrum.seen(np.arange(1, spectrum.distinct + 1)).tolist() == sorted(Counter(ids.tolist()).values(), reverse=True)


def test_zipf_fit_by_hand():
  exact = frequency.spectrum([np.round(1e9 * np.arange(1, 5001) ** -1.3).astype(np.int64)])
  fit = frequency.zipf(exact)
  assert fit is not None and (fit.first_rank, fit.last_rank) == (10, 5000)
  np.testing.assert_allclose(fit.slope, 1.3, atol=1e-5)
  np.testing.assert_allclose(fit.seen(1), 1e9, rtol=1e-4)
  rare = frequency.spectrum([np.array([10] * 100 + [9] * 300)])
  fit = frequency.zipf(rare)
  assert fit is not None and fit.last_rank == 100 and fit.slope == pytest.approx(0, abs=1e-12)
  assert frequency.zipf(frequency.spectrum([np.array([10] * 99 + [9] * 300)])) is None
  assert frequency.spectrum([]).distinct == 0 and len(frequency.spectrum([]).curve()[0]) == 0


def test_page_and_files(planted):
  folder = planted / "describe"
  text, links = (folder / "index.html").read_text(), Links()
  links.feed(text)
  figures = {"base_rate", "unseen", "id_frequency", "id_frequency_by_feature", "missing", "dense"}
  assert [a for a in links.fetched if not a.startswith("data:")] == [] and links.charts == len(figures)
  assert {path.name for path in folder.iterdir()} == {"index.html", "describe.json"} | {f"{f}.{k}" for f in figures for k in ("svg", "png")}
  made, known = described(folder), json.loads((planted / "dataset.json").read_text())
  assert {"schema_version", "command", "hardware", "software"} <= set(made)
  assert made["digest"] == known["digest"] and list(made["splits"]) == ["train", "eval", "test"]
  assert made["splits"]["test"]["rows"] == TEST and made["splits"]["eval"]["base_rate"] == known["splits"]["eval"]["base_rate"]
  drawn = {figure: (folder / f"{figure}.svg").read_text().replace("\u00a0", " ") for figure in figures}
  slope = made["categorical"][0]["zipf"]
  assert f"slope {slope['slope']:.3f}, ranks 10 to {slope['last_rank']:,}" in drawn["id_frequency_by_feature"]
  assert "no slope: 5 ids seen 10 times" in drawn["id_frequency_by_feature"]
  assert all(f"{split} →" in drawn["base_rate"] for split in ("train", "eval", "test"))
  assert f"{known['columns']['categorical'][1]['missing_share']:.2%}" in drawn["missing"]
  specs = json.loads(re.search(r'id="report">(.*?)</script>', text).group(1))["specs"]
  assert set(specs) == figures
  borders = [row for rows in specs["base_rate"]["datasets"].values() for row in rows if "above" in row]
  assert [(b["row"], b["text"]) for b in borders] == [(0, "train →"), (ROWS - EVAL - TEST, "eval →"), (ROWS - TEST, "test →")]
  assert [b["above"] for b in borders] == [0, 0, -14]  # the last two would meet


def test_tables_on_the_terminal(planted, capsys):
  opened = dataset.open_dataset(planted)
  program.print_tables(opened, record.read_json(planted / "dataset.json"), inventory.take(opened, 0))
  out, made = capsys.readouterr().out, described(planted / "describe")
  c0, wide = made["categorical"][0], made["dense"][0]
  line = next(line for line in out.splitlines() if line.startswith("│ c0 "))
  cells = [cell.strip() for cell in line.strip("│").split("│")]
  assert cells == [
    *("c0", f"{c0['cardinality']:,}", "0.00%", f"{c0['distinct_seen']:,}", f"{c0['top_share']:.2%}", f"{c0['zero_share']:.2%}"),
    *(f"{c0['unseen_share']:.2%}", f"{c0['zipf']['slope']:.3f}", f"10 to {c0['zipf']['last_rank']:,}", f"{c0['zipf']['error']:.1%}"),
  ]
  assert "too few ids" in next(line for line in out.splitlines() if line.startswith("│ few "))
  assert f"{wide['mean']:.4g}" in out and f"{wide['high']:.4g}" in out and made["digest"] in out and "log.parquet" in out


def test_rejected_lines_by_reason(tmp_path, capsys):
  lines = ["y,c", *(f"{i % 2},{i % 7}" for i in range(500)), *["2,1"] * 3, "1,2,3"]
  (tmp_path / "log.csv").write_text("\n".join(lines) + "\n")
  (tmp_path / "schema.toml").write_text('label = "y"\ncategorical = ["c"]\n')
  words = ("--format=csv", f"--input={tmp_path / 'log.csv'}", f"--schema={tmp_path / 'schema.toml'}", f"--output={tmp_path / 'set'}")
  known = prepare(flags.parse(["prepare", "--workers=1", *words, "--max_reject_fraction=0.1"], PrepareConfig))
  program.main(DescribeConfig((str(tmp_path / "set"),)))
  made, out = described(tmp_path / "set" / "describe"), capsys.readouterr().out
  assert made["rejects"]["by_reason"] == known["rejects"]["by_reason"] and made["dense"] == []
  assert sorted(known["rejects"]["by_reason"].values()) == [1, 3]
  for reason, count in known["rejects"]["by_reason"].items():
    assert re.search(rf"│ {reason} +│ +{count} │ +{count / 504:.2%} │", out)
  assert not (tmp_path / "set" / "describe" / "dense.svg").exists()


@pytest.mark.parametrize(
  ("words", "message"),
  [
    ((), "data set to describe: none given; name one directory"),
    (("{set}", "other"), "data set to describe: {set} other given; name one directory"),
    (("{tmp}/nowhere",), "{tmp}/nowhere: no such directory"),
    (("{tmp}",), "{tmp}: no dataset.json in it"),
    (("{set}", "--max_rows=-1"), "--max_rows=-1: must be 0 (all rows) or more"),
    (("{set}", "--output={tmp}/file"), "--output={tmp}/file: must be a directory that can be written; {tmp}/file is not"),
    (("{set}", "--output={tmp}/file/below"), "--output={tmp}/file/below: must be a directory that can be written; {tmp}/file is not"),
  ],
)
def test_bad_input(planted, tmp_path, words, message):
  (tmp_path / "file").write_text("")
  here = {"set": planted, "tmp": tmp_path}
  with pytest.raises(UserError) as error:
    program.main(flags.parse(["describe", *(word.format(**here) for word in words)], DescribeConfig))
  assert str(error.value).startswith(message.format(**here)) and "\n" not in str(error.value)
  assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_broken_shards_leave_nothing(log, tmp_path, monkeypatch):
  """Digests of large data sets are checked as they are read. Damage that no digest shows is an error in one line."""
  monkeypatch.setattr(dataset, "VERIFY_BYTES", 0)
  out = make(tmp_path, log, SCHEMA, f"--eval_rows={EVAL}")
  shard = sorted(out.glob("train-*"))[0]
  whole = shard.read_bytes()
  middle = len(whole) // 2
  broken = {
    "cannot be read": b"x" * len(whole),
    "column": whole[:middle] + bytes(byte ^ 0x5A for byte in whole[middle : middle + 200_000]) + whole[middle + 200_000 :],
  }
  for message, content in broken.items():
    shard.write_bytes(content)
    with pytest.raises(UserError, match=f"{shard.name}: changed since it was prepared"):
      program.main(DescribeConfig((str(out),)))
    with monkeypatch.context() as patch:
      patch.setattr(dataset.Dataset, "verify", lambda *args: None)
      with pytest.raises(UserError, match=message) as error:
        program.main(DescribeConfig((str(out),)))
    assert str(shard) in str(error.value) and "\n" not in str(error.value)
    assert not (out / "describe").exists()
  monkeypatch.undo()
  shard.write_bytes(whole)
  contents = json.loads((out / "dataset.json").read_text())
  contents["columns"]["categorical"][0]["cardinality"] = 5
  (out / "dataset.json").write_text(json.dumps(contents))
  with pytest.raises(UserError, match=r"feature c0 has id \d+; ids are from 0 to 4"):
    program.main(DescribeConfig((str(out),)))


def test_as_a_program(planted, tmp_path):
  words = [sys.executable, "-m", "dlrm_jax.data.describe"]
  helped = subprocess.run([*words, "--help"], capture_output=True, text=True, check=False)
  assert (
    helped.returncode == 0 and "DATA ...: the data set" in helped.stdout and "--max_rows" in helped.stdout and "--output" in helped.stdout
  )
  done = subprocess.run([*words, str(planted), f"--output={tmp_path / 'page'}"], capture_output=True, text=True, check=False)
  assert (
    done.returncode == 0
    and re.fullmatch(r"reading [\d,]+ rows of \w+, then drawing figures", done.stderr.splitlines()[0])
    and all(line.startswith("warning: dense") for line in done.stderr.splitlines()[1:])
    and f"page: {tmp_path / 'page' / 'index.html'}" in done.stdout
  )
  assert described(tmp_path / "page")["command"] == [
    "python",
    "-m",
    "dlrm_jax.data.describe",
    str(planted),
    f"--output={tmp_path / 'page'}",
  ]
  bad = subprocess.run([*words, str(tmp_path / "nowhere")], capture_output=True, text=True, check=False)
  assert bad.returncode == 2 and bad.stderr.count("\n") == 1 and bad.stdout == ""


def test_bar_without_a_terminal_says_a_line_now_and_then(capsys, monkeypatch):
  monkeypatch.setattr("dlrm_jax.common.progress._LINE_EVERY_S", 0.0)
  with Bar("counting", 30) as bar:
    bar(6)
    bar.extend(10)
    bar(20)
  assert capsys.readouterr().err == "counting: 20%\ncounting: 65%\n"
  monkeypatch.setattr("dlrm_jax.common.progress._LINE_EVERY_S", 60.0)
  with Bar("counting", 30) as bar:
    bar(30)
  assert capsys.readouterr().err == ""


def real(name: str) -> Path:
  path = REAL / name
  if not path.exists():
    pytest.skip(f"the real data {name} is not in ../shared/data")
  return path


def test_movielens(tmp_path):
  schema = 'label = "label"\ncategorical = ["user_id", "movie_id", "genres", "gender"]\n'
  out = make(tmp_path, real("ml1m/ml1m_events.parquet"), schema)
  made, train = numbers(out), shards(out, "train")
  for entry in made["categorical"]:
    check_counts(entry, train[f"id.{entry['name']}"].to_list(), ranked=True)
  assert made["dense"] == [] and made["categorical"][3]["zipf"] is None
  np.testing.assert_allclose([entry["rate"] for entry in made["base_rate"]], 0.5752, atol=0.03)  # the order is random


def test_criteo_head(tmp_path):
  words = ("--format=criteo_tsv", f"--input={real('criteo_kaggle_head/train.txt')}", f"--output={tmp_path / 'set'}")
  prepare(flags.parse(["prepare", "--workers=1", *words], PrepareConfig))
  made, train = numbers(tmp_path / "set"), shards(tmp_path / "set", "train")
  for entry in made["categorical"]:
    check_counts(entry, train[f"id.{entry['name']}"].to_list(), ranked=True)
  missing = {entry["name"]: entry["missing_share"] for entry in made["dense"] + made["categorical"]}
  cells = [line.rstrip("\n").split("\t")[1:] for line in real("criteo_kaggle_head/train.txt").read_text().splitlines(keepends=True)]
  for place, share in enumerate(missing.values()):
    assert share == sum(row[place] == "" for row in cells) / len(cells)
  assert len(missing) == 39 and 0.14 < np.mean(list(missing.values())) < 0.15


def test_a_day_of_seconds(tmp_path):
  """Such a column ended in "Too many bins for data range"."""
  case = real("cases/narrow_dense")
  words = ("--format=csv", f"--input={case / 'day.csv'}", f"--schema={case / 'log.toml'}", f"--output={tmp_path / 'set'}")
  prepare(flags.parse(["prepare", "--workers=1", *words], PrepareConfig))
  (entry,) = numbers(tmp_path / "set")["dense"]
  assert 1.7e9 < entry["edges"][0] < entry["edges"][-1] < 1.8e9 and entry["counts"][0] and sum(entry["counts"]) == 4500
