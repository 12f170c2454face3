"""No line from inside a quoted line break becomes a row, wherever the break, the piece's end or the chunk's end is.

The judge is Python's csv module on the whole file: it says which lines make a record.
"""

import csv
import gzip
import re
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from places import REAL
from prepared_case import rows_of

from dlrm_jax.common import flags
from dlrm_jax.data.prepare import delimited, program, quotes, read
from dlrm_jax.data.prepare.label import Label
from dlrm_jax.data.prepare.options import PrepareConfig
from dlrm_jax.data.prepare.program import prepare
from dlrm_jax.data.prepare.rejects import LINE_BREAK, Reject, Tally
from dlrm_jax.data.prepare.rows import End, read_piece
from dlrm_jax.data.prepare.schema import CategoricalColumn, Schema

Judged = tuple[list[tuple[int, list[str]]], dict[int, str]]  # (line, cells) of each row, and {line: reason} of the rejects


def judged(data: bytes, delimiter: str, columns: int) -> Judged:
  """What each line of a file is, by Python's csv module; line 1 is the first."""
  lines = [line.removesuffix(b"\r").decode() for line in data.split(b"\n")]
  if not lines[-1]:
    lines.pop()
  rows, rejects, before = [], {}, 0
  reader = csv.reader((line + "\n" for line in lines), delimiter=delimiter)
  for cells in reader:
    first, before = before, reader.line_num
    if before - first > 1:
      rejects |= dict.fromkeys(range(first + 1, before + 1), LINE_BREAK)
      continue
    if len(list(csv.reader([lines[first] + "\n", "another line"], delimiter=delimiter))) == 1:
      rejects[before] = LINE_BREAK  # the file ends inside quotes
      continue
    try:
      next(csv.reader([lines[first]], delimiter=delimiter, strict=True), None)
    except csv.Error:
      rejects[before] = "bad quoting"
      continue
    if not lines[first]:
      rejects[before] = "empty line"
    elif len(cells) != columns:
      rejects[before] = "wrong number of columns"
    elif not re.fullmatch("0*[01]", cells[0]):
      rejects[before] = "label is not 0 or 1" if cells[0] else "label is missing"
    else:
      rows.append((before, [cells[0][-1], *cells[1:]]))
  return rows, rejects


def found(path: Path, schema: Schema, piece_bytes: int) -> Judged:
  """What `prepare` makes of the lines of a file that is read in pieces of this size."""
  pieces = read.pieces_of(0, path, "csv", piece_bytes)
  ends = [list(read_piece(path, piece, "csv", schema, lambda count: None))[-1] for piece in pieces]
  inside = quotes.first_states([end.inside for end in ends], [piece.start == 0 for piece in pieces])
  rows, rejects, before = [], {}, 0
  for piece, begins_inside in zip(pieces, inside, strict=True):
    lines = 0
    for part in read_piece(path, piece, "csv", schema, lambda count: None, begins_inside):
      if isinstance(part, End):
        lines += part.header_lines
        continue
      columns = [cells.to_pylist() for cells in part.rows.cells]
      labels = map(str, part.rows.label_n.tolist())
      for line, label, *cells in zip(part.rows.line_n.tolist(), labels, *columns, strict=True):
        rows.append((before + line, [label, *(cell or "" for cell in cells)]))
      rejects |= {before + reject.line: reject.reason for reject in part.rejects}
      lines += part.num_lines
    before += lines
  return rows, rejects


def schema_of(delimiter: str, has_header: bool) -> Schema:
  header = None if has_header else ("y", "c", "d")
  return Schema(Label("y"), (), (CategoricalColumn("c"), CategoricalColumn("d")), header=header, delimiter=delimiter)


TOKENS = ['"', '""', ",", "\n", "\r\n", "a", "0", "1", "0,a,b\n", '1,"a,b",c\n', '0,a,"b\n1,x,y\nc"\n', '1,"a', '"\n', ',"', '",', ";", "é"]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(TOKENS), max_size=24).map("".join), st.integers(1, 40), st.sampled_from([3, 7, 1 << 20]), st.booleans())
@example('0,a,"b\n1,x,y\nc",d\n0,e,f\n', 1, 3, True)
@example('0,"a"b,"c\n1,x,y\n"\n0,e,f\n', 5, 3, False)  # the second quoted cell of a line with bad quoting is open
@example('""1,"a', 1, 3, False)
@example('0,a,"b ""\n1,x,y\n""c"\n0,e,f\n', 9, 7, True)
def test_the_lines_that_are_rows_are_those_of_the_csv_module(tmp_path_factory, text, piece_bytes, chunk_bytes, has_header):
  path = tmp_path_factory.mktemp("quotes") / "log.csv"
  data = (("y,c,d\n" if has_header else "0,e,f\n") + text).encode()
  path.write_bytes(data)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(delimited, "CHUNK_BYTES", chunk_bytes)
    rows, rejects = found(path, schema_of(",", has_header), piece_bytes)
  expected_rows, expected_rejects = judged(data, ",", 3)
  if has_header:
    assert expected_rejects.pop(1) == "label is not 0 or 1"
  assert rows == expected_rows
  assert rejects == expected_rejects


def test_every_position_of_a_break(tmp_path):
  """A quoted cell with a break, whose middle line reads like a row, in any place of the file, with pieces that end everywhere."""
  good = ["0,a,b", '1,"c,d",e', "1,f,g", '0,"say ""h""",i']
  for at in range(5):
    for ending in ("\n", "\r\n"):
      broken = ['1,"x', "1,999,rose", '0,888,"" y",z']
      text = ending.join(["y,c,d", *good[:at], *broken, *good[at:]]) + ending
      path = tmp_path / "log.csv"
      path.write_text(text, newline="")
      for piece_bytes in (*range(1, len(text) + 1, 3), 1 << 20):
        rows, rejects = found(path, schema_of(",", True), piece_bytes)
        assert [cells[0] for _, cells in rows] == [line[0] for line in good], (at, ending, piece_bytes)
        assert rejects == dict.fromkeys(range(at + 2, at + 5), LINE_BREAK)


def run(tmp_path: Path, *words: str, output: str = "out") -> tuple[dict, Path]:
  out = tmp_path / output
  return prepare(flags.parse(["prepare", f"--output={out}", "--workers=1", *words], PrepareConfig)), out


BROKEN = "y,c,d\n" + "0,a,b\n1,b,a\n" * 30 + '1,k,"sale, new\n1,999,rose\nend"\n' + "0,a,b\n1,b,a\n" * 30


@pytest.mark.parametrize("kind", ["plain", "gz", "dos", "pieces"])
def test_a_data_set_without_the_lines_of_a_break(tmp_path, monkeypatch, kind):
  data = BROKEN.encode()
  if kind == "dos":
    data = data.replace(b"\n", b"\r\n")
  (tmp_path / "log.csv").write_bytes(gzip.compress(data) if kind == "gz" else data)
  (tmp_path / "s.toml").write_text('label = "y"\ncategorical = ["c", "d"]\n')
  words = ["--format=csv", f"--input={tmp_path}/log.csv", f"--schema={tmp_path}/s.toml", "--max_reject_fraction=0.1", "--workers=1"]
  if kind == "pieces":
    monkeypatch.setattr(program, "_MIB", 1)
    words.append(f"--piece_mib={data.index(b'1,999')}")  # the second piece begins inside quotes
  contents, out = run(tmp_path, *words)
  lines = (out / "rejects.tsv").read_text().splitlines()[1:]
  assert [line.split("\t")[1:3] for line in lines] == [[str(n), LINE_BREAK] for n in (62, 63, 64)]
  assert contents["rejects"]["by_reason"] == {LINE_BREAK: 3}
  assert rows_of(out, "train")["label"].to_list() + rows_of(out, "eval")["label"].to_list() == [0, 1] * 60
  (tmp_path / "log.csv").write_bytes(b"".join(line for line in data.splitlines(True) if line[2:3] in b"cab"))
  without, _ = run(tmp_path, *words[:-1], output="without")
  assert without["digest"] == contents["digest"]


def test_too_many_lines_in_quotes_say_how_to_read_quotes_as_characters(tmp_path):
  (tmp_path / "log.csv").write_text("y,c,d\n" + "0,a,b\n" * 9 + '1,"5 inches,b\n' + "1,a,b\n" * 9)
  (tmp_path / "s.toml").write_text('label = "y"\ncategorical = ["c", "d"]\n')
  words = ["--format=csv", f"--input={tmp_path}/log.csv", f"--schema={tmp_path}/s.toml"]
  with pytest.raises(flags.UserError, match=r"log\.csv line 11: line break in quotes; .*quotes = false in the schema"):
    run(tmp_path, *words)
  (tmp_path / "s.toml").write_text('label = "y"\ncategorical = ["c", "d"]\nquotes = false\n')
  contents, _ = run(tmp_path, *words)
  assert contents["rejects"]["total"] == 0
  assert sum(split["rows"] for split in contents["splits"].values()) == 19


def test_a_stray_quote_is_blamed_and_not_another_line_before_it(tmp_path):
  """Four harmless broken lines come first. Both messages name the line of the quote: that of a whole log, and that of a hopeless start."""
  text = "y,c,d\n" + "0,a\n" * 4 + "0,a,b\n" * 9 + '1,"5 inches,b\n' + "1,a,b\n" * 9
  (tmp_path / "log.csv").write_text(text)
  (tmp_path / "s.toml").write_text('label = "y"\ncategorical = ["c", "d"]\n')
  words = ["--format=csv", f"--input={tmp_path}/log.csv", f"--schema={tmp_path}/s.toml"]
  with pytest.raises(flags.UserError) as refused:
    run(tmp_path, *words)
  assert str(refused.value) == (
    "14 of 23 lines rejected (60.87%), above --max_reject_fraction=0.001; 10 of them for the commonest reason, the first: "
    f"{tmp_path}/log.csv line 15: line break in quotes; in all: 10 line break in quotes, 4 wrong number of columns; "
    "a row is one line; quotes = false in the schema makes a quote a character like others"
  )
  tally = Tally()
  first = Reject(1001, "wrong number of columns", "2 instead of 3", b"0,a")
  tally.add([first, *(Reject(n, LINE_BREAK, "", b"") for n in range(9001, 20_000))], 9000)
  with pytest.raises(flags.UserError) as refused:
    tally.refuse_hopeless(tmp_path / "log.csv", 0)
  assert str(refused.value).startswith(
    f"{tmp_path}/log.csv: 11,000 of the first 20,000 lines rejected; 10,999 of them for the commonest reason, the first: line 9001: "
    "line break in quotes; a row is one line; quotes = false"
  )


def test_the_real_case(tmp_path):
  case = REAL / "cases" / "quoted_newline"
  if not case.exists():
    pytest.skip("the cases are not in ../shared/data")
  words = ["--format=csv", f"--input={case}/newline_row.csv", f"--schema={case}/log.toml", "--max_reject_fraction=0.01"]
  contents, out = run(tmp_path, *words)
  assert contents["rejects"]["by_reason"] == {LINE_BREAK: 3}
  kept = (out / "rejects.tsv").read_text().splitlines()[1:]
  assert [line.split("\t")[1:] for line in kept] == [
    ["1002", LINE_BREAK, "", '1,29,"sale, new'],
    ["1003", LINE_BREAK, "", "1,999,rose,5"],
    ["1004", LINE_BREAK, "", 'end",1.74'],
  ]
