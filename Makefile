# make train: train the digits on two CPU ranks.  make test: lint, types and all tests.  Both make .venv first.
PYTHON ?= python3
# The versions that were tested; CONSTRAINTS= takes whatever the index has (torch 2.11 or newer).
CONSTRAINTS ?= requirements.lock
BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest
# Tests side by side: one more than two cores, as some tests wait. WORKERS=0 runs all in one process.
WORKERS ?= 3
PARALLEL := -n $(WORKERS) --durations=20

.PHONY: train test test-quick test-matrix test-long torture test-slurm test-slurm-long bench gpu-check lint install lock clean

train: install
	$(BIN)/dist-train train configs/digits.yaml --nproc 2 distributed.backend=gloo

test: lint
	$(PYTEST) $(PARALLEL) -m "not long and not gpu and not slurm and not slurm_long"

test-quick: lint
	$(PYTEST) $(PARALLEL) -m "not slow and not long and not gpu and not slurm and not slurm_long"

# The quick tests on each supported Python, with the oldest and the newest supported torch.
test-matrix:
	.ci/matrix

test-long: install
	$(PYTEST) -m long

# Feed damaged input of every kind to the program, for 8 minutes; ARGS=--quick takes one.
torture: install
	$(BIN)/python -m tests.torture $(ARGS)

# On a real Slurm, started on this machine: root of a Debian, or they are skipped. The long one has all of them.
test-slurm: install
	$(PYTEST) -m "slurm and not slurm_long" tests/slurm

test-slurm-long: install
	$(PYTEST) tests/slurm

# Compare with other frameworks; needs $DIST_TRAIN_DATA. BENCH=--quick takes less than five minutes; see benchmarks/README.md.
bench: install
	$(BIN)/python -m benchmarks.compare.bench $(BENCH)

# Check a GPU: needs torch and a few packages, which it names, and no network. ARGS=--allow-cpu runs it without a GPU.
gpu-check:
	$(or $(wildcard $(BIN)/python),$(PYTHON)) -m benchmarks.gpu.check $(ARGS)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

install: .venv/installed

.venv/installed: pyproject.toml $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or newer is needed: make PYTHON=...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet $(addprefix --constraint ,$(CONSTRAINTS)) --editable '.[test]'
	@touch $@

# Write down what is installed, as the versions that were tested.
lock: install
	$(BIN)/python -m pip freeze --exclude-editable > requirements.lock

clean:
	rm -rf .venv .venv-bench .venv-matrix build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
