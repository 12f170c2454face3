"""WORKSPACE.md's map lists the files that exist, as the files describe themselves; its tables name files that exist."""

import re
from pathlib import Path

import pytest
import workspace_map


def listed(text: str) -> set[str]:
  """Paths that a map names."""
  found, folder = set(), ""
  for line in text.split(workspace_map.START)[1].split(workspace_map.END)[0].splitlines():
    if line.startswith("**"):
      folder = line.split("**")[1]
      found.add(folder + "__init__.py")
    elif line.startswith("- `"):
      found.add(folder + line.split("`")[1])
  return found


def test_the_map_is_true():
  text = workspace_map.PAGE.read_text()
  there, named = {str(path) for path in workspace_map.files(workspace_map.ROOT)}, listed(text)
  missing = sorted(path for path in there - named if not path.endswith("__init__.py"))
  gone = sorted(path for path in named - there if not path.endswith("__init__.py"))
  assert not missing and not gone, f"WORKSPACE.md's map misses {missing} and names {gone}, which are not there: run `make map`"
  assert text == workspace_map.mapped(text), "WORKSPACE.md's map is not what the files' docstrings say: run `make map`"


def test_the_tables_name_what_is_there():
  tables = workspace_map.PAGE.read_text().split(workspace_map.START)[0]
  places = re.findall(r"`([\w/]+(?:\.py|/))(?:: (\w+))?`", tables)
  assert places
  for path, name in places:
    found = [there for there in (workspace_map.ROOT / path, workspace_map.ROOT / "dlrm_jax" / path) if there.exists()]
    assert found, f"WORKSPACE.md names {path}, which is not there"
    assert not name or re.search(rf"\b{name}\b", found[0].read_text()), f"WORKSPACE.md looks for {name} in {path}"


def test_every_file_says_what_it_is_for():
  silent = [str(path) for path in workspace_map.files(workspace_map.ROOT) if not workspace_map.purpose(workspace_map.ROOT / path)]
  assert not silent, f"{silent}: open the file with a sentence that says what it holds"


def test_lines_on_standard_error_go_through_say():
  """It shows control characters of names as escapes. `flags` prints its errors itself, since progress is built on it."""
  own = {"dlrm_jax/common/flags.py", "dlrm_jax/common/progress.py"}
  packages = ("dlrm_jax", "sweeps", "analysis", "benchmarks")
  files = [path.relative_to(workspace_map.ROOT) for name in packages for path in (workspace_map.ROOT / name).rglob("*.py")]
  assert {str(path) for path in files if "file=sys.stderr" in (workspace_map.ROOT / path).read_text()} == own


@pytest.mark.parametrize(
  ("name", "text", "expected"),
  [
    ("a.py", '"""Reads the lines\nof `x.y`: all. Called by `b`."""\n', "Reads the lines of `x.y`: all"),
    ("a.py", '"""After Naumov et al. 2019\n\nMore.\n"""\n', "After Naumov et al. 2019"),
    ("a.py", "x = 1\n", ""),
    ("a.cc", "// Sums rows,\n// two at a time. Used by b.\n#include <x>\n", "Sums rows, two at a time"),
    ("a.css", "/* The look of pages. */\nbody {}\n", "The look of pages"),
  ],
)
def test_purpose_is_the_first_sentence(tmp_path: Path, name: str, text: str, expected: str):
  (tmp_path / name).write_text(text)
  assert workspace_map.purpose(tmp_path / name) == expected
