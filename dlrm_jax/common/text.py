"""Text for people: names as they are, on one line."""

import unicodedata


def visible(text: str, keep: str = "") -> str:
  """The text with its control characters as escapes such as `\\n` and `\\x1b`, except those in `keep`. A terminal would obey them."""
  if text.isprintable():
    return text
  return "".join(c if c in keep or unicodedata.category(c) not in ("Cc", "Cs", "Zl", "Zp") else repr(c)[1:-1] for c in text)
