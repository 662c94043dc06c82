PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help install demo lint format typecheck test test-gpu check clean

help:  ## Show the targets.
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-10s %s\n", $$1, $$2}'

install: $(STAMP)  ## Make .venv and install ixt with everything that development needs.

$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q -U pip
	$(BIN)/pip install -q -e '.[dev]'
	touch $@

demo: $(STAMP)  ## Write a small real image set, train on it, print its top-1.
	$(BIN)/ixt data demo demo-data
	rm -rf runs/demo
	$(BIN)/ixt train recipes/demo.yaml --data demo-data --run-dir runs/demo
	$(BIN)/ixt eval runs/demo --data demo-data
	@echo "Next:  $(BIN)/ixt predict runs/demo demo-data/val/*/*.jpeg --top 1"
	@echo "       $(BIN)/ixt train recipes/inceptionnext_tiny.yaml --data /path/to/imagenet"

lint: $(STAMP)  ## Check style.
	$(BIN)/ruff check ixt tests
	$(BIN)/ruff format --check ixt tests

format: $(STAMP)  ## Put the code into the house style.
	$(BIN)/ruff format ixt tests
	$(BIN)/ruff check --fix ixt tests

typecheck: $(STAMP)  ## Check types.
	$(BIN)/mypy

test: lint typecheck  ## Lint, types and the CPU test suite.
	$(BIN)/pytest -q

test-gpu: $(STAMP)  ## The tests that need a CUDA device.
	$(BIN)/pytest -q -m gpu

check: test  ## The same as test.

clean:  ## Remove what the targets made, but not runs.
	rm -rf $(VENV) demo-data .mypy_cache .pytest_cache .ruff_cache
