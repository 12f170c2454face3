"""The HTML of a report: one file that needs no network, light or dark as the reader's system asks.

The frame, style and script of pages are files in `templates/`. A program that writes a page has a template for its body.
"""

import functools
import json
from importlib import resources
from typing import Any

import jinja2

from dlrm_jax.common.figures import chart
from dlrm_jax.common.figures.render import Figure, javascript
from dlrm_jax.common.terminal import Table
from dlrm_jax.common.text import number_of, visible

_HERE = "dlrm_jax.common.figures"


@functools.cache
def environment(package: str = _HERE) -> jinja2.Environment:
  """The templates in the folder `templates` of a package, and those of this one. They escape text, and refuse a name without a value."""

  def shown(value: Any) -> Any:
    return visible(value, keep="\n") if type(value) is str else value  # not what is marked as HTML

  loader = jinja2.ChoiceLoader([jinja2.PackageLoader(package), jinja2.PackageLoader(_HERE)])
  made = jinja2.Environment(
    loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, finalize=shown, trim_blocks=True, lstrip_blocks=True
  )
  made.globals |= {"kinds_of": _kinds, "number_of": number_of}
  return made


def render(package: str, template: str, **values: Any) -> str:
  """A template of a package, which may use the macros of `parts.html`."""
  return environment(package).get_template(template).render(values)


def page(title: str, subtitle: str, body: str, figures: list[Figure]) -> str:
  """The whole document.

  Args:
    title, subtitle: the headings.
    body: HTML, made by `render`.
    figures: those that `body` has a place for.
  """
  specs = {figure.name: figure.spec for figure in figures}
  data = json.dumps({"specs": specs, "themes": chart.THEMES}, allow_nan=False).replace("<", "\\u003c")
  files = resources.files(_HERE) / "templates"
  style, script = ((files / name).read_text() for name in ("page.css", "page.js"))
  parts = {"style": style, "body": body, "data": data, "vega": javascript(), "script": script}
  return render(_HERE, "page.html", title=title, subtitle=subtitle, **parts)


def _kinds(table: Table) -> list[str]:
  """A CSS class for each column: numbers are set flush right, the `status` column may wrap."""

  def is_number(cell: Any) -> bool:
    return str(cell).lstrip("+-−")[:1].isdigit() or str(cell) == "-"

  numeric = [bool(table.rows) and all(is_number(row[i]) for row in table.rows) for i in range(len(table.columns))]
  return ["number" if n else "status" if name == "status" else "" for n, name in zip(numeric, table.columns, strict=True)]
