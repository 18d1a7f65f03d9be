# losslab's commands. Each is one that a reader could type; `make help` lists them.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
PYTHON ?= python3
BIN := .venv/bin
EXPERIMENT ?= experiments/cnn.yaml
NAME ?= $(basename $(notdir $(EXPERIMENT)))
STUDY ?= gamma
DATA ?=
WORKERS ?=
ARGS ?=
OPTIONS = $(if $(DATA),--data.root $(DATA)) $(ARGS)
SWEEP = $(OPTIONS) $(if $(WORKERS),--workers $(WORKERS))

.DEFAULT_GOAL := help
.PHONY: help setup fit results report runs test test-fast test-slow bench bench-gpu lint format clean

help:  ## list the commands
	@awk 'BEGIN {FS = ":.*  ## "} /^[a-z%-]+:.*  ## / {printf "  make %-20s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "  EXPERIMENT=experiments/mlp.yaml  DATA=folder that holds MNIST/raw/  ARGS='--trainer.max_epochs 1'"
	@echo "  NAME=run  STUDY=gamma  WORKERS=4"

setup: .venv/ready  ## make .venv and install losslab with its pinned dependencies

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "losslab needs Python 3.11 or newer")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[track,dev]'
	@touch $@

fit: setup  ## train one experiment, then test it once
	$(BIN)/losslab fit --config $(EXPERIMENT) $(OPTIONS) --name $(NAME)
	$(BIN)/losslab test --run runs/$(NAME) $(if $(DATA),--data.root $(DATA))

sweep-%: setup  ## the study of sweeps/%.yaml; the main job is gamma: what does it do to each digit's precision and recall?
	$(BIN)/losslab sweep --config sweeps/$*.yaml $(SWEEP)

results: setup  ## write experiments/RESULTS.md and the README's table again from the kept records
	$(BIN)/python -m experiments.results

results-%: setup  ## sweep, confirm and keep studies, or simulate verdicts: % is gamma, losses, own, course, networks, unlimited, from-scratch or statistics
	@$(MAKE) --no-print-directory -f experiments/results/Makefile $@

report: setup  ## write a study's page, runs/STUDY/report.html, again
	$(BIN)/losslab report runs/$(STUDY) $(ARGS)

runs: setup  ## list the runs and their headline numbers
	$(BIN)/losslab runs

# Two at a time: each test has one thread (tests/conftest.py).
test: setup  ## all tests but the slow ones (under 10 minutes on 2 cores; ARGS='-n 8' for more at a time)
	$(BIN)/pytest -m 'not slow' -n 2 --dist worksteal $(ARGS)

test-fast: setup  ## the quicker tests (under 2 minutes on 2 cores)
	$(BIN)/pytest -m 'not slow' -n 2 tests/data tests/losses tests/metrics tests/report $(ARGS)

test-slow: setup  ## the slow tests
	$(BIN)/pytest -m slow $(ARGS)

bench: setup  ## measure losslab's speed and write tests/benchmarks/RESULTS.md (20 minutes; ARGS='epochs' for one table)
	$(BIN)/python tests/benchmarks/bench.py $(ARGS)

# Without setup and network: $(PYTHON) has torch, torchvision, torchmetrics and lightning, and PYTHONPATH the rest.
bench-gpu:  ## try and measure losslab on a GPU within 10 minutes, into OUT=folder (PYTHON=.venv/bin/python after setup)
	$(PYTHON) tests/benchmarks/gpu.py $(if $(OUT),$(OUT),$(error give the folder of the results: make bench-gpu OUT=folder))

lint: setup  ## formatting, style and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: setup  ## put the formatting right
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:  ## delete .venv and caches; runs/ and data/ stay
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache
