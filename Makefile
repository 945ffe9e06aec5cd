# Each target sets up everything that it needs: a machine needs make, Python 3.11 or later, and the package index.
#
#   make up      start the embedded system on http://127.0.0.1:8000        PORT=8000 DATA=var
#   make test    the suite, at most 12 minutes                              ARGS="-k relay -x"
#   make proof   what needs duration, at most 45 minutes
#   make soak    what needs hours; by hand
#   make lint    what tests/tidy checks of style and types, alone           make format   repairs what it can
#   make clean   remove what the other targets made; never the data of `make up`

PORT ?= 8000
DATA ?= var
ARGS ?=
# A Python for a new environment, where the first one on PATH is not wanted: make clean test PYTHON=python3.13
PYTHON ?=

SHELL := /bin/sh
VENV := .venv
TOOLS := .tools
RUN := $(VENV)/bin
READY := $(VENV)/ready
PYTEST := $(RUN)/python -m pytest

# Only the package index is asked: no Python is downloaded, and no environment but ours is touched.
export UV_PYTHON_DOWNLOADS := never
export UV_PROJECT_ENVIRONMENT := $(VENV)
unexport VIRTUAL_ENV PYTHONPATH PYTHONHOME
# The suite starts hundreds of processes; without bytecode on disk each compiles the same thousand files, two seconds of a core.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help up test proof soak lint format clean
# A set-up that was interrupted must not count as done.
.DELETE_ON_ERROR:

help:
	@sed -n '1,/^$$/s/^# \{0,1\}//p' $(firstword $(MAKEFILE_LIST))

# `exec`: the server takes the shell's place, so that the SIGTERM that make passes on reaches it.
up: $(READY)
	@exec $(RUN)/dujiang up --port $(PORT) --data $(DATA)

# One process a core, a file of tests in one process: fixtures of a module (servers, stores) are made once. Files keep their
# order, so the long ones start first. `make test ARGS="-n 0"` runs all in one process.
test: $(READY)
	@$(PYTEST) -m "not proof and not soak" -n auto --dist loadfile --no-loadscope-reorder $(ARGS)

# pytest ends with 5 when there is nothing to run; that is no failure here.
proof: $(READY)
	@$(PYTEST) -m proof $(ARGS) || test $$? -eq 5

soak: $(READY)
	@$(PYTEST) -m soak $(ARGS) || test $$? -eq 5

lint: $(READY)
	@$(RUN)/ruff check && $(RUN)/ruff format --check && $(RUN)/mypy

format: $(READY)
	@$(RUN)/ruff check --fix-only --quiet && $(RUN)/ruff format

clean:
	rm -rf $(VENV) $(TOOLS) dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find src tests bench -name __pycache__ -prune -exec rm -rf {} +

# The environment: exactly what uv.lock says, made again whenever that file changes.
$(READY): pyproject.toml uv.lock .ci/setup
	@VENV=$(VENV) TOOLS=$(TOOLS) PYTHON="$(PYTHON)" sh .ci/setup
	@touch $@
