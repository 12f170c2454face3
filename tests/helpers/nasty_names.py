"""Names that users may give to columns, data sets, groups and benchmarks, for tests that every program takes them as they are."""

import random

# Each is a way in which a name can be taken for something else.
LISTS = [
  "c,d",
  "x:row",
  "a:b:c",
  ",",
  ":",
  'q"t',
  '"',
  '""',
  '"c,d"',
  "'",
  "auto",
  "row:row",
  "none",
  "x=y",
  "-1",
  "--mesh",
  "#1",
  ";",
  "a b",
  " a",
  "a ",
  "",
]
MARKUP = [
  "rate[/s]",
  "price[usd]",
  "[bold]",
  "[/]",
  "[",
  "]",
  ":smile:",
  "{x}",
  "{{ x }}",
  "%s",
  "{0!r}",
  "`x`",
  "*x*",
  "| x |",
  "10_000",
  "True",
  "nan",
  "1.5e3",
]
PAGES = ["<script>alert(1)</script>", "&amp;", "</title>", "<!--", "é", "a.b\\c", "a[0].b", "datum.x", "x'y", "\\", "\\n", "𝒳", "x\u00a0y"]
SHELLS = ["$(x)", "${HOME}", "$HOME", "../x", "/", "a/b", "~", "*", "?", "x y.parquet", "CON", ".", "..", "=1+1", "@x", "!"]
WRITING = [
  "产品 类型",
  "مرحبا",
  "שלום",
  "\u202eabc",
  "a\u200bb",
  "\u200d",
  "👩‍👩‍👧",
  "e\u0301",
  "ﬁ",
  "\ufeffx",
  "İ",
  "ß",
  "\u3000",
  "\u2003x",
  "z" + "\u0300" * 40,
]
CLASHES = ["label", "id", "dense", "id.0", "dense.x", "feature", "what", "rank", "seen", "share", "loss", "count", "all", "eval", "index"]
LONG = ["long " * 60, "x" * 300]
CONTROLS = [
  "a\nb",
  "a\tb",
  "\x1b[31mred",
  "a\rb",
  "\x07",
  "\u2028",
  "\x00",
  "\x7f",
]  # in Parquet and TOML, but not in the header of a CSV file

PLAIN = [*LISTS, *MARKUP, *PAGES, *SHELLS, *WRITING, *CLASHES, *LONG]
ALL = [*PLAIN, *CONTROLS]


def names(count: int, seed: int, controls: bool) -> list[str]:
  """Different names: some of the above, and some put together of their characters. With `controls` control characters, too."""
  rng = random.Random(seed)
  source = ALL if controls else PLAIN
  characters = sorted(set("".join(source)) - set("xyabc"))
  found = dict.fromkeys(rng.sample(source, min(count * 2 // 3, len(source))))
  while len(found) < count:
    found["".join(rng.choices(characters, k=rng.randint(1, 12)))] = None
  return list(found)
