# The few commands there are. `make` alone lists them.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
STAMP := $(VENV)/.frameloom-ready

.DEFAULT_GOAL := help
.PHONY: help demo test test-all lint bench clean

help:  ## list these commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

demo: $(STAMP)  ## make a small captioned collection, run every stage on it, ask it questions
	$(BIN)/frameloom demo

test: $(STAMP)  ## the test suite (under 8 minutes on 2 cores)
	$(BIN)/python -m pytest -q -n auto --dist loadfile $(PYTEST_ARGS)

test-all: $(STAMP)  ## the test suite and the slow tests: kill sweeps, the demo over three seeds, the published sizes
	$(BIN)/python -m pytest -q -n auto --dist loadfile -m "slow or not slow" --timeout=3000 $(PYTEST_ARGS)

lint: $(STAMP)  ## ruff and mypy, both strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@mkdir -p .mypy_path && ln -sfn .. .mypy_path/frameloom
	MYPYPATH=.mypy_path $(BIN)/python -m mypy -p frameloom

bench: $(STAMP)  ## the committed benchmarks (CLIPS=FOLDER for extraction from your own files)
	$(BIN)/python -m pytest -q tests/benchmarks -m "slow or not slow" -s --timeout=3000
	$(BIN)/python tests/benchmarks/extract.py $(CLIPS)

clean:  ## remove caches (not the environment)
	rm -rf .mypy_cache .mypy_path .pytest_cache .ruff_cache .hypothesis build dist

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	@echo "installing frameloom and its libraries into $(VENV) (a few minutes, about 6 GB) ..."
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $(STAMP)
