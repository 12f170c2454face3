"""Text for people: names as they are, on one line, and numbers of things."""

import unicodedata


def number_of(number: int, noun: str) -> str:
  """`1 run`, `2 runs`."""
  return f"{number:,} {noun}" + ("" if number == 1 else "s")


def visible(text: str, keep: str = "") -> str:
  """The text with its control characters as escapes such as `\\n` and `\\x1b`, except those in `keep`. A terminal would obey them."""
  if text.isprintable():
    return text
  return "".join(c if c in keep or unicodedata.category(c) not in ("Cc", "Cs", "Zl", "Zp") else repr(c)[1:-1] for c in text)
