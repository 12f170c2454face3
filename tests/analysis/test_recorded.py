"""Files of a sweep with values of a wrong type: one line that names file, field, value and what is allowed."""

import json
import re

import pytest
from made_sweep import additive, write_sweep

from analysis.load import load
from dlrm_jax.common import flags, record

WRONG = [None, "many", 3, -1.5, True, [], [1], {}, {"a": "b"}, [{"num_rows": "x"}]]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
  return write_sweep(tmp_path_factory.mktemp("sweep"), additive, seeds=1, axes=("dim",))


def outcome(folder) -> str:
  """`read`, or the message of the one error that is allowed."""
  try:
    load(folder)
  except flags.UserError as error:
    message = str(error)
  else:
    return "read"
  assert "\n" not in message
  return message


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"size": "big"}, 'point 0 has size="big": must be a number'),
    ({"seed": [1]}, r"point 0 has seed=\[1\]: must be a whole number"),
    ({"workload": 3}, "point 0 has workload=3: must be text"),
    ({"axis": {"a": 1}}, "point 0 has axis=.*: must be text"),
    ({"sizes": 5}, "point 0 has sizes=5: must be an object of numbers"),
    ({"lr_factor": "x2"}, 'point 0 has lr_factor="x2": must be a number'),
    ({"size": float("nan")}, "point 0 has size=NaN: must be a number"),
  ],
)
def test_points_of_the_wrong_type(root, tmp_path, change, message):
  source = record.read_json(root / "sweep.json")
  source["points"][0] |= change
  (tmp_path / "runs").symlink_to(root / "runs")
  (tmp_path / "sweep.json").write_text(json.dumps(source))
  assert re.search(message, outcome(tmp_path))


def nested(content: dict) -> list[tuple[str, ...]]:
  """The paths to all values of an object, one level below objects too."""
  paths = [(name,) for name in content]
  return paths + [(name, below) for name, value in content.items() if isinstance(value, dict) for below in value]


def test_any_value_of_any_type_anywhere_is_read_or_refused(root, tmp_path):
  """Every field of the three files, one at a time, takes every wrong value."""
  run = next(path.parent for path in root.glob("runs/*/record.json"))
  copy = tmp_path / "runs" / run.name
  copy.mkdir(parents=True)
  for other in root.glob("runs/*"):
    if other.name != run.name:
      (tmp_path / "runs" / other.name).symlink_to(other)
  entry, source = record.read_json(run / "record.json"), record.read_json(root / "sweep.json")
  lines = [json.loads(line) for line in (run / "curve.jsonl").read_text().splitlines()]
  assert run.name == entry["config_id"]

  def write(entry: dict, source: dict, lines: list) -> None:
    (copy / "record.json").write_text(json.dumps(entry))
    (copy / "curve.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "sweep.json").write_text(json.dumps(source))

  write(entry, source, lines)
  assert outcome(tmp_path) == "read"
  seen = []
  for wrong in WRONG:
    for path in nested(entry):
      changed = json.loads(json.dumps(entry))
      (changed if len(path) == 1 else changed[path[0]])[path[-1]] = wrong
      write(changed, source, lines)
      seen.append(outcome(tmp_path))
    for name in source:
      write(entry, source | {name: wrong}, lines)
      seen.append(outcome(tmp_path))
    for name in source["points"][0]:
      write(entry, source | {"points": [source["points"][0] | {name: wrong}, *source["points"][1:]]}, lines)
      seen.append(outcome(tmp_path))
    write(entry, source | {"points": [wrong, *source["points"][1:]]}, lines)
    seen.append(outcome(tmp_path))
    for name in lines[0]:
      write(entry, source, [lines[0] | {name: wrong}, *lines[1:]])
      seen.append(outcome(tmp_path))
    write(entry, source, [wrong, *lines[1:]])
    seen.append(outcome(tmp_path))
  assert sum(message == "read" for message in seen) < len(seen) and any("must be a number" in message for message in seen)
