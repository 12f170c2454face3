"""Checks the planted click model against its definition, its theory against sums and published constants, the estimator against both."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlrm_jax.common import hashing
from dlrm_jax.config import ModelConfig, PlantedConfig, RunConfig
from dlrm_jax.data.planted import closed_forms as theory
from dlrm_jax.data.planted.clicks import EVAL_STREAM, Planted
from dlrm_jax.data.planted.closed_forms import decaying_shares
from dlrm_jax.data.planted.teacher import PAIR_TERMS, SMALL_IDS
from dlrm_jax.data.planted.theory import ideal
from dlrm_jax.data.planted.theory import theory as theory_of
from dlrm_jax.training import metrics, per_id

S_VALUES = (10 / 9, 1.25)


def ids_of(s: float, size: int) -> np.ndarray:
  batch, _ = Planted(PlantedConfig(zipf_s=s)).batch(1, 0, size)
  return np.asarray(batch.ids_bl).view(np.uint32) + np.uint32(1)  # ranks k


@pytest.mark.parametrize("s", S_VALUES)
def test_ids_have_the_zipf_law_in_every_octave(s: float):
  ids = ids_of(s, 2**17).ravel()
  n = ids.size
  assert ids.min() == 1
  for k in [1, 2, 3, 5, 17, 100, 1000, 4095, 4096, 4097, 8193, 2**15 + 3, 2**20 + 1, 2**24 + 5, 2**28, 2**31]:
    expected = k ** -(s - 1)
    assert (ids >= k).mean() == pytest.approx(expected, abs=5 * math.sqrt(expected / n) + 1e-12), k
  for k in [1, 2, 7, 50]:
    expected = k ** -(s - 1) - (k + 1) ** -(s - 1)
    assert (ids == k).mean() == pytest.approx(expected, abs=5 * math.sqrt(expected / n)), k


def test_large_ids_are_not_merged():
  """The number of distinct ids in n draws is sum_k 1 - (1 - p_k)^n; ids from a float32 inverse CDF would merge above 2**23."""
  s = 10 / 9
  ids = ids_of(s, 2**17).ravel()
  count, p = theory._ids(s, 2**31)
  expected = (count * -np.expm1(ids.size * np.log1p(-p))).sum() + ids.size * (2.0**31) ** -(s - 1)
  assert len(np.unique(ids)) == pytest.approx(expected, rel=0.003)
  large = ids[(ids >= 2**25) & (ids < 2**31)]
  assert np.bincount(large % 8, minlength=8).min() > 0.9 * large.size / 8  # low bits are random


def test_examples_depend_on_their_index_alone():
  planted = Planted(PlantedConfig(pair_variance=0.2, dense_variance=0.2, score_variance=0.2))
  whole, truth = planted.batch(1, 2**32 - 8, 32)  # across the carry of the 64-bit index
  part, part_truth = planted.batch(1, 2**32 + 2, 4)
  for a, b in zip(jax.tree.leaves((whole, truth)), jax.tree.leaves((part, part_truth)), strict=True):
    np.testing.assert_allclose(a[10:14], b, rtol=1e-6)
  assert len({tuple(row) for row in np.asarray(whole.ids_bl).tolist()}) == 32
  other, _ = planted.batch(2, 2**32 - 8, 32)
  assert not np.array_equal(whole.ids_bl, other.ids_bl)
  drawn = [b for b, _ in planted._batches(1, 48, 16384, 0)]  # chunks hold 170 batches of 48
  np.testing.assert_array_equal(drawn[171].ids_bl, planted.batch(1, 171 * 48, 48)[0].ids_bl)
  assert float(drawn[-1].weight_b.sum()) == 16384 % 48


def test_parts_have_their_variance_and_are_uncorrelated():
  variances = {"pair_variance": 0.3, "dense_variance": 0.4, "score_variance": 0.2}
  n, bare = 2**17, Planted(PlantedConfig(tail_sigma=1e-6, bias=0.0))
  assert np.asarray(bare.batch(1, 0, n)[1].logit_b).var() < 1e-10
  for name, variance in variances.items():
    _, truth = Planted(PlantedConfig(tail_sigma=1e-6, bias=0.0, **{name: variance})).batch(1, 0, n)
    logit = np.asarray(truth.logit_b, np.float64)
    assert logit.var() == pytest.approx(variance, rel=0.04), name
    assert logit.mean() == pytest.approx(0, abs=0.01), name
  _, truth = Planted(PlantedConfig(**variances)).batch(1, 0, n)
  rest = np.asarray(truth.logit_b) - np.asarray(truth.parts["tail"])
  assert rest.var() == pytest.approx(0.9, rel=0.04)
  assert np.corrcoef(rest, truth.parts["tail"])[0, 1] == pytest.approx(0, abs=0.02)


def test_pairs_are_inner_products_of_orthonormal_terms():
  planted = Planted(PlantedConfig(pair_variance=0.6))
  z_fkj = np.asarray(planted.latents["pair_fkj"], np.float64)
  for z_kj in z_fkj:
    np.testing.assert_allclose(z_kj.T @ z_kj / SMALL_IDS, np.eye(PAIR_TERMS), atol=1e-5)
    np.testing.assert_allclose(z_kj.mean(axis=0), 0, atol=1e-5)
  batch, truth = planted.batch(1, 0, 64)
  scale_j = np.sqrt(0.1 * decaying_shares(PAIR_TERMS, 1.0))
  for row, logit, tail in zip(np.asarray(batch.ids_bl)[:, 8:], truth.logit_b, truth.parts["tail"], strict=True):
    z = [z_fkj[f, row[f]] for f in range(4)]
    pairs = sum(scale_j @ (z[f] * z[g]) for f in range(4) for g in range(f + 1, 4))
    assert float(logit) + 1 - float(tail) == pytest.approx(pairs, abs=2e-5)


def test_the_parts_of_a_logit_add_up_and_are_named():
  planted = Planted(PlantedConfig(pair_variance=0.5, dense_variance=0.3, score_variance=0.1))
  _, truth = planted.batch(1, 0, 2**15)
  assert planted.parts == ("tail", "pairs", "dense", "scores") and set(truth.parts) == set(planted.parts)
  parts = {name: np.asarray(x, np.float64) for name, x in truth.parts.items()}
  np.testing.assert_allclose(-1 + sum(parts.values()), truth.logit_b, atol=2e-6)
  for name in planted.parts[1:]:
    assert parts[name].var() == pytest.approx(planted.variance(name), rel=0.06)
  assert Planted(PlantedConfig(dense_variance=0.3)).parts == ("tail", "dense")


@pytest.mark.parametrize("s", [*S_VALUES, 1.75, 2.5])
def test_what_hashing_loses(s: float):
  """The judges are random hashes of the ids at few rows, and kappa at many rows."""
  rng, k = np.random.default_rng(0), np.arange(1, 2.0**18)
  p, rest = k ** -(s - 1) - (k + 1) ** -(s - 1), 2.0 ** (-18 * (s - 1))
  for rows in (1, 2, 10, 40):
    lost = []
    for _ in range(100):
      row = rng.integers(0, rows, len(p))
      lost.append(1 - (np.bincount(row, p * p, rows) / (np.bincount(row, p, rows) + rest / rows)).sum())
    assert theory.hashed_share(rows, s) == pytest.approx(np.mean(lost), abs=4 * np.std(lost) / 10 + 1e-4)
  if s < 1.5:  # beyond, the limit is reached slowly
    assert theory.hashed_share(100_000, s) == pytest.approx(theory.kappa(s) * 1e5 ** -(s - 1), rel=1e-3)


def test_floors_of_pairs_and_dense_part_are_the_variance_without_the_largest_terms():
  """The judge is the sum of the teacher's own terms beyond the largest ones. For pairs it is 1/(1 + 1/4) of two terms, by hand."""
  assert theory.terms_floor(1, 2, 0.5, 1.0, 0.2) == pytest.approx(0.1 * 0.5 * 0.25 / 1.25)
  assert theory.terms_floor(32, 32, 0.5, 1.0, 0.2) == 0.0
  planted = Planted(PlantedConfig(pair_variance=0.6, dense_variance=0.4))
  c, scale_j = planted.moments[1], np.asarray(planted.latents["pair_scale_j"], np.float64)
  rest = 6 * (scale_j[4:] ** 2).sum()  # six pairs of fields
  assert theory.terms_floor(4, PAIR_TERMS, 0.6, 1.0, c) == pytest.approx(c / 2 * rest, rel=1e-6)
  model = ModelConfig(embed_dim=4, num_rows=1000, bottom=(6, 4))
  found = theory_of(RunConfig(model=model, planted=planted.config), planted)
  rest = (np.asarray(planted.latents["dense_scale_j"], np.float64)[3:] ** 2).sum()
  assert found is not None and found["dense_floor"] == pytest.approx(c / 2 * rest, rel=1e-6)
  assert found["pairs_floor"] == pytest.approx(theory.terms_floor(4, PAIR_TERMS, 0.6, 1.0, c))
  # A later layer carries sums; no floor of pairs where a field is not shown, ids share rows, or more than dots sees them.
  for change, name in (
    ({"bottom": (6, 2, 4)}, "dense_floor"),
    ({"num_tables": 10}, ""),
    ({"rows_by": "hash"}, ""),
    ({"num_rows": 60}, ""),
    ({"interaction": "dcn_v2"}, ""),
    ({"overarch_inputs": ("dense", "dots", "rows")}, ""),
  ):
    run = RunConfig(model=dataclasses.replace(model, **change), planted=planted.config)
    other = theory_of(run, Planted(planted.config, change.get("num_tables", 0)))
    assert other is not None and (other[name] == found[name] if name else other["pairs_floor"] is None), change


def test_labels_are_clicks_with_the_true_probability():
  batch, truth = Planted(PlantedConfig()).batch(1, 0, 2**17)
  prob, label = metrics.sigmoid(np.asarray(truth.logit_b, np.float64)), np.asarray(batch.label_b)
  z = (label - prob).sum() / math.sqrt((prob * (1 - prob)).sum())
  assert abs(z) < 4
  by_decile = [(label[c] - prob[c]).mean() for c in np.array_split(np.argsort(prob), 10)]
  assert np.abs(by_decile).max() < 0.02


def test_tail_effects_belong_to_field_and_id():
  planted = Planted(PlantedConfig())
  batch, truth = planted.batch(1, 0, 4096)
  ids = np.asarray(batch.ids_bl)
  same = {}
  effects = np.asarray(hashing.normal(hashing.word(0, 0, jnp.arange(8), batch.ids_bl + 1)))
  np.testing.assert_allclose(0.5 * effects.sum(axis=1), truth.parts["tail"], atol=1e-5)
  for field in range(8):
    for id_, effect in zip(ids[:, field], effects[:, field], strict=True):
      assert same.setdefault((field, id_), effect) == effect
  values = np.array(list(same.values()))
  assert values.mean() == pytest.approx(0, abs=4 / math.sqrt(values.size))
  assert values.var() == pytest.approx(1, abs=0.05)
  assert same[0, 1] != same[1, 1]


def test_evaluation_draws_are_not_training_draws():
  planted = Planted(PlantedConfig())
  evaluation, training = planted.batch(EVAL_STREAM, 0, 512)[0], planted.batch(1, 0, 512)[0]
  assert not np.array_equal(evaluation.ids_bl, training.ids_bl)
  first, again = (list(planted.eval_batches(256, 600)) for _ in range(2))
  np.testing.assert_array_equal(first[2][0].label_b, again[2][0].label_b)
  assert [float(b.weight_b.sum()) for b, _ in first] == [256, 256, 88]


def test_the_largest_and_the_smallest_word_are_finite():
  """1 in 2**24 words used to be 1.0, which made an infinite logit or dense input: of 16 dense inputs one does in a million examples."""
  ends = jnp.array([0, 255, 2**31, 2**32 - 256, 2**32 - 1], jnp.uint32)
  drawn = np.asarray(hashing.uniform(ends))
  assert drawn.min() > 0 and drawn.max() < 1 and np.isfinite(np.asarray(hashing.normal(ends))).all()


def test_random_words_are_uniform_and_streams_do_not_repeat():
  words = np.asarray(hashing.word(7, jnp.arange(2**12)[:, None], jnp.arange(2**6)))
  assert len(np.unique(words)) > words.size * (1 - 2 * words.size / 2**32)
  for bit in range(32):
    assert abs(((words >> bit) & 1).mean() - 0.5) < 5 / (2 * math.sqrt(words.size))
  neighbours = np.corrcoef(words[:-1].ravel(), words[1:].ravel())[0, 1], np.corrcoef(words[:, :-1].ravel(), words[:, 1:].ravel())[0, 1]
  assert np.abs(neighbours).max() < 0.01
  z = np.asarray(hashing.normal(jnp.asarray(words)), np.float64)
  np.testing.assert_allclose([z.mean(), z.var(), (z**4).mean()], [0, 1, 3], atol=0.03)
  assert hashing.word(7, 1, 2) != hashing.word(7, 2, 1)
  assert int(hashing.word(7, 1, 2)) == 1456065440  # golden


# --- theory


def test_kappa_has_its_known_values():
  assert theory.kappa(10 / 9) == pytest.approx(1.317, abs=5e-4)
  assert theory.kappa(1.25) == pytest.approx(1.647, abs=5e-4)
  with pytest.raises(ValueError, match="kappa is known"):
    theory.kappa(2.5)


@pytest.mark.parametrize("s", S_VALUES)
def test_excess_ideal_is_the_sum_over_ids(s: float):
  """A brute sum over the first ids and the known mass of the others bound it from both sides."""
  tau, n = 0.04, 1e5
  k = np.arange(1, 3_000_001, dtype=np.float64)
  p = k ** -(s - 1) - (k + 1) ** -(s - 1)
  head = (p * tau / (1 + n * p * tau)).sum()
  rest = tau * (k[-1] + 1) ** -(s - 1)
  got = theory.excess_ideal(n, s, tau, num_fields=8) / 4
  assert head + rest / (1 + n * p[-1] * tau) < got < head + rest
  capped = theory.excess_ideal(n, s, tau, 8, num_rows=1000) / 4
  assert capped == pytest.approx((p[:999] * tau / (1 + n * p[:999] * tau)).sum() + tau * 1000 ** -(s - 1), rel=1e-9)


@pytest.mark.parametrize("s", S_VALUES)
def test_exponents_follow_from_the_sums(s: float):
  ns = 10.0 ** np.arange(5, 9)
  slope = -np.polyfit(np.log(ns), np.log([theory.excess_ideal(n, s, 0.04, 8) for n in ns]), 1)[0]
  assert slope == pytest.approx(theory.beta_data(s), abs=0.004)
  floors = [theory.rows_floor(v, s, 0.04, 8) for v in (100, 10_000)]
  assert math.log(floors[0] / floors[1]) / math.log(100) == pytest.approx(theory.beta_rows(s))
  assert theory.excess_ideal(1e15, s, 0.04, 8, num_rows=100) == pytest.approx(floors[0], rel=1e-3)


def test_hashing_loses_kappa_times_what_top_loses():
  """Monte Carlo over hash functions. A row predicts the probability-weighted mean effect of its ids, and the deviations are lost."""
  s, rows, k = 1.25, 200, np.arange(1, 2_000_001, dtype=np.float64)
  p = k ** -(s - 1) - (k + 1) ** -(s - 1)
  rng, lost = np.random.default_rng(0), []
  for _ in range(20):
    row = rng.integers(0, rows, k.size)
    mass, square = np.bincount(row, p, rows), np.bincount(row, p**2, rows)
    lost.append((mass - square / mass).sum() + (k[-1] + 1) ** -(s - 1))
  assert np.mean(lost) / rows ** -(s - 1) == pytest.approx(theory.kappa(s), rel=0.04)


# --- the exact estimator


def test_per_id_update_by_hand():
  """Two examples share an id, so that the second is predicted with the update of the first."""
  state = per_id.init(num_fields=2, sigma=0.5)
  planted_batch, _ = Planted(PlantedConfig(tail_fields=2)).batch(1, 0, 2)
  batch = type(planted_batch)(planted_batch.dense_bm, jnp.array([[1, 5], [1, 7]], jnp.int32), jnp.array([1.0, 0.0]), jnp.ones(2))
  out = per_id.update(state, batch, bias=-1.0)
  sigmoid = lambda x: 1 / (1 + math.exp(-x))  # noqa: E731
  q = sigmoid(-1.0)
  prec = 4 + q * (1 - q)
  w = (1 - q) / prec
  q2 = sigmoid(-1.0 + w)
  prec2 = prec + q2 * (1 - q2)
  w2 = w + (0 - q2) / prec2
  assert float(out[1, 0]) == pytest.approx(w2, rel=1e-5)
  assert float(out[per_id.ROWS + 5, 0]) == pytest.approx(w, rel=1e-5)
  assert float(out[1, 1]) == pytest.approx(prec2, rel=1e-6)
  np.testing.assert_allclose(per_id.predict(out, batch, -1.0)[0], -1 + w2 + w, rtol=1e-5)


def test_per_id_is_close_to_the_closed_form():
  planted = Planted(PlantedConfig(zipf_s=1.25))
  state = per_id.init(8, 0.5)
  for batch in planted.train_batches(0, 8192, 65536):
    state = per_id.update(state, batch, bias=-1.0)
  evaluation, truth = planted.batch(EVAL_STREAM, 0, 2**15)
  got = metrics.excess(np.asarray(per_id.predict(state, evaluation, -1.0), np.float64), np.asarray(truth.logit_b, np.float64))
  assert got == pytest.approx(theory.excess_ideal(65536, 1.25, planted.tau, 8), rel=0.08)


@pytest.mark.parametrize("start", [0, 64, 333, 500, 777])
def test_a_repeated_pass_has_its_examples_again(start: int):
  """300 examples three times over, in batches that go across the ends of passes, from any example on."""
  planted = Planted(PlantedConfig(pair_variance=0.2, dense_variance=0.2), epochs=3)
  once = list(Planted(planted.config).train_batches(7, 300, 300))
  got = list(planted.train_batches(7, 64, 900, start))
  assert [len(batch.label_b) for batch in got] == [64] * -(-(900 - start) // 64)
  kept = np.concatenate([np.asarray(batch.weight_b) for batch in got]) > 0
  for name in ("ids_bl", "dense_bm", "label_b"):
    wanted = np.tile(np.asarray(getattr(once[0], name)).T, 3).T[start:]
    np.testing.assert_array_equal(np.concatenate([np.asarray(getattr(batch, name)) for batch in got])[kept], wanted, err_msg=name)


def test_the_ideal_learner_learns_nothing_from_repeated_examples():
  run = RunConfig()
  again = dataclasses.replace(run, train=dataclasses.replace(run.train, num_examples=2**17, epochs=4))
  source = Planted(run.planted)
  assert ideal(again, source, 2**16) == ideal(run, source, 2**16)
  assert ideal(again, source, 2**19) == ideal(run, source, 2**17) > ideal(run, source, 2**19)
