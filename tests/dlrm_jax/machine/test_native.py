"""`native.library`: compiled once, also by processes that start together; a new name for whatever changes; one line of what went wrong."""

import ctypes
import subprocess
import sys
from pathlib import Path

import pytest

from dlrm_jax.machine import native

CODE = "import sys; from pathlib import Path; from dlrm_jax.machine import native; print(native.library('two plus', [Path(sys.argv[1])]))"


@pytest.fixture
def source(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
  (tmp_path / "code").mkdir()
  (tmp_path / "code" / "two.h").write_text("#define TWO 2\n")
  path = tmp_path / "code" / "a.cc"
  path.write_text('#include "two.h"\nextern "C" int two_plus(int x) { return TWO + x; }\n')
  return path


def two_plus(path: Path, x: int) -> int:
  return ctypes.CDLL(str(path)).two_plus(x)


def test_what_it_depends_on_names_the_library(source, capsys):
  first = native.library("two plus", [source])
  assert two_plus(first, 3) == 5
  assert first.name.startswith("two-plus-") and "compiling the two plus, once" in capsys.readouterr().err
  assert native.library("two plus", [source]) == first
  assert capsys.readouterr().err == ""  # not again
  (source.parent / "two.h").write_text("#define TWO 20\n")
  header = native.library("two plus", [source])
  assert two_plus(header, 3) == 23
  flags = native.library("two plus", [source], ["-UTWO"])
  key = native.library("two plus", [source], extra_key=["version 2"])
  source.write_text(source.read_text().replace("TWO + x", "TWO - x"))
  text = native.library("two plus", [source])
  assert two_plus(text, 3) == 17
  assert len({first, header, flags, key, text}) == 5 == len(list(first.parent.iterdir()))


def test_processes_that_compile_at_once(source, tmp_path):
  started = [subprocess.Popen([sys.executable, "-c", CODE, str(source)], stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(4)]
  said = [process.communicate(timeout=120) for process in started]
  assert [process.returncode for process in started] == [0] * 4, said
  assert len({out for out, _ in said}) == 1
  assert two_plus(Path(said[0][0].decode().strip()), 1) == 3
  assert len(list((tmp_path / "cache" / "dlrm_jax").iterdir())) == 1  # no temporary file is left


@pytest.mark.parametrize(("text", "why"), [("int x = y;", "error: .*y"), ("#error it is wrong", "error.* it is wrong")])
def test_a_failing_compiler_is_told_in_one_line(source, text, why):
  source.write_text(text + "\n" + text)
  with pytest.raises(native.ERRORS, match=why) as error:
    native.library("two plus", [source])
  assert "\n" not in str(error.value)
  assert not list(Path(native.cache_dir()).iterdir())


def test_no_compiler_and_no_cache(source, monkeypatch, tmp_path):
  with monkeypatch.context() as patch:
    patch.setattr(native.shutil, "which", lambda name: None)
    patch.delenv("CXX", raising=False)
    with pytest.raises(native.ERRORS, match=r"no C\+\+ compiler"):
      native.library("two plus", [source])
  (tmp_path / "file").write_text("")
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
  with pytest.raises(native.ERRORS, match="Not a directory"):
    native.library("two plus", [source])
