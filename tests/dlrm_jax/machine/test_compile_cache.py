"""Compiled programs on disk: found again, in the directory of this kind of processor; damage, a full disk and other writers hurt nobody."""

import inspect
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlrm_jax.common import record
from dlrm_jax.machine import compile_cache, hardware
from dlrm_jax.machine.compile_cache import Entries, jax_cache

pytestmark = pytest.mark.usefixtures("compiled_anew")

HIT, MISS = "/jax/compilation_cache/cache_hits", "/jax/compilation_cache/cache_misses"


@pytest.fixture
def events() -> Iterator[list[str]]:
  """The events that jax reports of its cache. Afterwards jax keeps programs as it did before, nowhere."""
  names = ("compilation_cache_dir", "persistent_cache_min_compile_time_secs", "persistent_cache_enable_xla_caches")
  before, made = {name: getattr(jax.config, f"jax_{name}") for name in names}, getattr(jax_cache, "get_file_cache", None)
  jax.config.update("jax_compilation_cache_dir", None)  # another test may have set it
  jax_cache.reset_cache()
  seen: list[str] = []
  jax.monitoring.register_event_listener(lambda event, **_: seen.append(event))
  yield seen
  jax.monitoring.clear_event_listeners()
  for name, value in before.items():
    jax.config.update(f"jax_{name}", value)
  if made is not None:
    jax_cache.get_file_cache = made
  jax_cache.reset_cache()


def compiled(factor: float) -> jax.stages.Compiled:
  return jax.jit(lambda x: (jnp.sin(x) * factor).sum()).lower(np.ones(100, np.float32)).compile()


def result(factor: float) -> float:
  return float(compiled(factor)(np.arange(100, dtype=np.float32)))


def test_jax_has_what_the_cache_relies_on(tmp_path: Path, events: list[str], monkeypatch: pytest.MonkeyPatch):
  def need(ok: bool, changed: str) -> None:
    remedy = "adapt dlrm_jax/machine/compile_cache.py, or keep jax below this version in pyproject.toml"
    if not ok:
      pytest.fail(f"jax {jax.__version__} has changed its compile cache: {changed}; {remedy}", pytrace=False)

  def parameters(function: Callable) -> list[str]:
    return list(inspect.signature(function).parameters)

  need(jax_cache.__name__ == "jax._src.compilation_cache", f"reset_cache is now in {jax_cache.__name__}")
  need(hasattr(jax_cache, "get_file_cache"), "get_file_cache is gone")
  need(parameters(jax_cache.get_file_cache) == ["path"], f"get_file_cache takes {parameters(jax_cache.get_file_cache)}, not path")
  made, interface = jax_cache.get_file_cache(str(tmp_path)), getattr(jax_cache, "CacheInterface", None)
  need(interface is not None, "CacheInterface is gone")
  pair = isinstance(made, tuple) and len(made) == 2 and isinstance(made[0], interface) and made[1] == str(tmp_path)
  need(pair, "get_file_cache does not return (cache, path)")
  need(interface.__abstractmethods__ == {"get", "put"}, f"a cache has the methods {sorted(interface.__abstractmethods__)}, not get and put")
  for name in ("get", "put"):
    wanted = parameters(getattr(interface, name))
    need(wanted == parameters(getattr(Entries, name)), f"a cache's {name} takes {wanted}")
  missing = [name for name in interface.__annotations__ if not hasattr(Entries(tmp_path), name)]
  need(not missing, f"a cache has the attributes {missing}")

  calls: list[tuple] = []
  monkeypatch.setattr(Entries, "get", lambda self, key: calls.append(("get", type(key))))
  monkeypatch.setattr(Entries, "put", lambda self, key, value: calls.append(("put", type(key), type(value))))
  compile_cache.install(tmp_path)
  result(2.5)
  need(calls == [("get", str), ("put", str, bytes)], f"compiling a program calls {calls}, not get(str), put(str, bytes)")


@pytest.mark.parametrize("changed", [None, lambda path, backend: None])
def test_a_jax_without_the_function_costs_one_line(
  tmp_path: Path, events: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], changed: Callable | None
):
  if changed is None:
    monkeypatch.delattr(jax_cache, "get_file_cache")
  else:
    monkeypatch.setattr(jax_cache, "get_file_cache", changed)
  compile_cache.install(tmp_path / "kept")
  shown = capfd.readouterr().err
  assert shown.startswith(f"compiled programs are not kept: jax {jax.__version__} has no get_file_cache(path)")
  assert shown.count("\n") == 1
  result(2.5)
  assert not (tmp_path / "kept").exists()


def test_a_program_is_compiled_once_and_gives_the_same_bits(tmp_path: Path, events: list[str]):
  hardware.share_compiled(tmp_path)
  first = result(2.5)
  assert (events.count(MISS), events.count(HIT)) == (1, 0)
  assert result(2.5) == first
  assert (events.count(MISS), events.count(HIT)) == (1, 1)
  assert result(3.5) != first
  assert (events.count(MISS), events.count(HIT)) == (2, 1)
  assert len(list(tmp_path.glob("cpu-*/*.xla"))) == 2  # ours, not jax's own files
  assert compiled(2.5).cost_analysis()["flops"] > 0  # as the record wants it, of a program from disk too


def cut(data: bytes) -> bytes:
  return data[: len(data) // 2]


def changed(data: bytes) -> bytes:
  return data[:-20] + bytes([data[-20] ^ 1]) + data[-19:]


@pytest.mark.parametrize("damage", [cut, changed, lambda data: b""])
def test_a_damaged_program_is_compiled_again_and_replaced(
  tmp_path: Path, events: list[str], damage: Callable[[bytes], bytes], capfd: pytest.CaptureFixture[str]
):
  hardware.share_compiled(tmp_path)
  first = result(2.5)
  (file,) = tmp_path.glob("cpu-*/*.xla")
  file.write_bytes(damage(file.read_bytes()))
  assert result(2.5) == first
  assert (events.count(MISS), events.count(HIT)) == (2, 0)
  assert result(2.5) == first
  assert events.count(HIT) == 1
  assert capfd.readouterr().err == ""


def test_the_way_to_the_directory_does_not_matter(tmp_path: Path, events: list[str], monkeypatch: pytest.MonkeyPatch):
  hardware.share_compiled(tmp_path / "here")
  result(2.5)
  (tmp_path / "here").rename(tmp_path / "there")
  monkeypatch.chdir(tmp_path)
  hardware.share_compiled("there")
  result(2.5)
  assert (events.count(MISS), events.count(HIT)) == (1, 1)


def test_programs_for_other_cores_or_processors_are_others(tmp_path: Path, events: list[str], monkeypatch: pytest.MonkeyPatch):
  for cores, processor in ((1, "a"), (2, "a"), (2, "b")):
    monkeypatch.setattr(hardware.os, "sched_getaffinity", lambda _, cores=cores: range(cores))
    monkeypatch.setattr(hardware.native, "processor", lambda processor=processor: processor)
    hardware.share_compiled(tmp_path)
    result(2.5)
  assert (events.count(MISS), events.count(HIT)) == (3, 0)


def test_a_directory_that_cannot_be_written_to_costs_one_line(
  tmp_path: Path, events: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
  def full(path: Path, data: bytes) -> None:
    raise OSError(28, "No space left on device")

  monkeypatch.setattr(record, "write_bytes", full)
  hardware.share_compiled(tmp_path)
  first = result(2.5)
  assert result(2.5) == first
  assert result(3.5) != first
  (where,) = {str(Path(str(jax.config.jax_compilation_cache_dir)))}
  assert capfd.readouterr().err == f"compiled programs cannot be kept in {where}: No space left on device\n"


def test_entries_are_whole_or_absent(tmp_path: Path):
  entries = Entries(tmp_path)
  assert entries.get("a") is None
  entries.put("a", b"program")
  assert entries.get("a") == b"program"
  (tmp_path / "b.xla").write_bytes((tmp_path / "a.xla").read_bytes()[:-1])
  assert entries.get("b") is None
  assert sorted(path.name for path in tmp_path.iterdir()) == ["a.xla", "b.xla"]


def test_those_used_last_are_kept(tmp_path: Path):
  entries = Entries(tmp_path / "kind")
  for i, name in enumerate("abcd"):
    entries.put(name, bytes(84))  # 100 bytes with the checksum
    compile_cache.os.utime(tmp_path / "kind" / f"{name}.xla", (1000 + i, 1000 + i))
  (tmp_path / "kind" / ".e.xla.left").write_bytes(bytes(100))  # by a kill
  compile_cache.os.utime(tmp_path / "kind" / ".e.xla.left", (900, 900))
  assert entries.get("a")  # used now
  compile_cache.trim(tmp_path, 300)
  assert sorted(path.name for path in (tmp_path / "kind").iterdir()) == ["a.xla", "c.xla", "d.xla"]


def test_a_home_that_cannot_be_written_to_costs_one_line(
  tmp_path: Path, events: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
  (tmp_path / "file").write_text("")
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
  hardware.share_compiled()
  assert capfd.readouterr().err == f"compiled programs are not kept: {tmp_path}/file/dlrm_jax: Not a directory\n"
  result(2.5)
  assert events.count(MISS) == 0
