"""A small log with every kind of column, a data set and a trained model made of it, for the tests of programs that use a trained model."""

import csv
import dataclasses
import io
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dlrm_jax.common import flags
from dlrm_jax.config import ModelConfig, RunConfig, TrainConfig
from dlrm_jax.data.prepare import program
from dlrm_jax.training import loop

HEADER = ("clicked", "user", "item", "age", "price", "genre_1", "genre_2", "unused")
SCHEMA = """
label = "clicked"
categorical = ["user", "item", "age"]

[dense]
age = { transform = "log1p" }
price = { transform = "none", missing = 2.5 }

[bags]
genres = ["genre_1", "genre_2"]
"""


def rows_of_log(count: int, seed: int = 0, new_users: bool = False) -> list[list[str]]:
  """Random rows whose clicks depend on user and price. Names of users hold commas, quotes and accents; cells are missing here and there."""
  rng, out = random.Random(seed), []
  users = [f'Zoë "{i}", the {i}th' if i % 3 else f"u{i}" for i in range(40)]
  for _ in range(count):
    u = min(int(rng.paretovariate(0.8)), len(users)) - 1
    price = "" if rng.random() < 0.1 else f"{rng.gauss(0, 1):.3f}"
    logit = (u % 5) - 2 + float(price or 0)
    label = str(int(rng.random() < 1 / (1 + math.exp(-logit))))
    user = f"new{u}" if new_users and rng.random() < 0.5 else users[u] if rng.random() > 0.05 else ""
    age = "" if rng.random() < 0.2 else str(rng.randrange(100))
    genres = [rng.choice(("", "rock", "jazz", "folk")) for _ in range(2)]
    out.append([label, user, str(rng.randrange(1, 30)), age, price, *genres, "x"])
  return out


def text_of(rows: Sequence[Sequence[str]], names: Sequence[str] = HEADER) -> str:
  """Rows of the log as CSV with these of its columns, in this order."""
  out = io.StringIO()
  writer = csv.writer(out, lineterminator="\n")
  writer.writerow(names)
  writer.writerows([row[HEADER.index(name)] for name in names] for row in rows)
  return out.getvalue()


def prepare(place: Path, rows: Sequence[Sequence[str]], *words: str, output: str = "set", schema: str = SCHEMA) -> dict[str, Any]:
  """Prepares rows as PLACE/OUTPUT; the contents of dataset.json."""
  (place / f"{output}.csv").write_text(text_of(rows))
  given = ["--format=csv", f"--input={place}/{output}.csv", f"--output={place}/{output}", "--workers=1", *words]
  if not any(word.startswith("--like") for word in words):
    (place / "schema.toml").write_text(schema)
    given.append(f"--schema={place}/schema.toml")
  made = program.prepare(flags.parse(["prepare", *given], program.PrepareConfig))
  assert made is not None
  return made


def config(data: Path, **settings: Any) -> RunConfig:
  """A small run on a data set. `settings` are fields of TrainConfig, or of ModelConfig."""
  model = {name: settings.pop(name) for name in list(settings) if name in ModelConfig.__dataclass_fields__}
  base = {"num_examples": 2000, "batch_size": 64, "eval_examples": 10_000, "first_eval": 500, "evals_per_octave": 1}
  return RunConfig(
    data=str(data),
    checkpoint=True,
    model=ModelConfig(**({"embed_dim": 4, "num_rows": 30, "overarch": (8, 1)} | model)),
    train=TrainConfig(**(base | settings)),
  )


def trained(place: Path, data: Path, name: str = "run", **settings: Any) -> dict[str, Any]:
  """Trains on a data set in PLACE/NAME; the record."""
  restore = settings.pop("restore", None)
  run = dataclasses.replace(config(data, **settings), restore=restore)
  return loop.train(run, place / name, quiet=True)
