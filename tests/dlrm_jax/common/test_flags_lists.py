"""Lists on a command line: any text can be an element, and lists written without quotes mean what they always did."""

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nasty_names import ALL

from dlrm_jax.common import flags
from dlrm_jax.common.flags import UserError, join_list, parse_value, split_list
from dlrm_jax.config import MeshConfig, RunConfig


@given(st.lists(st.one_of(st.text(), st.sampled_from(ALL), st.text(alphabet='",: \\\n'))))
def test_any_texts_survive_the_command_line(texts: list[str]):
  assert split_list(join_list(texts)) == texts
  assert parse_value(join_list(texts), tuple[str, ...]) == tuple(texts)


@given(st.text(alphabet="abC3:_.[]/ -,\\'$é"))
def test_a_list_without_double_quotes_is_cut_at_commas(text: str):
  assert split_list(text) == [part.strip() for part in text.split(",") if part.strip()]


@pytest.mark.parametrize(
  ("text", "elements"),
  [
    ("auto,C3:row", ["auto", "C3:row"]),
    ('"c,d":row', ["c,d:row"]),
    ('"c,d:row"', ["c,d:row"]),
    (' "c,d":row , auto', ["c,d:row", "auto"]),
    ('q"t:row', ['q"t:row']),
    ('"q:row', ['"q:row']),  # never closed
    ('"q:row,a:row', ['"q:row', "a:row"]),
    ('"""q"":row"', ['"q":row']),
    ('" a":row', [" a:row"]),
    ('"":row', [":row"]),
    ('""', [""]),
    ("", []),
    (" , ,", []),
    ('"a\nb":row,c', ["a\nb:row", "c"]),
    ('"none"', ["none"]),
  ],
)
def test_lists_by_hand(text: str, elements: list[str]):
  assert split_list(text) == elements


def test_no_list_and_a_list_of_one_none():
  assert parse_value("none", tuple[str, ...]) == () and parse_value('"none"', tuple[str, ...]) == ("none",)
  assert parse_value(join_list(["none"]), tuple[str, ...]) == ("none",)
  assert parse_value('1,"2",3', tuple[int, ...]) == (1, 2, 3)


@pytest.mark.parametrize("name", ALL)
def test_any_feature_can_be_placed(name: str):
  word = f"{name}:row"
  config = flags.parse(["train", "--data=x", f"--placement={join_list(['auto', word, 'other:table'])}"], RunConfig)
  assert config.mesh.placement == ("auto", word, "other:table")
  assert flags.parse(["train", *flags.words(config)], RunConfig) == config


def test_an_empty_name_is_not_the_default():
  assert MeshConfig(placement=("auto", ":row")).placement == ("auto", ":row")
  with pytest.raises(UserError, match="one placement a feature"):
    MeshConfig(placement=("a:row", "a:table"))


def test_an_error_is_one_line_whatever_the_name(monkeypatch, capsys):
  def refuse(config: MeshConfig) -> None:
    raise UserError("no feature 'a\nb\x1b[31m'")

  monkeypatch.setattr(sys, "argv", ["program"])
  with pytest.raises(SystemExit):
    flags.run(refuse, MeshConfig)
  assert capsys.readouterr().err == "error: no feature 'a\\nb\\x1b[31m'\n"
