# make demo    trains the built-in default on a fresh machine and shows its answers
# make real    tunes a small real model on real rows, some minutes on two cores, and shows what changed
# make test    runs the tests
# make long    what takes longer than the tests: tests/long, and the properties of the data contract over 10,000 examples
# make soak    proves that training survives: trainings killed at some hundred places, disks that refuse, damaged files;
#              a quarter of an hour, one line of JSON a case in results/soak.jsonl (make soak SHARE=0.1: a part of it)
# make .venv-helm   what eval=helm needs, in an environment of its own
# make check   format, lint, types, imports, tests: what a commit must pass
PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
# a file stays with one worker, which has made its fixtures; tests/conftest.py says which begin
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest
TEST := $(PYTEST) -n auto --dist loadfile --no-loadscope-reorder --ignore tests/long

.PHONY: demo real test check long soak format clean .venv-helm

demo: .venv/core
	$(BIN)/python train.py

real: .venv/real
	$(BIN)/ift real

test: .venv/test
	$(TEST)

check: .venv/dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(TEST)

long: .venv/test
	$(PYTEST) tests/long
	IFT_EXAMPLES=10000 $(PYTEST) tests/test_bad_files.py -k "every_row or tokens_with_a_loss"

SHARE ?= 1
soak: .venv/test
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.soak --share $(SHARE)

format: .venv/dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "ift needs Python 3.11 or newer: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv

.venv/core: .venv/bin/python pyproject.toml constraints.txt
	@echo "installing into .venv (a minute or two the first time)"
	$(INSTALL) --editable .
	@touch $@

.venv/real: .venv/bin/python pyproject.toml constraints.txt
	@echo "installing into .venv (a minute or two the first time)"
	$(INSTALL) --editable ".[real]"
	@touch $@ .venv/core

.venv/test: .venv/bin/python pyproject.toml constraints.txt
	@echo "installing into .venv (a minute or two the first time)"
	$(INSTALL) --editable ".[test]"
	$(INSTALL) --no-deps llms-from-scratch evals  # what these ask for (TensorFlow, Jupyter, Snowflake) is not needed
	@touch $@ .venv/core .venv/real

.venv/dev: .venv/test
	$(INSTALL) --editable ".[dev]"
	@touch $@

# HELM pins versions that we do not: it gets an environment of its own (eval=helm says when it is needed)
.venv-helm: .venv-helm/bin/helm-run

.venv-helm/bin/helm-run:
	$(PYTHON) -m venv .venv-helm
	@echo "installing HELM into .venv-helm (some minutes)"
	.venv-helm/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0  # the build that .venv has
	.venv-helm/bin/python -m pip install --quiet --disable-pip-version-check crfm-helm==0.5.16

clean:
	rm -rf .venv .venv-helm build src/*.egg-info
