"""The summary of a check: findings and tables as text and as a page. Called by `__main__`.

The page is written without a template library, since a rented machine may have none.
"""

import html
from collections.abc import Sequence
from typing import Any

from benchmarks.accelerator.findings import Finding, findings
from benchmarks.accelerator.sections import SECTIONS
from benchmarks.accelerator.tables import table_of

_SIGNS = {True: "+", False: "!", None: "-"}


def title(found: dict[str, Any]) -> str:
  """The machine in a line."""
  hardware, software = found["hardware"], found["software"]
  count, device = hardware.get("num_devices", 1), hardware.get("device") or hardware.get("cpu")
  device = hardware.get("cpu") if hardware.get("platform") == "cpu" else device
  return (f"{count} x " if count > 1 else "") + f"{device}, jax {software.get('jax', '?')}"


def text(found: dict[str, Any]) -> str:
  """The findings, then the tables, as plain text."""
  lines = [title(found), "", *(f"{_SIGNS[one.good]} {one.text}" for one in findings(found))]
  for section, about in SECTIONS.items():
    names, cells = table_of(found, section)
    if cells:
      widths = [max(len(line[i]) for line in (names, *cells)) for i in range(len(names))]
      lines += ["", f"{section}: {about.about}"]
      lines += ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in (names, *cells)]
  return "\n".join(lines) + "\n"


_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 75rem; margin: 2rem auto; padding: 0 1rem; color: #1f2328; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin-top: 2rem; } p, li { max-width: 50rem; }
li.good::marker { content: "\\2713  "; color: #1a7f37; }
li.bad::marker { content: "\\2717  "; color: #cf222e; } li.bad { font-weight: 600; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 14px; }
th, td { padding: .25rem .7rem; border-bottom: 1px solid #d8dee4; text-align: right; } th { vertical-align: bottom; font-weight: 600; }
th:first-child, td:first-child { text-align: left; }
"""


def page(found: dict[str, Any]) -> str:
  """The same as a page without references to other files."""
  escape = html.escape
  hardware, software = found["hardware"], found["software"]
  facts = [f"{name} {value}" for name, value in software.items()] + [
    f"{name} {hardware[name]}" for name in ("cores", "cpu") if name in hardware
  ]
  body = [f"<h1>{escape(title(found))}</h1>", f"<p>{escape('; '.join(facts))}</p>", "<ul>"]
  body += [f'<li class="{_class(one)}">{escape(one.text)}</li>' for one in findings(found)] + ["</ul>"]
  for section, about in SECTIONS.items():
    names, cells = table_of(found, section)
    if cells:
      body += [f"<h2>{escape(section)}</h2>", f"<p>{escape(about.about[0].upper() + about.about[1:])}.</p>", '<div class="wide"><table>']
      body += [_line(names, "th"), *(_line(line, "td") for line in cells), "</table></div>"]
  head = f'<meta charset="utf-8"><title>{escape(title(found))}</title><style>{_STYLE}</style>'
  return f'<!doctype html><html lang="en"><head>{head}</head><body>\n' + "\n".join(body) + "\n</body></html>\n"


def _class(finding: Finding) -> str:
  return {True: "good", False: "bad", None: "plain"}[finding.good]


def _line(cells: Sequence[str], tag: str) -> str:
  return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"
