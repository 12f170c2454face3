"""Writes the map of WORKSPACE.md: every folder and file of the product, each with the first sentence of its docstring.

  python tests/helpers/workspace_map.py      # or make map

`tests/test_workspace.py` fails where the map is not what this writes.
"""

import ast
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("dlrm_jax", "sweeps", "analysis", "benchmarks")
SUFFIXES = (".py", ".cc", ".h", ".js", ".css", ".html")
PAGE = ROOT / "WORKSPACE.md"
START, END = "<!-- map -->", "<!-- /map -->"


def files(root: Path) -> list[Path]:
  """The source files of the product that git knows or would add, relative to `root`."""
  command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *PACKAGES]
  names = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout.splitlines()
  paths = {Path(name) for name in names if (root / name).exists()}
  return sorted(path for path in paths if path.suffix in SUFFIXES)


def purpose(path: Path) -> str:
  """The first sentence of a file's docstring or of the comment that it opens with; "" where there is none."""
  text = path.read_text()
  if path.suffix == ".py":
    words = ast.get_docstring(ast.parse(text)) or ""
  else:
    lines = re.match(r"(?:\s*(?://|/\*|<!--|\{#)[^\n]*\n)+", text)
    words = re.sub(r"(?m)^\s*(?://|/\*|<!--|\{#)\s*|\s*(?:\*/|-->|#\})\s*$", "", lines[0]) if lines else ""
  sentence = re.match(r".+?(?<!et al)\.(?=\s|$)", " ".join(words.split("\n\n")[0].split()) + ".")
  return sentence[0].rstrip(".") if words else ""


def lines(root: Path) -> list[str]:
  """The map: a heading for each folder with the docstring of its package, then its files."""
  out: list[str] = []
  found = files(root)
  for folder in sorted({path.parent for path in found}):
    inside = [path for path in found if path.parent == folder]
    package = folder / "__init__.py"
    out += ["", f"**{folder}/** {purpose(root / package) if package in inside else ''}".rstrip(), ""]
    out += [f"- `{path.name}` {purpose(root / path)}".rstrip() for path in inside if path.name != "__init__.py"]
  return [*out[1:], ""]


def mapped(text: str, root: Path = ROOT) -> str:
  """The page with its map made anew."""
  before, rest = text.split(START)
  return "\n".join([before + START, *lines(root), END + rest.split(END)[1]])


if __name__ == "__main__":
  PAGE.write_text(mapped(PAGE.read_text()))
  print(PAGE, file=sys.stderr)
