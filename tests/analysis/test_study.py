"""The kept records of the study, fitted again, give the tables of STUDY.md; its figures are those that it shows."""

import re
from pathlib import Path

import pytest

from analysis import publish
from analysis.load import load
from analysis.questions.additive import models
from analysis.questions.curves import curves, largest
from analysis.questions.parts import Exponents, data_exponents
from analysis.questions.rate_laws import rate_laws
from analysis.questions.repeats import repeats
from analysis.questions.sweep_laws import data_laws, pooled_noise
from analysis.questions.tuning import tuned
from analysis.report.paper_tables import exponent_table
from dlrm_jax.common import markdown
from dlrm_jax.common.flags import UserError

STUDY = Path(publish.PublishConfig().study)
TEXT = Path(publish.PublishConfig().markdown).read_text()
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e[-+]?\d+)?")


def section(name: str) -> str:
  return TEXT.split(f"<!-- {name} -->")[1].split(f"<!-- /{name} -->")[0].strip()


def assert_alike(got: str, written: str) -> None:
  """The same words, and numbers that differ by 2% or by two in the last digit: another processor rounds otherwise."""
  assert _NUMBER.sub("#", got) == _NUMBER.sub("#", written)
  for a, b in zip(_NUMBER.findall(got), _NUMBER.findall(written), strict=True):
    digit = 10.0 ** -len(b.partition("e")[0].partition(".")[2])
    assert abs(float(a) - float(b)) <= max(0.02 * abs(float(b)), 2 * digit), (a, b)


def exponents(path: Path) -> list[Exponents]:
  sweep, _ = tuned(load(path))
  given = curves(sweep, "auto", None, None)
  return data_exponents(sweep, data_laws(largest(given), pooled_noise(given)))


def test_the_data_exponents_of_the_study_are_those_of_its_records():
  """The headline table: every scheme on the tail, and on the whole."""
  found = {name: exponents(STUDY / f"{name}.parquet") for name in ("paper", "paper_tail")}
  table = publish.stacked({name: exponent_table(rows) for name, rows in found.items()}, 4)
  assert_alike(table, section("exponents"))
  for row in found["paper"]:
    beta, theory = row.window.fit.params["beta"], row.window.theory_beta
    assert theory == pytest.approx(0.1) and abs(beta.estimate - 0.10) < 0.02, row.window.axis


@pytest.mark.slow
def test_all_tables_of_the_study_are_those_of_its_records():
  for name, text in publish.sections(publish.analysed(STUDY)).items():
    assert_alike(text, section(name))


def test_what_the_study_says_of_repeated_examples():
  """With a row for every id the loss rises at once, with 30 rows it stays. On MovieLens it rises where an id has few examples."""
  few, *_, many = repeats(load(STUDY / "epochs.parquet"))
  assert (few.model, many.model) == ("rows 30", "rows 1,048,576")
  assert {row.what for row in few.rows} == {"stays"} and {row.what for row in many.rows} == {"rises"}
  assert all(row.losses[1] > row.losses[0] for row in many.rows) and many.rows[-1].change > 1
  shared, own = repeats(load(STUDY / "epochs_movielens.parquet"))
  assert {row.what for row in shared.rows} == {"falls"} and shared.fit.status == "misfit"
  assert [row.what for row in own.rows] == ["rises", "rises", "stays", "falls"]
  written = section("epochs")
  assert all(model.verdict in written for model in (many, own))


def test_what_the_study_says_of_batch_sizes():
  """The best rate rises with the batch by less than the rule of sweeps/rates.py for Adagrad."""
  (law,) = rate_laws(load(STUDY / "rates_batch.parquet"))
  assert law.axis == "batch_size" and len(law.kept) == 6 and law.exponent.ci_high < 1 / 3
  assert f"| {law.exponent.estimate:.3g} [" in section("rates")


def test_advice_takes_the_base_once_though_its_longer_run_repeats_it():
  sweep, _ = tuned(load(STUDY / "paper.parquet"))
  (model,) = models(sweep)
  assert not [note for note in model.notes if "left out" in note]


def test_its_page_has_every_section_and_every_figure():
  for name in publish.SECTIONS:
    markdown.check_markers(publish.PublishConfig().markdown, name)
    assert section(name)
  shown = re.findall(r"\(study/([a-z_]+\.svg)\)", TEXT)
  drawn = {f"{name}_{figure}.svg" for name, figures in publish.FIGURES.items() for figure in figures} | {"study.svg"}
  assert set(shown) == drawn == {path.name for path in STUDY.glob("*.svg")}


def test_a_missing_record_is_named(tmp_path):
  with pytest.raises(UserError, match=r"paper\.parquet: no such file; make study makes it"):
    publish.analysed(tmp_path)
