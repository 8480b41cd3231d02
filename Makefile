# make train: train the digits on two CPU ranks.  make test: lint, types and all tests.  Both make .venv first.
PYTHON ?= python3
# The versions that were tested; CONSTRAINTS= takes whatever the index has (torch 2.11 or newer).
CONSTRAINTS ?= requirements.lock
BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest

.PHONY: train test test-quick test-long lint install lock clean

train: install
	$(BIN)/dist-train train configs/digits.yaml --nproc 2 distributed.backend=gloo

test: lint
	$(PYTEST) -m "not long and not gpu"

test-quick: lint
	$(PYTEST) -m "not slow and not long and not gpu"

test-long: install
	$(PYTEST) -m long

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
	rm -rf .venv build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
