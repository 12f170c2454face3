"""Predictions of `analysis.fit`: their places, what is refused, and how the error of a law's form is found."""

from pathlib import Path

import numpy as np
import pytest

from analysis import fit as program
from analysis.fitting.laws import LAWS, joint
from analysis.questions.csv_points import Columns
from analysis.questions.design import PRODUCT, forecasts_of, steps_beyond
from analysis.questions.form_errors import growths, half_width
from analysis.questions.origins import Origin, Points
from analysis.questions.places import of_group, places_of
from dlrm_jax.common import flags, record

X = 2.0 ** np.arange(16, 28)
CURVE = LAWS["power_constant"]
VALUES = {"alpha": 30.0, "beta": 0.4, "gamma": 0.1}
GRID = np.array([(r, n) for r in np.geomspace(30, 3e4, 6) for n in np.geomspace(1e5, 1e7, 7)])


def nested(x: np.ndarray) -> np.ndarray:
  """Kaplan et al. 2020's form, written out."""
  return ((0.8 * x[:, 0] ** -0.25) ** 5 + (6 * x[:, 1] ** -0.2) ** 5) ** 0.2


def drawn(y: np.ndarray, seed: int, level: float) -> np.ndarray:
  return y * np.exp(level * np.random.default_rng(seed).standard_normal(len(y)))


def write(path: Path, names: tuple[str, ...], *columns: np.ndarray) -> Path:
  rows = [",".join(map(repr, map(float, row))) for row in np.column_stack(columns)]
  path.write_text("\n".join([",".join(names), *rows]) + "\n")
  return path


def predictions(tmp_path: Path, path: Path, **change) -> list[dict]:
  out = tmp_path / "o.json"
  program.main(program.FitConfig(**{"input": str(path), "y": "loss", "output": str(out)} | change))
  return record.read_json(out)["predictions"]


def test_places_are_read_from_the_flag_and_from_a_file(tmp_path):
  two = Columns(("rows", "examples"), "loss", "model")
  words = ("rows=1e6", "examples=1e9", "examples=2e9", "rows=10")
  np.testing.assert_allclose(of_group(places_of(words, two), "any", 2), [[1e6, 1e9], [10, 2e9]])
  assert of_group(places_of((), two), "any", 2).shape == (0, 2)
  path = tmp_path / "at=here.csv"
  path.write_text("examples,note,rows,model\n1e9,,5,a\n\n2e9,x,6,b\n")
  found = places_of((str(path),), two)
  np.testing.assert_allclose(of_group(found, "b", 2), [[6, 2e9]])
  path.write_text("examples,rows\n1e9,5\n2e9,6\n")
  np.testing.assert_allclose(of_group(places_of((str(path),), two), "b", 2), [[5, 1e9], [6, 2e9]])


@pytest.mark.parametrize(
  ("words", "text", "message"),
  [
    (("rows=1e6",), "", "--predict_at=rows=1e6: each place needs rows and examples once; it must be a CSV file .* rows=1e9,examples=1e9"),
    (("rows=1", "rows=2"), "", "each place needs rows and examples once"),
    (("dim=1", "rows=2"), "", "--x has no column dim, it has rows, examples"),
    (("rows=0", "examples=2"), "", "rows=0 is not a positive number"),
    (("rows=1", "examples=many"), "", "examples=many is not a positive number"),
    (("none.csv",), "", "--predict_at=none.csv: no such file"),
    (("FILE",), "rows\n1\n", "--predict_at=.*p.csv: no column examples, it has rows"),
    (("FILE",), "rows,examples\n", "no places below the header"),
    (("FILE",), "rows,examples\n1,\n", "p.csv:2: column examples holds '', a positive number is needed"),
    (("FILE",), "rows,examples\n1,2,3\n", "p.csv:2: 3 columns, the header has 2"),
  ],
)
def test_places_that_cannot_be_read(tmp_path, words, text, message):
  path = tmp_path / "p.csv"
  path.write_text(text)
  with pytest.raises(flags.UserError, match=message) as error:
    places_of([str(path) if word == "FILE" else word for word in words], Columns(("rows", "examples"), "loss"))
  assert "\n" not in str(error.value)


def test_one_curve_is_predicted_within_and_beyond_its_points(tmp_path, capsys):
  path = write(tmp_path / "p.csv", ("examples", "loss"), X, drawn(CURVE.predict(VALUES, X), 0, 0.003))
  at = ("examples=1e7", "examples=1e9", "examples=1e3")
  inside, beyond, below = predictions(tmp_path, path, x=("examples",), predict_at=at)
  assert (inside["group"], inside["at"], inside["beyond"]) == ("all", {"examples": 1e7}, 1.0)
  np.testing.assert_allclose(beyond["beyond"], 1e9 / X[-1], rtol=1e-9)
  for one in (inside, beyond):
    truth = float(CURVE.predict(VALUES, np.array([one["at"]["examples"]]))[0])
    assert one["ci_low"] < truth < one["ci_high"] and one["ci_low"] < one["y"] < one["ci_high"]
    half = 0.5 * np.log(one["ci_high"] / one["ci_low"])
    np.testing.assert_allclose(half, np.hypot(one["noise"], one["form"]), rtol=0.15)
  assert beyond["form"] > inside["form"] and beyond["noise"] > inside["noise"]
  assert below["y"] is None and below["reason"] == "examples=1000 is below the points, which begin at 6.554e+04"
  shown = capsys.readouterr().out
  assert "7.45x" in shown and "within" in shown and "no prediction at examples=1000: examples=1000 is below the points" in shown


@pytest.mark.parametrize(
  ("y", "change", "reason"),
  [
    (drawn(0.9 * X**-0.25 + 0.75, 1, 0.03), {}, "the points do not determine beta and gamma"),
    (2 - 0.01 * np.log(X / X[0]) ** 2, {}, "the law misses the points"),
    (drawn(CURVE.predict(VALUES, X), 0, 0.003), {"loss": "huber"}, "12 points: a robust loss takes its intervals from a bootstrap"),
  ],
)
def test_a_law_that_is_not_believed_predicts_nothing(tmp_path, capsys, y, change, reason):
  (one,) = predictions(tmp_path, write(tmp_path / "p.csv", ("n", "loss"), X, y), x=("n",), predict_at=("n=1e9",), **change)
  assert one["y"] is None and one["reason"].startswith(reason)
  assert f"no prediction at n=1e+09: {reason}" in capsys.readouterr().out


def test_groups_are_predicted_where_their_file_says(tmp_path):
  lines = ["n,loss,model", *(f"{n},{y},{g}" for g, scale in (("a", 1), ("b", 2)) for n, y in zip(X, scale * X**-0.3, strict=True))]
  (tmp_path / "p.csv").write_text("\n".join(lines))
  (tmp_path / "at.csv").write_text("model,n\nb,1e9\n")
  given = {"x": ("n",), "law": "power", "group": "model"}
  (one,) = predictions(tmp_path, tmp_path / "p.csv", **given, predict_at=(str(tmp_path / "at.csv"),))
  assert one["group"] == "b"
  np.testing.assert_allclose(one["y"], 2 * 1e9**-0.3, rtol=1e-6)
  both = predictions(tmp_path, tmp_path / "p.csv", **given, predict_at=("n=1e9",))
  assert [p["group"] for p in both] == ["a", "b"]
  (tmp_path / "at.csv").write_text("n,model\n1e9,b\n2e9,c\n")
  with pytest.raises(flags.UserError, match="--predict_at: no points have model=c, they have a, b"):
    predictions(tmp_path, tmp_path / "p.csv", **given, predict_at=(str(tmp_path / "at.csv"),))
  with pytest.raises(flags.UserError, match="is the file of --predict_at"):
    predictions(tmp_path, tmp_path / "p.csv", **given, output=str(tmp_path / "at.csv"), predict_at=(str(tmp_path / "at.csv"),))
  (tmp_path / "at.csv").write_text("n,\n1e9,\n")  # a column without a name is not that of groups
  write(tmp_path / "one.csv", ("n", "loss"), X, X**-0.3)
  assert len(predictions(tmp_path, tmp_path / "one.csv", x=("n",), law="power", predict_at=(str(tmp_path / "at.csv"),))) == 1


def test_a_robust_fit_of_two_columns_predicts_by_its_draws(tmp_path):
  x = np.array([(n, d) for n in np.geomspace(1e6, 1e9, 8) for d in np.geomspace(1e8, 1e11, 8)])
  law, values = LAWS["chinchilla"], {"A": 400.0, "B": 2000.0, "E": 1.7, "alpha": 0.34, "beta": 0.36}
  path = write(tmp_path / "p.csv", ("N", "D", "loss"), x, drawn(law.predict(values, x), 0, 0.01))
  at = {"law": "chinchilla", "loss": "huber", "predict_at": ("N=1e10", "D=1e12", "N=1e7", "D=1e9")}
  far, near = predictions(tmp_path, path, x=("N", "D"), **at)
  for one in (far, near):
    truth = float(law.predict(values, np.array([[one["at"]["N"], one["at"]["D"]]]))[0])
    assert one["ci_low"] < truth < one["ci_high"] < 1.3 * one["ci_low"]


def test_the_step_beyond_points_by_hand():
  """From the nearest point below: within the reach of (2, 2) it is zero, whatever the other columns of other points are."""
  log_x = np.array([[0.0, 3.0], [2.0, 2.0], [3.0, 0.0]])
  at = np.array([[1.0, 2.0], [2.0, 2.5], [3.5, 1.0], [-1.0, 3.5], [4.0, 4.0]])
  np.testing.assert_allclose(steps_beyond(log_x, at), [[0, 0], [0, 0.5], [0.5, 1.0], [0, 0.5], [2, 2]])


def test_forecasts_of_any_points_predict_the_larger_ones():
  """On a grid of six sizes by seven lengths without noise, a law that holds has no error along any column or their product."""
  law = joint(("rows", "examples"), "nested", False, False)
  theta = np.array([np.log(0.8), np.log(6.0), 0.25, 0.2])
  log_x = np.log(GRID)
  points = Points(log_x, np.log(nested(GRID)), 0.0, 1e-6 * np.eye(len(GRID)))
  found = forecasts_of(points, [(law, theta)])
  assert {o.along for o in found} == {"rows", "examples", PRODUCT}
  for origin in found:
    np.testing.assert_allclose(origin.errors, 0.0, atol=1e-6)
    assert np.all(origin.distance > 0)
  along = [o for o in found if o.along == "rows"]
  assert [round(o.fitted_to) for o in along] == [475, 1893, 7536]
  np.testing.assert_allclose(along[-1].at, [3e4], rtol=1e-9)  # of the largest size, the longest run alone


def origin(distance: np.ndarray, error: np.ndarray, noise: np.ndarray, fitted_to: float = 1.0) -> Origin:
  at = fitted_to * np.exp(distance)
  return Origin("n", fitted_to, at, np.zeros(len(at)), error[None], noise[None], np.zeros(len(at)))


def test_the_growth_of_errors_is_found_whatever_the_noise():
  """4,000 errors with a standard deviation of .03 for each unit of distance, and noise that is known and uneven."""
  rng = np.random.default_rng(0)
  distance, noise = rng.uniform(0.2, 3, 4000), rng.choice([1e-6, 1e-2], 4000)
  error = rng.standard_normal(4000) * np.sqrt(noise + (0.03 * distance) ** 2)
  np.testing.assert_allclose(growths([origin(distance, error, noise)])["n"], 0.03, rtol=0.06)
  quiet = origin(distance, rng.standard_normal(4000) * np.sqrt(noise), noise)
  assert growths([quiet])["n"] < 3e-3


def test_the_width_of_a_form_error_by_hand():
  """Forecasts over two units of distance: at a distance of 1 that is three degrees of freedom, at 2 two, and never more than forecasts."""
  one = origin(np.array([1.0, 2.0]), np.zeros(2), np.zeros(2))
  for step, count, quantile in ((1.0, 5, 3.18245), (2.0, 5, 4.30265), (1.0, 2, 4.30265), (0.5, 1, 12.7062)):
    np.testing.assert_allclose(half_width([one] * count, {"n": 0.02}, ("n",), np.array([step])), 0.02 * step * quantile, rtol=1e-5)
  assert half_width([one], {"n": 0.02}, ("n",), np.array([0.0])) == 0.0
  assert half_width([one], {}, ("n",), np.array([0.5])) == np.inf
  both = half_width([one] * 9, {"n": 0.02, "d": 0.01}, ("n", "d"), np.array([0.3, 0.4]))
  np.testing.assert_allclose(both, np.hypot(0.006, 0.004) * 2.57058, rtol=1e-5)  # at a distance of .5: five degrees


def test_joint_laws_leave_out_what_the_points_contradict(tmp_path, capsys):
  path, out = write(tmp_path / "p.csv", ("rows", "examples", "loss"), GRID, drawn(nested(GRID), 0, 0.005)), tmp_path / "o.json"
  far = {"rows": 3e4, "examples": 4e7}
  at = {"x": ("rows", "examples"), "law": "joint", "predict_at": [f"{name}={value}" for name, value in far.items()]}
  (one,) = predictions(tmp_path, path, **at | {"predict_at": tuple(at["predict_at"])})
  (fit,) = record.read_json(out)["fits"]
  assert (fit["law"], fit["status"], fit["params"]) == ("joint", "ok", {})
  np.testing.assert_allclose(sum(law["weight"] for law in fit["laws"]), 1.0)
  left = [law for law in fit["laws"] if law["left_out"]]
  assert {law["law"] for law in left} == {"sum of terms with a constant", "sum of terms without a constant"}
  assert all("act on each other" in law["left_out"] and not law["weight"] for law in left)
  truth = float(nested(np.array([list(far.values())]))[0])
  assert one["ci_low"] < truth < one["ci_high"] < 1.1 * one["ci_low"]
  shown = capsys.readouterr().out
  assert "joint laws by weight" in shown and "sum of terms with a constant is left out, because the points contradict it" in shown


def test_joint_laws_of_too_few_points_are_refused(tmp_path):
  few = np.array([(1e2, 1e5), (1e3, 1e6), (1e4, 1e7), (1e2, 1e6), (1e3, 1e5), (1e4, 1e6)])
  path = write(tmp_path / "p.csv", ("rows", "examples", "loss"), few, nested(few))
  with pytest.raises(flags.UserError, match="refused: too few points to judge joint laws"):
    predictions(tmp_path, path, x=("rows", "examples"), law="joint")


@pytest.mark.parametrize("change", [{"fix": ("E=0",)}, {"loss": "huber"}, {"bootstrap_draws": 200}])
def test_joint_laws_take_no_borrowed_parameters_and_no_robust_loss(change):
  with pytest.raises(flags.UserError, match="with --law=joint"):
    program.FitConfig(**{"input": "p", "x": ("a", "b"), "y": "y", "output": "o", "law": "joint"} | change)
