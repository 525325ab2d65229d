# make help lists the targets. The environment is .venv; PYTHON chooses the interpreter that makes it.
PYTHON ?= python3
PIP_ARGS ?=
EXTRAS ?= dev
SCALE ?= smoke
JOBS ?= 2
PYTEST_ARGS ?= -n 2 --dist loadfile

VENV := .venv
BIN := $(VENV)/bin
export OMP_NUM_THREADS ?= 1

.PHONY: help setup test test-long lint reproduce-all record report docs clean
.DEFAULT_GOAL := help

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

setup: $(VENV)/.done-$(EXTRAS) ## make the environment (PIP_ARGS="--index-url ..." is passed on to pip; EXTRAS=dev,federated)

# Only when its inputs have changed; an interrupted installation is done again.
$(VENV)/.done-$(EXTRAS): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c constraints.txt -e '.[$(EXTRAS)]'
	touch $@

test: setup ## all tests but the long ones, side by side (PYTEST_ARGS="-k claims" chooses)
	$(BIN)/python -m pytest $(PYTEST_ARGS)

test-long: setup ## the tests that take many minutes: every paper killed three times, and as a job that is preempted
	$(BIN)/python -m pytest -n 2 -m long

lint: setup ## style, types, and which module may import which
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Ctrl-C ends the runs, not the shell, which then tells what came out of it.
reproduce-all: setup ## all papers at SCALE=smoke|cpu|paper, JOBS at once, then the scoreboard and the report
	@$(BIN)/python -m iclr_repro.scoreboard --forecast --scale $(SCALE) --jobs $(JOBS)
	@trap : INT; began=$$(date +%s); \
	papers=$$($(BIN)/python -m iclr_repro.scoreboard --order --scale $(SCALE)) && \
	$(BIN)/python -m iclr_repro.run --multirun paper=$$papers scale=$(SCALE) \
		hydra/launcher=joblib hydra.launcher.n_jobs=$(JOBS); status=$$?; \
	$(BIN)/python -m iclr_repro.scoreboard --scale $(SCALE) --since $$began && \
	$(BIN)/python -m iclr_repro.report && exit $$status

record: reproduce-all ## the same, and its results into experiments/ (all claims need EXTRAS=dev,benchmarks,federated)
	$(BIN)/python -m iclr_repro.run --multirun 'paper=glob(*,exclude=none)' scale=$(SCALE) record=true \
		hydra/launcher=joblib hydra.launcher.n_jobs=$(JOBS)

report: setup ## runs/ -> report/index.html
	$(BIN)/python -m iclr_repro.report

docs: setup ## the documentation -> site/index.html, without network; a warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

clean: ## remove what can be made again, but no results
	rm -rf $(VENV) build dist report site .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find src tests scripts docs -name __pycache__ -type d -exec rm -rf {} +
