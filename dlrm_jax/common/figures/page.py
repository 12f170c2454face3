"""The HTML of a report: one file that needs no network, light or dark as the reader's system asks.

The page's frame, style and script are files in `templates/`; a program that writes a page has the template of its own part.
"""

import json
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup

from dlrm_jax.common.figures import chart
from dlrm_jax.common.figures.render import Figure, javascript

_HERE = "dlrm_jax.common.figures"


def environment(package: str = _HERE) -> jinja2.Environment:
  """The templates in the folder `templates` of a package, and those of this one. They escape text, and refuse a name without a value."""
  loader = jinja2.ChoiceLoader([jinja2.PackageLoader(package), jinja2.PackageLoader(_HERE)])
  made = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
  made.globals["kinds_of"] = _kinds
  return made


def render(package: str, template: str, **values: Any) -> Markup:
  """A template of a package, which may use the macros of `parts.html`."""
  return Markup(environment(package).get_template(template).render(values))


def page(title: str, subtitle: str, body: Markup, figures: list[Figure]) -> str:
  """The whole document.

  Args:
    title, subtitle: of the report.
    body: made by `render`.
    figures: those that `body` has a place for.
  """
  specs = {figure.name: figure.spec for figure in figures}
  data = json.dumps({"specs": specs, "themes": chart.THEMES}, allow_nan=False).replace("<", "\\u003c")
  files = resources.files(_HERE) / "templates"
  style, script = (Markup((files / name).read_text()) for name in ("page.css", "page.js"))
  parts = {"style": style, "body": body, "data": Markup(data), "vega": Markup(javascript()), "script": script}
  return render(_HERE, "page.html", title=title, subtitle=subtitle, **parts)


def _kinds(table: Any) -> list[str]:
  """A CSS class for each column: numbers are set flush right, the `status` column may wrap."""

  def is_number(cell: Any) -> bool:
    return str(cell).lstrip("+-−")[:1].isdigit() or str(cell) == "-"

  numeric = [bool(table.rows) and all(is_number(row[i]) for row in table.rows) for i in range(len(table.columns))]
  return ["number" if n else "status" if name == "status" else "" for n, name in zip(numeric, table.columns, strict=True)]
