"""The checker of types does not let a wrong argument, result, size or field pass. With jaxtyping's own decorator these tests pass, too."""

import dataclasses
from collections.abc import Callable, Iterator

import jaxtyping
import numpy as np
import pytest
import typechecker
from jaxtyping import Float, PyTree

from dlrm_jax.data.prepare import vocabulary

TWO, THREE = np.zeros(2, np.float32), np.zeros(3, np.float32)
decorated = jaxtyping.jaxtyped(typechecker=typechecker.check)


@decorated
def plain(a: int, *more: str, of: float = 1, result: object = 1.0) -> float:
  return result  # type: ignore[return-value]


@decorated
def sizes(a: Float[np.ndarray, " n"], b: list[Float[np.ndarray, " n"]] | None = None, result: object = None) -> Float[np.ndarray, "n 2"]:
  return np.zeros((len(a), 2), np.float32) if result is None else result  # type: ignore[return-value]


@decorated
def outer(a: Float[np.ndarray, " n"], b: Float[np.ndarray, " m"]) -> Float[np.ndarray, " m"]:
  return sizes(b)[:, 0] + 0 * float(len(sizes(a)))  # n of the inner calls is not n of this one


@decorated
def generated(count: int) -> Iterator[int]:
  yield from range(count)


@decorated
@dataclasses.dataclass(frozen=True)
class Fields:
  a: Float[np.ndarray, " n"]
  b: Float[np.ndarray, " n"]
  c: int = 0

  @classmethod
  @decorated
  def of(cls, a: Float[np.ndarray, " n"]) -> "Fields":
    return cls(a, a)

  @property
  @decorated
  def first(self) -> float:
    return self.c if self.c < 2 else str(self.c)  # type: ignore[return-value]


class Derived(Fields):
  """Inherits the checks."""


@decorated
@dataclasses.dataclass
class Plain:
  a: int


def test_the_decorator_is_ours():
  assert jaxtyping.jaxtyped is typechecker.checked


def test_what_is_right_passes():
  assert plain(1, "a", of=2) == 1.0
  assert sizes(TWO, [TWO, TWO]).shape == (2, 2)
  assert outer(TWO, THREE).shape == (3,)
  assert list(generated(2)) == [0, 1]
  assert Fields.of(TWO).first == 0
  assert Derived(TWO, TWO).c == Plain(0).a == 0
  assert plain.__name__ == "plain" and sizes.__wrapped__ is not None


@pytest.mark.parametrize(
  "call",
  [
    lambda: plain("1"),
    lambda: plain(1, 2),
    lambda: plain(1, of="x"),
    lambda: plain(1, result="x"),
    lambda: plain(True, result=None),
    lambda: sizes(TWO.astype(int)),
    lambda: sizes(TWO[None]),
    lambda: sizes(TWO, [THREE, THREE]),  # beartype checks one element of a list
    lambda: sizes(TWO, result=np.zeros((3, 2), np.float32)),
    lambda: sizes(TWO, result=TWO),
    lambda: outer(TWO, THREE[None]),
    lambda: generated("2"),
    lambda: Fields(TWO, THREE),
    lambda: Fields(TWO, TWO, "c"),
    lambda: Fields.of(TWO[None]),
    lambda: Fields(TWO, TWO, 2).first,
    lambda: Derived(TWO, THREE),
    lambda: Plain("a"),
  ],
)
def test_what_is_wrong_is_refused(call):
  with pytest.raises(jaxtyping.TypeCheckError):
    call()


def test_arrays_are_found_in_any_hint():
  array = Float[np.ndarray, " n"]
  for hint in (array, list[array], dict[str, tuple[array, ...]], array | None, Callable[[array], int], Callable[..., array], PyTree[array]):
    assert typechecker.has_arrays(hint), hint
  for hint in (int, list[int], np.ndarray, Callable[[int], str], None, "n", ...):
    assert not typechecker.has_arrays(hint), hint


def test_functions_of_the_packages_are_checked():
  with pytest.raises(jaxtyping.TypeCheckError):
    vocabulary.hash_uint32(3, np.zeros(1, np.uint64))
  with pytest.raises(jaxtyping.TypeCheckError):
    vocabulary.hash_uint32("C1", np.zeros((1, 1), np.uint64))
