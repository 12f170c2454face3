"""The HTML of a report: one file that needs no network, light or dark as the reader's system asks. Called by whatever writes a report."""

import html
import json
from typing import Any

_CSS = """
:root { color-scheme: light dark; --back: #ffffff; --text: #1d2733; --faint: #5b6876; --line: #e3e7ec; --band: #f6f8fa; --accent: #1f66b5; }
@media (prefers-color-scheme: dark) {
  :root { --back: #14181e; --text: #dfe5ec; --faint: #93a0ae; --line: #29313b; --band: #1a2028; --accent: #6cb0ff; }
}
body { margin: 0; background: var(--back); color: var(--text); font: 15px/1.55 Inter, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1240px; margin: 0 auto; padding: 40px 24px 80px; }
h1 { font-size: 28px; line-height: 1.2; margin: 0 0 6px; letter-spacing: -0.01em; }
h2 { font-size: 19px; margin: 48px 0 8px; }
p { max-width: 76ch; margin: 8px 0; }
.faint, caption, figcaption, .note { color: var(--faint); }
code, pre { font: 12.5px/1.5 ui-monospace, "DejaVu Sans Mono", Menlo, monospace; }
pre { background: var(--band); border: 1px solid var(--line); border-radius: 6px; padding: 10px 14px; overflow-x: auto; }
figure { margin: 16px 0 0; }
figcaption { font-size: 13.5px; max-width: 86ch; margin-top: 8px; }
figcaption a { color: var(--accent); text-decoration: none; margin-left: 6px; }
.chart { overflow-x: auto; min-height: 120px; }
.table { overflow-x: auto; margin: 12px 0; }
table { border-collapse: collapse; font-size: 12.5px; font-variant-numeric: tabular-nums; white-space: nowrap; }
caption { text-align: left; padding: 0 0 8px; font-size: 13.5px; white-space: normal; }
th { text-align: left; font-weight: 600; border-bottom: 1.5px solid var(--faint); padding: 5px 11px 5px 0; vertical-align: bottom; }
td { border-bottom: 1px solid var(--line); padding: 4px 11px 4px 0; }
td.number, th.number { text-align: right; }
td.status { color: var(--faint); white-space: normal; min-width: 12em; }
tr.key td { background: var(--band); font-weight: 600; }
.warn { border-left: 3px solid #d9622b; padding-left: 12px; }
details > summary { cursor: pointer; color: var(--accent); margin: 12px 0; }
.vega-embed { padding-right: 34px !important; }
.vega-embed summary { opacity: 0.35 !important; }
"""

_SCRIPT = """
const dark = matchMedia("(prefers-color-scheme: dark)");
const report = JSON.parse(document.getElementById("report").textContent);
let drawing = 0;
async function draw() {
  const theme = dark.matches ? "dark" : "light", mine = ++drawing;
  for (const [name, spec] of Object.entries(report.specs)) {
    await new Promise(next => setTimeout(next));  // the page can be read and scrolled meanwhile
    if (mine !== drawing) return;  // the theme has changed since
    await vegaEmbed("#chart-" + name, spec, {
      config: report.themes[theme], renderer: "svg", tooltip: { theme: theme },
      actions: { export: true, source: false, compiled: false, editor: false }, downloadFileName: name,
    });
  }
}
draw();
dark.addEventListener("change", draw);
"""


def escape(text: Any) -> str:
  return html.escape(str(text))


def table(columns: list[str], rows: list[list[Any]], caption: str = "", key_rows: set[int] | None = None) -> str:
  """An HTML table; cells that look like numbers are set flush right, the `status` column may wrap.

  Args:
    columns: headings.
    rows: cells as text or numbers.
    caption: above the table.
    key_rows: indices of rows to stress.
  """

  def is_number(cell: Any) -> bool:
    return str(cell).lstrip("+-−")[:1].isdigit() or str(cell) == "-"

  numeric = [bool(rows) and all(is_number(row[i]) for row in rows) for i in range(len(columns))]
  kinds = ["number" if numeric[i] else "status" if name == "status" else "" for i, name in enumerate(columns)]
  head = "".join(f'<th class="{kind}">{escape(name)}</th>' for name, kind in zip(columns, kinds, strict=True))
  body = []
  for index, row in enumerate(rows):
    cells = "".join(f'<td class="{kind}">{escape(cell)}</td>' for cell, kind in zip(row, kinds, strict=True))
    body.append(f'<tr class="{"key" if key_rows and index in key_rows else ""}">{cells}</tr>')
  title = f"<caption>{escape(caption)}</caption>" if caption else ""
  return f'<div class="table"><table>{title}<thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody></table></div>'


def figure(name: str, caption: str) -> str:
  """The place where a chart is drawn, with links to its files beside the page."""
  files = "".join(f'<a href="{name}.{kind}">{kind.upper()}</a>' for kind in ("svg", "png"))
  return f'<figure><div class="chart" id="chart-{name}"></div><figcaption>{escape(caption)}{files}</figcaption></figure>'


def page(title: str, subtitle: str, sections: list[tuple[str, str]], specs: dict[str, Any], themes: dict[str, Any], javascript: str) -> str:
  """The whole document.

  Args:
    title, subtitle: of the report.
    sections: (heading, HTML) in order; an empty heading continues the one before.
    specs: Vega-Lite specs by figure name.
    themes: Vega configurations `light` and `dark`.
    javascript: Vega-Embed and what it needs.
  """
  body = "".join((f"<h2>{escape(heading)}</h2>" if heading else "") + content for heading, content in sections)
  data = json.dumps({"specs": specs, "themes": themes}, allow_nan=False).replace("<", "\\u003c")
  return (
    f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
    f'<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,"><style>{_CSS}</style></head>\n'
    f'<body><main><h1>{escape(title)}</h1><p class="faint">{escape(subtitle)}</p>{body}</main>\n'
    f'<script type="application/json" id="report">{data}</script>\n<script>{javascript}</script>\n<script>{_SCRIPT}</script></body>'
    "</html>\n"
  )
