"""export: a fresh process with jax and numpy alone gets the logits of the checkpoint, and ids and vocabularies as training had them."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from prepared_case import criteo_lines
from served_case import SCHEMA, prepare, rows_of_log, text_of, trained

from dlrm_jax import export, predict
from dlrm_jax.common import flags
from dlrm_jax.data.prepare import program
from dlrm_jax.data.prepare.rejects import Tally
from dlrm_jax.data.prepare.scoring import Encoder, read_examples, scored_file

pytest.importorskip("flatbuffers", reason="jax.export writes and reads programs with it")
ROWS = rows_of_log(1500)


def run_export(place: Path, *words: str, run: str = "run", output: str = "exported") -> Path:
  given = [f"--restore={place}/{run}", f"--output={place / output}", *words]
  export.main(flags.parse(["export", *given], export.ExportConfig))
  return place / output


def fresh(*words: str) -> subprocess.CompletedProcess[str]:
  """Runs a program outside of the checkout, where this package and others but jax and numpy may not be imported."""
  code = "import sys; sys.modules |= dict.fromkeys(['dlrm_jax', 'flax', 'pyarrow', 'pandas', 'polars', 'orbax', 'grain', 'optax'])\n"
  code += "import runpy; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
  environment = {name: value for name, value in os.environ.items() if name not in ("XLA_FLAGS", "JAX_NUM_CPU_DEVICES")}
  return subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False, cwd="/", env=environment)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
  place = tmp_path_factory.mktemp("exported")
  prepare(place, ROWS, "--eval_rows=300")
  trained(place, place / "set", num_examples=1200)
  return place


def test_a_fresh_process_gets_the_same_logits(place: Path, capsys: pytest.CaptureFixture[str]):
  """By example.py on its own examples, and by its `Model` on held-out rows that are encoded here."""
  made = run_export(place)
  assert re.search(r"^exporting .* for cpu", capsys.readouterr().err, re.MULTILINE)
  assert [path.name for path in place.glob(".exported*")] == []
  shown = fresh(str(made / "example.py"))
  assert shown.returncode == 0, shown.stderr
  assert shown.stdout.startswith("16 logits on cpu")
  without = {name: value for name, value in os.environ.items() if name != "JAX_PLATFORMS"}
  code = f"import jax, runpy\ntry:\n  runpy.run_path({str(made / 'example.py')!r}, run_name='__main__')\n"
  code += "finally:\n  print('platforms:', jax.config.jax_platforms)"
  for environment, platforms in ((without, "cpu"), (without | {"JAX_PLATFORMS": "nowhere"}, "nowhere")):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)
    assert f"platforms: {platforms}\n" in done.stdout, done.stderr
  (place / "held_out.csv").write_text(text_of(ROWS[1200:]))
  words = [f"--restore={place}/run", f"--input={place}/held_out.csv", f"--output={place}/scores.parquet"]
  predict.main(flags.parse(["predict", *words], predict.PredictConfig))
  wanted = pl.read_parquet(place / "scores.parquet")["logit"].to_numpy()
  contents = json.loads((place / "set" / "dataset.json").read_text())
  encoder = Encoder.of(place / "set", contents)
  files = [scored_file(place / "held_out.csv", None, encoder.schema)]
  (rows,) = read_examples(files, encoder, [Tally()], lambda count: None)
  np.savez(place / "inputs.npz", dense=rows.dense_nm, ids=rows.ids_nl, weights=rows.bag_weight_nl)
  script = place / "score.py"
  script.write_text(
    f"import sys; sys.path.insert(0, {str(made)!r})\nimport numpy as np\nfrom example import Model\nmodel = Model()\n"
    f"inputs = dict(np.load({str(place / 'inputs.npz')!r}))\n"
    "for size in (300, 7, 1):\n"
    "  np.save(f'" + str(place) + "/logits_{size}.npy', model.logits(**{name: x[:size] for name, x in inputs.items()}))\n"
    "unseen = np.full_like(inputs['ids'][:1], 10**6)\n"
    "assert np.isfinite(model.logits(inputs['dense'][:1], unseen, inputs['weights'][:1])).all()\n"
  )
  shown = fresh(str(script))
  assert shown.returncode == 0, shown.stderr
  for size in (300, 7, 1):
    np.testing.assert_allclose(np.load(place / f"logits_{size}.npy"), wanted[:size], rtol=1e-5, atol=1e-6)
  assert np.std(wanted) > 0.3


def load_model(directory: Path) -> Any:
  """The `Model` of an export, in this process."""
  scope: dict[str, Any] = {"__name__": "example", "__file__": str(directory / "example.py")}
  exec(compile((directory / "example.py").read_text(), str(directory / "example.py"), "exec"), scope)
  return scope["Model"](directory)


def ids_by_example(model: Any, rows: list[list[str]], columns: dict[str, list[int]]) -> list[list[int]]:
  return [[model.id_of(feature, row[i]) for feature, places in columns.items() for i in places] for row in rows]


def test_the_examples_ids_are_those_of_training(place: Path, tmp_path: Path):
  model = load_model(run_export(place, output="ids"))
  rows = ROWS[1200:1300] + rows_of_log(50, seed=3, new_users=True)
  ids = np.array(ids_by_example(model, rows, {"user": [1], "item": [2], "age": [3], "genres": [5, 6]}))
  (tmp_path / "rows.csv").write_text(text_of(rows))
  encoder = Encoder.of(place / "set", json.loads((place / "set" / "dataset.json").read_text()))
  (found,) = read_examples([scored_file(tmp_path / "rows.csv", None, encoder.schema)], encoder, [Tally()], lambda count: None)
  np.testing.assert_array_equal(np.where(ids < 0, 0, ids), found.ids_nl)
  np.testing.assert_array_equal(ids >= 0, found.bag_weight_nl)
  assert (ids[:, 0] == 0).sum() > 10


def test_the_examples_dense_inputs_are_those_of_training(tmp_path: Path):
  """Every transform, with missing cells, and numbers beyond all that training had."""
  dense = 'age = { transform = "standard" }\nprice = { transform = "quantile", bins = 7 }\nitem = { transform = "log1p", missing = 2 }\n'
  schema = SCHEMA[: SCHEMA.index("[dense]")] + "[dense]\n" + dense
  contents = prepare(tmp_path, ROWS, "--eval_rows=300", schema=schema)
  trained(tmp_path, tmp_path / "set", num_examples=300)
  model = load_model(run_export(tmp_path, "--platforms=cpu"))
  rows = [*ROWS[1200:1300], ["1", "u", "-5", "1e9", "-1e9", "", "", "x"], ["1", "u", "", "0", "1e9", "", "", "x"]]
  (tmp_path / "rows.csv").write_text(text_of(rows))
  encoder = Encoder.of(tmp_path / "set", contents)
  (found,) = read_examples([scored_file(tmp_path / "rows.csv", None, encoder.schema)], encoder, [Tally()], lambda count: None)
  inputs = model.metadata["inputs"]["dense"]
  assert {entry["transform"] for entry in inputs} == {"standard", "quantile", "log1p", "missing"}
  numbers = [{name: float(row[i]) if row[i] else None for name, i in (("age", 3), ("price", 4), ("item", 2))} for row in rows]
  wanted = [[model.input_of(entry["name"], row[entry["column"]]) for entry in inputs] for row in numbers]
  np.testing.assert_allclose(wanted, found.dense_nm, rtol=1e-5, atol=1e-5)
  assert [model.bin_of("price.bins", row["price"]) for row in numbers] == found.ids_nl[:, -1].tolist()


@pytest.mark.parametrize("vocabulary", ["frequency", "hash"])
def test_criteo_is_exported_without_bags(tmp_path: Path, vocabulary: str):
  lines = criteo_lines(600)
  (tmp_path / "log.tsv").write_text("\n".join(lines) + "\n")
  words = ["--format=criteo_tsv", f"--input={tmp_path}/log.tsv", f"--output={tmp_path}/set", "--eval_rows=100", "--workers=1"]
  program.prepare(flags.parse(["prepare", *words, f"--vocabulary={vocabulary}"], program.PrepareConfig))
  rows_by = "hash" if vocabulary == "hash" else "top"
  trained(tmp_path, tmp_path / "set", num_examples=500, rows_by=rows_by, num_tables=5, table_dtype="bfloat16")
  made = run_export(tmp_path, "--platforms=cpu")
  shown = fresh(str(made / "example.py"))
  assert shown.returncode == 0, shown.stderr
  model, cells = load_model(made), [line.split("\t") for line in lines[500:]]
  ids = ids_by_example(model, cells, {f"C{i + 1}": [14 + i] for i in range(5)})
  eval_rows = pl.read_parquet(tmp_path / "set" / "eval-00000.parquet")
  np.testing.assert_array_equal(ids, eval_rows.select([f"id.C{i + 1}" for i in range(5)]).to_numpy())
  assert {entry["dtype"] for entry in model.metadata["arrays"]} == {"bfloat16", "float32"}
  assert ("hash" in model.metadata["features"][0]) == (vocabulary == "frequency")


def test_the_program_has_no_custom_kernels_and_serves_all_platforms(place: Path):
  """The trained model uses the CPU's own kernels; the export must not call them."""
  from jax import export as jax_export

  made = run_export(place, output="platforms")
  program = jax_export.deserialize(bytearray((made / "program.bin").read_bytes()))
  assert set(program.platforms) == {"cpu", "cuda", "tpu"}
  calls = set(re.findall(r"custom_call @?\"?(\w+)", program.mlir_module()))
  assert calls <= {"Sharding", "shape_assertion"}  # those of jax.export itself
  assert str(Path(export.__file__).parents[1]).encode() not in (made / "program.bin").read_bytes()  # no paths of this machine
  metadata = json.loads((made / "metadata.json").read_text())
  assert metadata["inputs"]["ids"] == ["user", "item", "age", "genres.0", "genres.1"]
  assert [entry["name"] for entry in metadata["inputs"]["dense"]] == ["age", "price"]
  rows = next(entry for entry in metadata["arrays"] if entry["name"] == "tables.rows")
  assert np.load(made / rows["file"], mmap_mode="r").shape == tuple(rows["shape"])


def test_bad_input_is_refused_and_leaves_nothing(place: Path, tmp_path: Path, refusal):
  (tmp_path / "full").mkdir()
  (tmp_path / "full" / "file").write_text("x")
  good = f"--restore={place}/run"
  assert "exists already" in refusal(export.main, export.ExportConfig, {}, [good, f"--output={tmp_path}/full"])
  assert "there is no checkpoint" in refusal(export.main, export.ExportConfig, {}, [f"--restore={tmp_path}", f"--output={tmp_path}/a"])
  assert "must be among cpu" in refusal(export.main, export.ExportConfig, {}, [good, f"--output={tmp_path}/a", "--platforms=npu"])
  assert sorted(path.name for path in tmp_path.iterdir()) == ["full"]


def test_an_absent_library_is_said(place: Path, tmp_path: Path, monkeypatch, refusal):
  monkeypatch.setitem(sys.modules, "flatbuffers", None)
  shown = refusal(export.main, export.ExportConfig, {}, [f"--restore={place}/run", f"--output={tmp_path}/out"])
  assert "jax.export needs flatbuffers: pip install flatbuffers" in shown


def test_what_fails_in_the_middle_leaves_nothing(place: Path, tmp_path: Path, monkeypatch):
  def fail(*args: Any) -> None:
    raise OSError(28, "No space left on device")

  monkeypatch.setattr("dlrm_jax.serving.exported.write_arrays", fail)
  with pytest.raises(OSError):
    export.main(flags.parse(["export", f"--restore={place}/run", f"--output={tmp_path}/out"], export.ExportConfig))
  assert list(tmp_path.iterdir()) == []
