# Two commands are enough: make demo, make test. VENV=DIR puts the virtual environment elsewhere.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
FOLD ?= 3
ARGS ?=
MODEL ?=
# Installed anew when the dependencies or the place of the checkout change.
STAMP := $(VENV)/.covidnet-$(shell (pwd; cat pyproject.toml) | cksum | cut -d' ' -f1)

export NO_ALBUMENTATIONS_UPDATE = 1
# Without compiled files on disk, pytest would rewrite every assertion of the tests anew in each run and each worker.
export PYTHONDONTWRITEBYTECODE =

.PHONY: help install demo fold sweep test test-all lint check format docs bundle clean
.DEFAULT_GOAL := help

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 10

install: $(STAMP)  ## virtual environment and dependencies (made by the other targets by themselves)

$(STAMP): pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing covidnet and its dependencies into $(VENV) (minutes the first time)"
	@$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@rm -f $(VENV)/.covidnet-*; touch $(STAMP)

demo: $(STAMP)  ## one fold of a small study on synthetic radiographs; prints where the run folder is
	@$(BIN)/python -m covidnet.train experiment=demo $(ARGS)

fold: $(STAMP)  ## one fold: make fold FOLD=3 ARGS='data=folder data.root=DIR'
	@$(BIN)/python -m covidnet.train fold=$(FOLD) $(ARGS)

sweep: $(STAMP)  ## the ten folds of the small study and their report: make sweep ARGS='experiment=paper'
	@$(BIN)/python -m covidnet.train -m 'fold=range(0,10)' experiment=demo $(ARGS)

test: $(STAMP)  ## what a change usually breaks, in minutes, offline: the tests that are not marked slow
	@$(BIN)/python -m pytest -q -n 2 --dist worksteal -m 'not slow' $(ARGS)

test-all: $(STAMP)  ## all tests, with those marked slow
	@$(BIN)/python -m pytest -q -n 2 --dist worksteal $(ARGS)

lint: $(STAMP)  ## style, types, and the direction of imports
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/lint-imports

check: lint test-all  ## what the continuous integration runs

format: $(STAMP)  ## put the style right
	@$(BIN)/ruff check --fix-only --quiet . ; $(BIN)/ruff format .

docs: $(STAMP)  ## the documentation as a site in site/; fails on a broken link or on code that does not run
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@$(BIN)/python -m pytest -q tests/test_docs.py tests/test_readme.py -k 'not site'
	@echo "open site/index.html"

bundle: $(STAMP)  ## an archive that installs covidnet and a model without a network: make bundle MODEL=model.onnx
	@$(BIN)/python deploy/bundle.py $(MODEL) $(ARGS)

clean:  ## remove what runs and builds leave behind, and .venv
	rm -rf .venv outputs multirun site build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
	find . -name __pycache__ -prune -exec rm -rf {} +
