# Everything a newcomer needs; `make help` lists it. Needs Python 3.11+, make and git, nothing else.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
MEMBERS := $(wildcard libs/*/pyproject.toml services/*/pyproject.toml)
EDITABLE := $(foreach m,$(MEMBERS),-e $(dir $(m)))
UP ?=
NAME ?=
ARGS ?=

.PHONY: help install up down test test-all test-containers example lint format types check conformance bench bench-search vm-image docs lock clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-16s %s\n", $$1, $$2}'

$(STAMP): requirements.lock pyproject.toml $(MEMBERS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "MCP Mesh needs Python 3.11 or newer; name one with: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) \
	  || { echo "python -m venv failed; on Debian and Ubuntu: apt-get install python3-venv"; exit 1; }
	@echo "installing into $(VENV) (about half a minute the first time)"
	@test -x $(BIN)/uv || awk '/^uv==/{on=1} on{print} on&&!/\\$$/{exit}' requirements.lock > $(VENV)/uv.lock.txt
	@test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $(VENV)/uv.lock.txt
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements.lock
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps $(EDITABLE)
	@touch $@

install: $(STAMP) ## Install everything into .venv

up: $(STAMP) ## Start a local mesh in the foreground (UP="--gateways 2 --runners 2")
	@exec $(BIN)/mesh up $(UP)

down: $(STAMP) ## Stop the mesh that runs from this folder
	@$(BIN)/mesh down

example: $(STAMP) ## Run an example by its folder's name (NAME=orchestrator); without NAME: which there are
	@exec $(BIN)/python examples/run.py $(NAME)

test: $(STAMP) ## Unit, architecture, integration and end-to-end tests
	@$(BIN)/python -m pytest -n auto --dist loadfile -m "not containers and not slow" $(ARGS)

test-all: $(STAMP) ## The same plus slow ones (chaos, restarts under load)
	@$(BIN)/python -m pytest -n auto --dist loadfile -m "not containers" $(ARGS)

test-containers: $(STAMP) ## Broker and every service as containers; needs a Docker engine
	@$(BIN)/python -m pytest -m containers tests/containers $(ARGS)

lint: $(STAMP) ## Style: ruff
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

format: $(STAMP) ## Let ruff rewrite what it can
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

types: $(STAMP) ## Types: pyright strict
	@$(BIN)/pyright

check: lint types test ## What CI runs before the containers

conformance: $(STAMP) ## Everything of the official suite and of our own requirements (needs npm; minutes)
	@tests/conformance/install
	@$(BIN)/python -m pytest -n auto --dist loadfile tests/conformance $(ARGS)

bench: $(STAMP) ## Measure the mesh against its floor; prints one table (minutes)
	@$(BIN)/python -m tests.benchmarks $(ARGS)

bench-search: $(STAMP) ## Evaluate the tool search offline: hit rates, tokens, times (seconds)
	@$(BIN)/python -m tests.benchmarks.tool_search $(ARGS)

vm-image: $(STAMP) ## Kernel and file system of machines, into build/vm-image (Debian, Ubuntu; needs lz4)
	@$(BIN)/python deploy/vm-image/build.py $(ARGS)

docs: $(STAMP) ## Write docs/reference from the code
	@$(BIN)/python scripts/gen_reference.py

lock: $(STAMP) ## Renew requirements.lock from the pyproject files
	@$(BIN)/uv lock --quiet
	@$(BIN)/uv export --quiet --frozen --all-packages --all-groups --no-emit-workspace --no-header -o requirements.lock
	@! grep -nE '://' requirements.lock

clean: ## Remove the environment and the local state
	@rm -rf $(VENV) .mesh
