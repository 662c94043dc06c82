PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

KILLS ?= 20
SEEDS ?= 2

.PHONY: help install demo lint format typecheck test test-slow soak bands test-gpu gpu-day bench reference dist check clean

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

lint: $(STAMP)  ## Check style, and that rooms import only rooms below them.
	$(BIN)/ruff check ixt tests
	$(BIN)/ruff format --check ixt tests
	$(BIN)/lint-imports

format: $(STAMP)  ## Put the code into the house style.
	$(BIN)/ruff format ixt tests
	$(BIN)/ruff check --fix ixt tests

typecheck: $(STAMP)  ## Check the types of ixt and of the tests.
	$(BIN)/mypy

test: lint typecheck  ## Lint, types and the CPU test suite.
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -n 2 --dist loadfile

test-slow: $(STAMP)  ## Whole runs on several processes and machines, wide sweeps; an hour or two.
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -m slow

soak: $(STAMP)  ## Kill a run KILLS times and compare every bit with one left in peace.
	$(BIN)/python tests/soak/soak.py --kills $(KILLS)
	$(BIN)/python tests/soak/soak.py --kills 9 --world-sizes 1,2,1
	$(BIN)/python tests/soak/soak.py --kills 18 --teacher
	$(BIN)/python tests/soak/soak.py --kills 18 --teacher --world-sizes 1,2,1
	PYTHONPATH=tests/support $(BIN)/python tests/soak/bucket_soak.py --kills $(KILLS)

bands: $(STAMP)  ## Train SEEDS seeds of each convergence band again, and compare.
	$(BIN)/python tests/bands/bands.py demo --check --seeds $(SEEDS)
	$(BIN)/python tests/bands/bands.py demo_finetune --check --seeds $(SEEDS)

test-gpu: $(STAMP)  ## The tests that need a CUDA device.
	$(BIN)/pytest -q -m gpu

gpu-day: $(STAMP)  ## Rehearse on a CPU what a GPU is asked for in an hour (tests/gpu/day.py).
	for slice in a b c d; do $(BIN)/python tests/gpu/day.py --slice $$slice --out rehearsal --rehearse || exit 1; done
	$(BIN)/python tests/gpu/day.py report rehearsal

bench: $(STAMP)  ## The benchmarks that need no GPU: augmentation, evaluation, checkpoints, start-up.
	OMP_NUM_THREADS=1 $(BIN)/python tests/benchmarks/augment.py
	$(BIN)/python tests/benchmarks/evaluate.py
	$(BIN)/python tests/benchmarks/checkpoint_stall.py
	$(BIN)/python tests/benchmarks/startup.py

reference: $(STAMP)  ## Write recipes/README.md and ixt/cli/README.md anew from the code.
	$(BIN)/python tests/support/reference.py

dist: $(STAMP)  ## Make the source archive and the wheel, in dist/.
	rm -rf dist
	$(BIN)/python -m build --outdir dist

check: test  ## The same as test.

clean:  ## Remove what the targets made, but not runs.
	rm -rf $(VENV) demo-data .mypy_cache .pytest_cache .ruff_cache
