# Everything happens in .venv. 'make' alone lists the targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SEEDS ?= 1,2,3,4,5

.DEFAULT_GOAL := help
.PHONY: help run test soak lint bench clean

help:  ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 8

run: $(VENV)/.base  ## install, and train ten peers on embedded data, over five seeds
	$(BIN)/coterie run --seed $(SEEDS)

test: $(VENV)/.dev  ## install the test tools, and run all tests
	$(BIN)/python -m pytest -n 2 --dist worksteal -q

soak: $(VENV)/.dev  ## kill, stop, split and fuzz real federations for minutes; a table at the end
	$(BIN)/python -m pytest -q -m soak

lint: $(VENV)/.dev  ## style, types, layers, and what protocols may not do
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tools/check_determinism.py

bench: $(VENV)/.dev  ## time rounds, rules, merges, the network, nodes and the chain, side by side with others (an hour)
	$(BIN)/python benchmarks/simulation.py
	$(BIN)/python benchmarks/aggregation.py
	$(BIN)/python benchmarks/merging.py
	$(BIN)/python benchmarks/network.py
	$(BIN)/python benchmarks/nodes.py
	$(BIN)/python benchmarks/discovery.py
	$(BIN)/python benchmarks/consensus.py

clean:  ## remove the environment and caches; runs stay
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist

$(VENV)/.base: pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.base
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@
