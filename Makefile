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
.PHONY: help setup fit sweep-gamma sweep-architecture results results-gamma results-losses results-course results-networks results-unlimited results-from-scratch report runs test test-fast test-slow bench lint format clean

help:  ## list the commands
	@awk 'BEGIN {FS = ":.*  ## "} /^[a-z-]+:.*  ## / {printf "  make %-20s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
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

sweep-gamma: setup  ## the main job: what does focal's gamma do to each digit's precision and recall?
	$(BIN)/losslab sweep --config sweeps/gamma.yaml $(SWEEP)

sweep-architecture: setup  ## search over four networks, gamma and the learning rate
	$(BIN)/losslab sweep --config sweeps/architecture.yaml $(SWEEP)

results: setup  ## write experiments/RESULTS.md and the README's table again from the kept records
	$(BIN)/python experiments/results.py

# A study: swept, confirmed on fresh seeds, kept. What is finished is not trained again, nor are its test images read.
TAIL = --data.permute_ranks true --data.imbalance
define study  # name, study file, the confirmation's options, the sweep's options
	$(BIN)/losslab sweep --config sweeps/$(2).yaml --name $(1) $(4) $(OPTIONS) --workers $(or $(WORKERS),2)
	test -e runs/$(1)/confirm/summary.csv || $(BIN)/losslab confirm runs/$(1) --top all --seeds 10 $(3) $(OPTIONS) --workers $(or $(WORKERS),2)
	$(BIN)/python experiments/results.py keep runs/$(1)
endef

results-gamma: setup  ## focal's gamma on balanced, long-tailed and wrongly labelled MNIST, kept (about 25 minutes on 2 cores)
	$(call study,focal-balanced,focal,,)
	$(call study,focal-tail-0.1,focal,--population 70,$(TAIL) 0.1 --trainer.max_epochs 11)
	$(call study,focal-tail-0.01,focal,--population 70,$(TAIL) 0.01 --trainer.max_epochs 18)
	$(call study,focal-noise-0.1,focal,--population 70,--data.label_noise 0.1)
	$(call study,focal-noise-0.3,focal,--population 70,--data.label_noise 0.3)
	$(call study,focal-embedded,focal,,--data.source embedded)

# --again: focal loss with gamma = 2 is in the studies above too, where the same runs may have been read.
results-losses: setup  ## every loss on balanced, long-tailed and wrongly labelled MNIST, kept (about 35 minutes on 2 cores)
	$(call study,losses-balanced,losses,--again,)
	$(call study,losses-tail-0.01,losses,--again,$(TAIL) 0.01 --trainer.max_epochs 18)
	$(call study,losses-noise-0.3,losses,--again,--data.label_noise 0.3)

results-course: setup  ## the course report's experiments: running accuracy, parameters, an ablation (20 minutes)
	$(call study,course-mlp,course_mlp,,)
	$(call study,cnn-ablation,cnn_ablation,--seeds 6,)
	$(call study,parameters,parameters,--seeds 6,)

NETWORK = $(call study,network-$(1),focal_networks,--seeds 6,--experiment experiments/$(2).yaml $(TAIL) 0.01 $(3))
results-networks: setup  ## gamma on a long tail with four networks (25 minutes)
	$(call NETWORK,mlp,mlp_64,--trainer.max_epochs 18)
	$(call NETWORK,cnn,cnn,--trainer.max_epochs 6)
	$(call NETWORK,separable-cnn,separable_cnn,--trainer.max_epochs 6)
	$(call NETWORK,resnet,resnet,--trainer.max_epochs 6)

results-unlimited: setup  ## separable convolutions, residual blocks, augmentation, ensembles (40 minutes)
	$(call study,unlimited,unlimited,--seeds 5,)

results-from-scratch: results-gamma results-losses results  ## both, and the page (an hour on 2 cores)

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

bench: setup  ## measure losslab's speed and write tests/benchmarks/RESULTS.md (30 minutes; ARGS='epochs' for one table)
	$(BIN)/python tests/benchmarks/bench.py $(ARGS)

lint: setup  ## formatting, style and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: setup  ## put the formatting right
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:  ## delete .venv and caches; runs/ and data/ stay
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache
