"""Finds what an HTML page would fetch, for tests that it needs no network."""

from html.parser import HTMLParser


class Links(HTMLParser):
  """Every address that a page would fetch, and the number of charts."""

  def __init__(self):
    super().__init__()
    self.fetched, self.charts = [], 0

  def handle_starttag(self, tag, attrs):
    attrs = dict(attrs)
    self.fetched += [attrs[name] for name in ("src", "data", "poster") if attrs.get(name)]
    self.fetched += [attrs["href"]] if tag == "link" and attrs.get("href") else []
    self.charts += attrs.get("class") == "chart"
