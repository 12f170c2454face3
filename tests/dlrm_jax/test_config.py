"""Configs refuse nonsense in one line, flags come from their fields, config_id is stable."""

import dataclasses

import pytest

from dlrm_jax.affects import IDENTITY, NUMBERS, RATE, RESUMABLE, SEED, TOGETHER, Affects, fields_of
from dlrm_jax.common import flags
from dlrm_jax.config import MeshConfig, ModelConfig, PlantedConfig, RunConfig, StepSettings, TrainConfig
from dlrm_jax.identity import alike, base_id, config_id
from dlrm_jax.presets import PRESETS


def parse(*words: str) -> RunConfig:
  return flags.parse(["train", *words], RunConfig, PRESETS)


def test_flags_build_the_nested_config():
  got = parse("--embed_dim=4", "--bottom=16,4", "--overarch=8,1", "--num_examples=1e6", "--planted_zipf_s=1.25", "--data=somewhere")
  assert got.model == ModelConfig(embed_dim=4, bottom=(16, 4), overarch=(8, 1))
  assert got.train == TrainConfig(num_examples=1_000_000)
  assert got.planted == PlantedConfig(zipf_s=1.25)
  assert got.data == "somewhere"


def test_flags_override_a_preset_and_leave_the_rest():
  got = parse("--preset=criteo_kaggle", "--batch_size=256")
  expected = PRESETS["criteo_kaggle"]
  assert got == dataclasses.replace(expected, train=dataclasses.replace(expected.train, batch_size=256))


def test_interdependent_flags_are_checked_together():
  """embed_dim and bottom each contradict the preset's other value; given together they are fine."""
  got = parse("--preset=criteo_kaggle", "--embed_dim=8", "--bottom=32,8")
  assert (got.model.embed_dim, got.model.bottom) == (8, (32, 8))


@pytest.mark.parametrize(
  ("word", "message"),
  [
    ("--embed_dim=0", "--embed_dim=0: must be at least 1"),
    ("--embed_dim=four", "flag --embed_dim=four: expected an integer"),
    ("--overarch=64,2", "--overarch=64,2: must be widths ending in 1 (one click logit)"),
    ("--bottom=64,5", "--bottom=64,5: must be widths ending in embed_dim=8"),
    ("--interaction=cross", "--interaction=cross: must be among dot, dcn_v2"),
    ("--overarch_inputs=dense,squares", "--overarch_inputs=dense,squares: must be among dense, dots, rows, first_order"),
    ("--planted_zipf_s=1", "--planted_zipf_s=1.0: must be above 1, at most 3 (at 1 the ids have no distribution)"),
    ("--num_rows=1", "--num_rows=1: must be from 2 to 2147483647"),
    (
      "--preset=huge",
      "--preset=huge: must be among small, click_log, tiny, criteo_kaggle, criteo_1tb, paper_cluster, mlperf_v1, mlperf_v2",
    ),
    ("--batchsize=3", "Unknown command line flag 'batchsize'. Did you mean: batch_size ?"),
    ("extra", "unexpected argument 'extra': flags are written --name=value"),
    ("--table_lr=nan", "flag --table_lr=nan: expected a finite number"),
    ("--num_examples=1e400", "flag --num_examples=1e400: expected an integer or all"),
    ("--table_lr=0", "--table_lr=0.0: must be above 0"),
  ],
)
def test_bad_flags_give_one_line(word: str, message: str):
  with pytest.raises(flags.UserError) as error:
    parse(word)
  assert str(error.value) == message


def test_required_flags_are_asked_for():
  @dataclasses.dataclass(frozen=True)
  class Needs:
    source: str = flags.option(help="where from")

  with pytest.raises(flags.UserError, match=r"^--source is required: where from$"):
    flags.parse(["x"], Needs)
  assert flags.parse(["x", "--source=here"], Needs) == Needs("here")


def test_help_names_every_flag(capsys: pytest.CaptureFixture[str]):
  with pytest.raises(SystemExit) as stop:
    parse("--help")
  assert stop.value.code == 0
  shown = capsys.readouterr().out
  for config in (ModelConfig, TrainConfig, PlantedConfig, RunConfig):
    for field in dataclasses.fields(config):
      if "help" in field.metadata:
        assert f"--{getattr(config, 'PREFIX', '')}{field.name}:" in shown


def test_config_id_is_golden():
  """Records on disk are found by these: a change here orphans every run made before."""
  assert config_id(RunConfig()) == "91a119c10209f44b"
  assert (
    config_id(RunConfig(model=ModelConfig(embed_dim=4), train=TrainConfig(seed=3), planted=PlantedConfig(zipf_s=1.25)))
    == "c60f234b43b0de35"
  )
  assert config_id(RunConfig(data="somewhere"), "digest") == "ad5c2f7fe553511f"


def test_config_id_follows_what_changes_the_numbers_only():
  base = RunConfig()
  same = [
    dataclasses.replace(base, workdir="elsewhere"),
    dataclasses.replace(base, model=ModelConfig(embed_dim=ModelConfig().embed_dim)),
  ]
  other = [
    dataclasses.replace(base, train=TrainConfig(seed=1)),
    dataclasses.replace(base, model=ModelConfig(rows_by="hash")),
    dataclasses.replace(base, planted=PlantedConfig(seed=1)),
    dataclasses.replace(base, data="somewhere"),
  ]
  assert {config_id(c) for c in same} == {config_id(base)}
  assert len({config_id(c) for c in [base, *other]}) == 5
  data = RunConfig(data="here")
  assert (
    config_id(data, "a") == config_id(dataclasses.replace(data, data="there", planted=PlantedConfig(seed=9)), "a") != config_id(data, "b")
  )


def test_how_a_run_is_computed_does_not_name_it():
  """Kernels and steps a call change roundings, not what is trained."""
  assert config_id(RunConfig(kernels="xla", steps_per_call=8)) == config_id(RunConfig())
  mesh = MeshConfig("2", device_memory_gib=3.0)
  assert config_id(RunConfig(mesh=mesh)) == config_id(RunConfig(mesh=MeshConfig("2"))) != config_id(RunConfig())


def test_processes_name_a_run_on_a_data_set_only():
  """They change the order of its examples."""
  several = RunConfig(num_processes=2, coordinator="auto")
  assert config_id(several) == config_id(RunConfig())
  assert config_id(dataclasses.replace(several, data="here"), "a") != config_id(RunConfig(data="here"), "a")


@pytest.mark.parametrize("config", [ModelConfig, TrainConfig, PlantedConfig, MeshConfig, RunConfig])
def test_every_field_states_what_it_affects(config: type):
  """A TypeError names the field that does not, and says how to declare it."""
  own = [field.name for field in dataclasses.fields(config) if not dataclasses.is_dataclass(field.type)]
  assert fields_of(config, list(Affects)) == own


def test_a_field_that_does_not_state_what_it_affects_is_named():
  @dataclasses.dataclass(frozen=True)
  class Longer(TrainConfig):
    momentum: float = flags.option(0.0, "of the dense optimiser")

  message = (
    r"^Longer\.momentum does not state what it affects: declare it with NUMBERS\.option\(\.\.\.\), or with another of affects\.Affects$"
  )
  with pytest.raises(TypeError, match=message):
    fields_of(Longer, [NUMBERS])


def test_lists_of_fields_follow_what_the_fields_affect():
  assert fields_of(TrainConfig, TOGETHER) == ["seed", "table_lr", "dense_lr", "decay_examples"]
  assert fields_of(TrainConfig, RESUMABLE) == ["num_examples", "epochs", "eval_examples", "eval_split", "first_eval", "evals_per_octave"]
  assert fields_of(ModelConfig, RESUMABLE) == fields_of(PlantedConfig, RESUMABLE) == []
  assert fields_of(MeshConfig, IDENTITY) == ["mesh", "placement", "parallelism"]
  assert fields_of(TrainConfig, IDENTITY) == fields_of(TrainConfig, list(Affects))  # no setting of training may lack in config_id
  train = TrainConfig(seed=3, table_lr=0.5, dense_lr=0.4, batch_size=7)
  assert alike(train, RATE) == TrainConfig(seed=3, batch_size=7) and alike(train, SEED, RATE) == TrainConfig(batch_size=7)


def test_the_name_of_a_base_is_golden_whatever_seed_and_length():
  """sweep.json holds it: a change here keeps every sweep begun before from going on."""
  run = RunConfig(train=TrainConfig(seed=5, num_examples=77, table_lr=0.5))
  assert base_id(run) == base_id(RunConfig(train=TrainConfig(table_lr=0.5))) == "b2e9646167a25712"
  assert base_id(run) != base_id(RunConfig()) != config_id(RunConfig())


def test_the_settings_of_a_step_have_no_learning_rate_and_no_seed():
  train = TrainConfig(seed=3, table_lr=0.5, batch_size=7, table_optimizer="sgd")
  assert train.step_settings() == StepSettings(batch_size=7, table_optimizer="sgd")
  for name in ("seed", "table_lr", "dense_lr", "num_examples", "order"):
    with pytest.raises(AttributeError):
      getattr(train.step_settings(), name)


def test_a_field_of_the_run_itself_is_not_hashed():
  """`config_id` reads the nested configs alone: a setting that changes numbers belongs into one of them."""
  assert fields_of(RunConfig, IDENTITY) == [], "move the field into ModelConfig, TrainConfig, PlantedConfig or MeshConfig"
