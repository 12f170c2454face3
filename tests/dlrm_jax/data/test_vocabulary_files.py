"""The vocabularies that a data set keeps: every value of the training rows with its id, in files that are refused if they are damaged."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import xxhash
from prepared_case import rows_of
from served_case import prepare, rows_of_log

from dlrm_jax.common.flags import UserError
from dlrm_jax.data.dataset import encoding_of, open_dataset
from dlrm_jax.data.prepare import vocabulary

ROWS = rows_of_log(1500)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
  place = tmp_path_factory.mktemp("like")
  prepare(place, ROWS, "--eval_rows=300")
  return place


def test_a_data_set_keeps_the_ids_of_its_values(place: Path):
  """Each value of the training rows has in the vocabulary the id that the shards have, and no other value is there."""
  contents = json.loads((place / "set" / "dataset.json").read_text())
  files, train = contents["vocabulary"]["files"], rows_of(place / "set", "train")
  assert [file["file"] for file in files] == [f"vocabulary-{i:05d}.arrow" for i in range(4)]
  for i, (name, column) in enumerate((("user", 1), ("item", 2), ("age", 3))):
    with pa.memory_map(str(place / "set" / files[i]["file"])) as file:
      table = pa.ipc.open_file(file).read_all()
    hashes, ids = table["hash"].to_numpy(), table["id"].to_numpy()
    assert (np.diff(hashes.astype(object)) > 0).all() and sorted(ids) == list(range(1, len(ids) + 1))
    assert files[i]["values"] == len(ids) == contents["columns"]["categorical"][i]["cardinality"] - 1
    content = hashes.astype("<u8").tobytes() + ids.astype("<i4").tobytes()
    assert files[i]["content"] == xxhash.xxh3_128(content).hexdigest()
    key = hashlib.blake2b(name.encode()).digest()
    known = dict(zip(hashes.tolist(), ids.tolist(), strict=True))
    for row, found in zip(ROWS, train[f"id.{name}"].to_list(), strict=False):
      hashed = int.from_bytes(hashlib.blake2b(row[column].encode(), digest_size=8, key=key).digest(), "little")
      assert known.get(hashed, 0) == found


def test_the_encoding_is_that_of_inputs_and_ids_alone(place: Path):
  """Not of rows, names and files; but of the vocabulary, the transforms and the label. Data sets without vocabularies have none."""
  encoding = open_dataset(place / "set").encoding
  same = prepare(place, ROWS[:1250], "--eval_rows=50", output="same")
  assert encoding_of(same) == encoding and len(encoding or "") == 64
  assert encoding_of(prepare(place, ROWS, "--eval_rows=300", "--min_count=3", output="rarer")) != encoding
  assert encoding_of(prepare(place, ROWS[1:], "--eval_rows=300", "--min_count=1", output="others")) != encoding
  assert encoding_of(same | {"schema": same["schema"] | {"label": "unused"}}) != encoding
  dense = [entry | {"transform": "other"} for entry in same["columns"]["dense"]]
  assert encoding_of(same | {"columns": same["columns"] | {"dense": dense}}) != encoding
  del same["vocabulary"]["files"]
  assert encoding_of(same) is None


def test_a_damaged_vocabulary_is_refused(tmp_path: Path):
  path = tmp_path / "v.arrow"
  hashes = np.arange(1000, dtype=np.uint64) * np.uint64(10**15)
  vocabulary.rank([(hashes, np.ones(1000, np.int64))], 1, path)
  content = vocabulary.load(path).content()
  assert vocabulary.load(path, content).lookup(hashes).tolist() == list(range(1, 1001))
  good, refusals = path.read_bytes(), []
  for place in range(0, len(good), 97):
    damaged = bytearray(good)
    damaged[place] ^= 255
    path.write_bytes(bytes(damaged))
    try:
      known = vocabulary.load(path, content)
    except UserError as error:
      refusals.append(str(error))
    else:
      assert known.lookup(hashes).tolist() == list(range(1, 1001))  # damage of padding
  assert len(refusals) > 100 and all(refusal.startswith(f"{path}: ") and "\n" not in refusal for refusal in refusals)
  for length in (0, 1, 8, 100, len(good) // 2, len(good) - 1):
    path.write_bytes(good[:length])
    with pytest.raises(UserError, match=r"v\.arrow: "):
      vocabulary.load(path, content)
