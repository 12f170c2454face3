# The commands of this project; `make demo` or `make test` can be the first thing run in a fresh clone.
PYTHON ?= python3
# One environment per Python, so that `make test PYTHON=python3.13` leaves .venv alone.
VENV := .venv$(if $(filter-out python3,$(PYTHON)),-$(notdir $(PYTHON)))
BIN := $(VENV)/bin
DEMO := runs/demo

STUDY := runs/study

.PHONY: demo study study-tables test test-slow test-slurm test-lean lint fast-tests map peers constraints clean .venv

demo: $(VENV)/.installed  ## the quick study on planted data, on this machine
	$(BIN)/python -m sweeps.run --preset=quick --workdir=$(DEMO)
	$(BIN)/python -m analysis.report --workdir=$(DEMO)

# With MOVIELENS=FILE, a Parquet file with the columns of analysis/study/movielens.toml, that part of the study is run again, too.
study: $(VENV)/.installed  ## the study of analysis/STUDY.md, trained again; goes on where it stopped
	set -e; for preset in paper paper_tail paper_hash; do \
	  $(BIN)/python -m sweeps.run --preset=$$preset --launcher=local --workdir=$(STUDY)/$$preset; \
	  $(BIN)/python -m analysis.kept --workdir=$(STUDY)/$$preset --output=analysis/study/$$preset.parquet; \
	done
	set -e; for preset in paper_tail paper_hash; do \
	  $(BIN)/python -m sweeps.run --preset=$$preset --axes=rows --judge=False --lr_factors=1 --planted_tail_sigma=0.125 \
	    --axis_examples=16777216 --sizes_rows=10,30,100,300,1000 --launcher=local --workdir=$(STUDY)/$${preset}_half; \
	  $(BIN)/python -m analysis.kept --workdir=$(STUDY)/$${preset}_half --output=analysis/study/$${preset}_half.parquet; \
	done
	$(BIN)/python -m sweeps.run --preset=paper --axes=batch_size --sizes_batch_size=64,128,256,512,1024,2048 --lr_factors=0.25,0.5,1,2,4 \
	  --num_examples=262144 --axis_examples=262144 --seeds=2 --launcher=local --workdir=$(STUDY)/rates_batch
	$(BIN)/python -m analysis.kept --workdir=$(STUDY)/rates_batch --output=analysis/study/rates_batch.parquet
	$(BIN)/python -m sweeps.run --preset=epochs --launcher=local --workdir=$(STUDY)/epochs
	$(BIN)/python -m analysis.kept --workdir=$(STUDY)/epochs --output=analysis/study/epochs.parquet
ifdef MOVIELENS
	test -e $(STUDY)/movielens-1m/dataset.json || $(BIN)/python -m dlrm_jax.data.prepare --format=parquet --input=$(MOVIELENS) \
	  --schema=analysis/study/movielens.toml --output=$(STUDY)/movielens-1m
	$(BIN)/python -m sweeps.run --preset=paper_click_log --data=$(STUDY)/movielens-1m --launcher=local --workdir=$(STUDY)/movielens
	$(BIN)/python -m analysis.kept --workdir=$(STUDY)/movielens --output=analysis/study/movielens.parquet
	$(BIN)/python -m sweeps.run --preset=epochs_click_log --order=shuffled --data=$(STUDY)/movielens-1m --launcher=local \
	  --workdir=$(STUDY)/epochs_movielens
	$(BIN)/python -m analysis.kept --workdir=$(STUDY)/epochs_movielens --output=analysis/study/epochs_movielens.parquet
endif
	$(BIN)/python -m analysis.publish

study-tables: $(VENV)/.installed  ## the tables and figures of analysis/STUDY.md from the records that are kept
	$(BIN)/python -m analysis.publish

test: lint fast-tests  ## lint, types and the fast tests

test-slow: test  ## the tests that take longer, too
	$(BIN)/python -m pytest -n auto --dist=worksteal -m slow

test-slurm: $(VENV)/.installed  ## the launcher on a Slurm cluster that the tests start on this machine (Debian: slurm-wlm, munge)
	$(BIN)/python -m pytest -m slurm

# The tests that need no extra, in an environment that has none. PYTHON_LEAN must be Python 3.12.
PYTHON_LEAN ?= python3.12
LEAN_TESTS := tests/dlrm_jax/embedding tests/dlrm_jax/model tests/dlrm_jax/machine --ignore=tests/dlrm_jax/machine/test_mesh.py \
  tests/dlrm_jax/training/test_runs.py tests/dlrm_jax/training/test_checkpoint.py tests/benchmarks/test_accelerator.py \
  tests/benchmarks/test_bench_step.py tests/benchmarks/test_bench_lookup.py tests/benchmarks/test_bench_collectives.py \
  tests/benchmarks/test_profile.py tests/benchmarks/test_peaks.py tests/analysis/test_fit.py

test-lean: .venv-lean/.installed  ## the core without extras, with the versions of constraints-lean.txt
	.venv-lean/bin/python -m pytest -o filterwarnings=error -n auto --dist=worksteal -m "not slow" $(LEAN_TESTS)

.venv-lean/.installed: pyproject.toml constraints-lean.txt
	@echo "installing into .venv-lean: a minute, 1 GB"
	$(PYTHON_LEAN) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 12) and "Python 3.12 is needed, this is " + sys.version)'
	$(PYTHON_LEAN) -m venv .venv-lean
	.venv-lean/bin/python -m pip install --disable-pip-version-check --quiet --constraint constraints-lean.txt --editable . pytest pytest-xdist
	@touch $@

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo --no-cache || { echo "an import points the wrong way: move the code up, or what it needs down ([tool.importlinter] in pyproject.toml has the layers)"; exit 1; }
	$(BIN)/mypy

fast-tests: $(VENV)/.installed
	$(BIN)/python -m pytest -n auto --dist=worksteal -m "not slow"

map: $(VENV)/.installed  ## the map of WORKSPACE.md, from the first sentence of each file
	$(BIN)/python tests/helpers/workspace_map.py

.venv: $(VENV)/.installed  ## the environment alone

$(VENV)/.installed: pyproject.toml constraints.txt
	@echo "installing into $(VENV): one to three minutes, 2 GB"
	$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14) and "Python 3.11 to 3.13 is needed, this is " + sys.version)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt --editable '.[tpu,dev]'
	@touch $@

peers: .venv-peers/.installed  ## the environment of the libraries that benchmarks.peers compares with

.venv-peers/.installed: benchmarks/peers/requirements.txt
	@echo "installing into .venv-peers: one to five minutes, 2 GB (more where torch comes with CUDA)"
	$(PYTHON) -m venv .venv-peers
	.venv-peers/bin/python -m pip install --disable-pip-version-check --quiet torch==2.13.0 --requirement $<
	.venv-peers/bin/python -m pip install --disable-pip-version-check --quiet --no-deps fbgemm_gpu_cpu==1.8.0 torchrec==1.8.0
	@touch $@

constraints: $(VENV)/.installed  ## writes constraints.txt anew: names and versions only
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-header --no-annotate --all-extras pyproject.toml --output-file constraints.txt --upgrade

clean:
	rm -rf runs .pytest_cache .mypy_cache .ruff_cache
