"""Generated tables in a Markdown file, such as README.md. A section is the text between two comments that name it."""

import re
from pathlib import Path
from typing import Any

from dlrm_jax.common import record
from dlrm_jax.common.flags import UserError


def _markers(section: str) -> tuple[str, str]:
  return f"<!-- {section} -->", f"<!-- /{section} -->"


def check_markers(path: str, section: str) -> None:
  """Raises UserError unless the file has both markers of the section, each once and in order."""
  start, end = _markers(section)
  try:
    text = Path(path).read_text()
  except (OSError, UnicodeDecodeError) as error:
    raise UserError(f"--markdown={path}: cannot be read ({getattr(error, 'strerror', None) or 'not text'})") from None
  if re.findall(f"{start}|{end}", text) != [start, end]:
    raise UserError(f"--markdown={path}: must have the lines {start} and {end}, each once")


def replaced(text: str, section: str, new: str) -> str:
  """The text with a new content of the section."""
  start, end = _markers(section)
  return f"{text.split(start)[0]}{start}\n{new}\n{end}{text.split(end)[1]}"


def write(path: str, section: str, new: str) -> None:
  """Replaces the section of the file."""
  record.write_text(path, replaced(Path(path).read_text(), section, new))


def table(lines: list[list[str]], num_names: int) -> str:
  """A table of rows of cells, the first row its heading. All columns but the first `num_names` hold numbers."""
  rule = ["---"] * num_names + ["---:"] * (len(lines[0]) - num_names)
  return "\n".join(f"| {' | '.join(line)} |" for line in (lines[0], rule, *lines[1:]))


def made_by(header: dict[str, Any], detail: object) -> str:
  """The command that made a table, the processor, some detail such as the date, and the commit; without flags that name files."""
  words = [word for word in header["command"] if not word.startswith(("--output", "--markdown", "--peers_python"))]
  head, _, changes = (header["software"]["git_commit"] or "unknown").partition("+")
  commit = f"commit {head[:12]}" + ("+changes" if changes else "")
  return f"`{' '.join(words).replace('.__main__', '')}` on {header['hardware']['cpu']}, {detail}, {commit}"
