"""Text files with other delimiters, without a header line, with texts for missing values, with byte order marks, and in UTF-16."""

import csv
import gzip
import io
import json
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prepared_case import criteo_lines, rows_of

from dlrm_jax.common import flags
from dlrm_jax.common.flags import UserError
from dlrm_jax.data.prepare import cells
from dlrm_jax.data.prepare.program import PrepareConfig, prepare
from dlrm_jax.data.prepare.schema import CRITEO
from dlrm_jax.data.prepare.schema_file import load_schema
from dlrm_jax.data.prepare.schema_json import schema_as_json, schema_from_json

NAMES = ["views", "y", "c", "age"]
COLUMNS = 'label = "y"\ncategorical = ["c", "age"]\n'
DENSE = '[dense]\nage = { transform = "none", missing = 40 }\nviews = {}\n'


def run(
  tmp_path: Path, data: bytes, keys: str = "", output: str = "out", kind: str = "csv", more: tuple[str, ...] = ()
) -> tuple[dict, Path]:
  (tmp_path / "log").write_bytes(data)
  (tmp_path / "s.toml").write_text(COLUMNS + keys + "\n" + DENSE)
  words = [f"--format={kind}", f"--input={tmp_path}/log", f"--schema={tmp_path}/s.toml", f"--output={tmp_path}/{output}", *more]
  return prepare(flags.parse(["prepare", "--workers=1", *words], PrepareConfig)), tmp_path / output


def table(seed: int = 0) -> list[list[str]]:
  rng = random.Random(seed)
  texts = ["a", "b", "", "p,q", "r;s", "t\tu", "v|w", 'say "x"', "é"]
  return [[str(rng.randrange(50)), str(i % 2), rng.choice(texts), rng.choice(["", "20", "30.5"])] for i in range(80)]


def written(rows: list[list[str]], delimiter: str, header: bool = True) -> bytes:
  out = io.StringIO()
  csv.writer(out, delimiter=delimiter, lineterminator="\n").writerows([NAMES, *rows] if header else rows)
  return out.getvalue().encode()


@pytest.mark.parametrize(("delimiter", "key"), [(";", '";"'), ("\t", '"\\t"'), ("|", '"|"'), ("\x01", '"\\u0001"'), (" ", '" "')])
def test_every_delimiter_with_and_without_a_header_gives_one_digest(tmp_path, delimiter, key):
  expected, _ = run(tmp_path, written(table(), ","))
  header = "header = [" + ", ".join(f'"{name}"' for name in NAMES) + "]"
  with_header, _ = run(tmp_path, written(table(), delimiter), f"delimiter = {key}", "with")
  without, _ = run(tmp_path, written(table(), delimiter, header=False), f"delimiter = {key}\n{header}", "without")
  marked, _ = run(tmp_path, b"\xef\xbb\xbf" + written(table(), delimiter, header=False), f"delimiter = {key}\n{header}", "marked")
  assert with_header["digest"] == without["digest"] == marked["digest"] == expected["digest"]
  assert (without["schema"]["delimiter"], without["schema"]["header"]) == (delimiter, NAMES)
  assert not {"delimiter", "quotes", "null"} & set(expected["schema"])


def test_without_quotes_a_quote_is_a_character(tmp_path):
  rows = [["1", str(i % 2), '"a' if i % 3 else 'b"c', "3"] for i in range(30)]
  data = ("\n".join(";".join(row) for row in [NAMES, *rows]) + "\n").encode()
  contents, out = run(tmp_path, data, 'delimiter = ";"\nquotes = false')
  assert contents["rejects"]["total"] == 0
  assert rows_of(out, "train")["id.c"].to_list() == [1 if i % 3 else 2 for i in range(27)]


TOKENS = ["NA", "NULL", "\\N", "nan", "-", "ø"]


def test_null_tokens_are_missing_in_every_kind_of_column_and_format(tmp_path):
  """The same log with empty cells in place of the tokens is the judge."""
  rng = random.Random(1)
  empty = table(2)
  rows = [[rng.choice(TOKENS) if not cell and i != 1 else cell for i, cell in enumerate(row)] for row in empty]
  rows[3][0], empty[3][0] = "NULL", ""
  key = "null = [" + ", ".join(f"'{token}'" for token in ["", *TOKENS]) + "]"
  expected, _ = run(tmp_path, written(empty, ","), output="empty")
  got, _ = run(tmp_path, written(rows, ","), key, "tokens")
  assert got["digest"] == expected["digest"]
  assert got["columns"] == expected["columns"]
  assert got["schema"]["null"] == TOKENS
  unquoted = b"\n".join(line for line in written(rows, ",").split(b"\n") if b'"' not in line)
  same = b"\n".join(line for line in written(empty, ",").split(b"\n") if b'"' not in line)
  assert run(tmp_path, unquoted, key, "u1")[0]["digest"] == run(tmp_path, same, output="u2")[0]["digest"]
  sink = pa.BufferOutputStream()
  columns = dict(zip(NAMES, map(list, zip(*rows, strict=True)), strict=True))
  for name in ("c", "age"):
    columns[name] = pa.array(columns[name]).dictionary_encode() if name == "c" else columns[name]
  pq.write_table(pa.table(columns), sink)
  parquet, _ = run(tmp_path, sink.getvalue().to_pybytes(), key, "parquet", "parquet")
  assert parquet["digest"] == expected["digest"]
  with pytest.raises(UserError, match="not a number"):
    run(tmp_path, written(rows, ","), "null = ['NA']", "some")


def test_the_hint_is_about_the_commonest_rejects(tmp_path):
  """Null texts, also next to a line break in quotes; numbers as labels; nothing where texts of a column have no remedy."""

  def refused(data: bytes, keys: str = "") -> str:
    with pytest.raises(UserError) as error:
      run(tmp_path, data, keys)
    assert "\n" not in str(error.value)
    return str(error.value)

  rows = table()
  for i, row in enumerate(rows):
    row[0] = "NULL" if i % 3 == 0 else "\\N" if i % 11 == 1 else row[0]
  shown = refused(written(rows, ",") + b'1,0,"a\nb",20\n')
  assert "line 2: not a number (views is 'NULL')" in shown
  assert shown.endswith('; null = ["NULL", "\\\\N"] in the schema makes such cells missing ones') and "quotes = false" not in shown
  contents, _ = run(tmp_path, written(rows, ","), 'null = ["NULL", "\\\\N"]', "mended")  # the hint is TOML
  assert contents["rejects"]["total"] == 0
  for keys in ("", "null = ['NA']"):
    labels = refused(written([[*row[:1], "NULL" if i % 2 else row[1], *row[2:]] for i, row in enumerate(table())], ","), keys)
    assert labels.endswith('; "NULL" in a label is a missing one whatever the schema\'s null says, which is for the other columns')
    assert labels.count("null =") == 0
  shown = refused(written([[row[0] or "1", str(37 + i), *row[2:]] for i, row in enumerate(table())], ","))
  assert shown.endswith('; a label may be a comparison, such as label = "y > 15" in the schema')
  assert "schema" not in refused(written([[f"{row[0]} EUR", *row[1:]] for row in table()], ","))
  assert "schema" not in refused(written([[row[0], "paid", *row[2:]] for row in table()], ","))


def test_a_label_that_is_a_null_token_is_rejected(tmp_path):
  rows = table(3)
  rows[5][1] = "NA"
  contents, _ = run(tmp_path, written(rows, ","), "null = ['NA']", more=("--max_reject_fraction=0.1",))
  assert contents["rejects"]["by_reason"] == {"label is missing": 1}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.one_of(st.none(), st.lists(st.one_of(st.none(), st.sampled_from(["NA", "a", "", "b", "NULL"])), max_size=4))))
def test_null_tokens_inside_lists(lists):
  got = cells.nulled(pa.array(lists, pa.list_(pa.string())), ("NA", "NULL")).to_pylist()
  assert got == [None if cell is None else [None if text in ("NA", "NULL") else text for text in cell] for cell in lists]
  sliced = pa.array([["x"], *lists], pa.list_(pa.string())).slice(1)
  assert cells.nulled(sliced, ("NA", "NULL")).to_pylist() == got


@pytest.mark.parametrize("zipped", [False, True])
def test_a_criteo_log_with_a_byte_order_mark(tmp_path, zipped):
  def digest(mark: bytes, name: str) -> str:
    data = mark + ("\n".join(criteo_lines(60)) + "\n").encode()
    (tmp_path / f"{name}.tsv").write_bytes(gzip.compress(data) if zipped else data)
    words = ["prepare", "--workers=1", "--format=criteo_tsv", f"--input={tmp_path}/{name}.tsv", f"--output={tmp_path}/{name}"]
    made = prepare(flags.parse(words, PrepareConfig))
    assert made["rejects"]["total"] == 0
    return made["digest"]

  assert digest(b"\xef\xbb\xbf", "marked") == digest(b"", "plain")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("kind", ["csv", "criteo_tsv"])
def test_utf_16_is_refused_in_one_line(tmp_path, encoding, kind):
  text = written(table(), ",").decode() if kind == "csv" else "\n".join(criteo_lines(20))
  (tmp_path / "log").write_bytes(text.encode(encoding))
  (tmp_path / "s.toml").write_text(COLUMNS + DENSE)
  words = ["prepare", "--workers=1", f"--format={kind}", f"--input={tmp_path}/log", f"--output={tmp_path}/out"]
  words += [f"--schema={tmp_path}/s.toml"] * (kind == "csv")
  with pytest.raises(UserError, match=r"log: this looks like UTF-16 or UTF-32 text; convert it to UTF-8") as error:
    prepare(flags.parse(words, PrepareConfig))
  assert "\n" not in str(error.value)
  assert sorted(path.name for path in tmp_path.iterdir()) == ["log", "s.toml"]


@pytest.mark.parametrize(
  ("keys", "message"),
  [
    ("delimiter = 3", "delimiter = 3 must be text"),
    ('delimiter = ", "', "delimiter = ', ' must be one ASCII character"),
    ('delimiter = "\\n"', "must be one ASCII character"),
    ("delimiter = '\"'", "must be one ASCII character"),
    ('delimiter = "é"', "must be one ASCII character"),
    ("header = false", "header = False must be a list of the names of all columns"),
    ('header = ["y", "c", "c"]', "header must differ: 'c' is there twice"),
    ('header = ["y", "c"]', "header has no column 'age', which the schema names; it has y, c"),
    ("quotes = 1", "quotes = 1 must be true or false"),
    ('null = "NA"', "null = 'NA' must be a list of texts"),
    ("null = [1]", "null must be a list of texts"),
  ],
)
def test_bad_keys_are_refused_in_one_line(tmp_path, keys, message):
  (tmp_path / "s.toml").write_text(COLUMNS + keys + "\n" + DENSE)
  with pytest.raises(UserError, match=message) as error:
    load_schema(str(tmp_path / "s.toml"))
  assert str(tmp_path / "s.toml") in str(error.value)
  assert "\n" not in str(error.value)


@pytest.mark.parametrize(
  ("data", "message"),
  [
    (written(table(), ";"), r"no column 'y', .* has views;y;c;age; the schema may have delimiter = "),
    (written(table(), ",", header=False), r"no column 'y', .*; the schema may have header = \[...\]"),
    (b"views,y,c,years\n1,0,a,2\n", r"no column 'age', which the schema names; the file has views, y, c, years$"),
    (b'views,y,"c\nd",age\n1,0,a,2\n', "line 1 is not a CSV header .a line break in quotes"),
  ],
)
def test_a_file_that_the_schema_does_not_fit_gets_a_hint(tmp_path, data, message):
  with pytest.raises(UserError, match=message) as error:
    run(tmp_path, data)
  assert "\n" not in str(error.value)


def test_a_schema_comes_back_from_dataset_json(tmp_path):
  keys = 'null = ["NA", "-"]\ndelimiter = ";"\nquotes = false\nheader = ["y", "c", "age", "views"]\n'
  (tmp_path / "s.toml").write_text(COLUMNS + keys + DENSE)
  schema = load_schema(str(tmp_path / "s.toml"))
  entry = json.loads(json.dumps(schema_as_json(schema)))
  assert schema_from_json(entry) == schema
  assert entry["null"] == ["NA", "-"]
  old = {name: value for name, value in schema_as_json(CRITEO).items() if name not in ("delimiter", "quotes")}
  assert schema_from_json(old) == CRITEO  # of a data set made before there were delimiters
