SHELL := /bin/sh
.DEFAULT_GOAL := help
.PHONY: help setup demo serve wheel test unit coverage cases soak attack gpu-check lint reference format clean

PYTHONS := $(or $(PYTHON),python3 python3.12 python3.11)
BIN := .venv/bin
MODEL ?= sglang_speechlm/demo/model
ARGS ?=
MINUTES ?= 10

# Otherwise each process of the tests compiles the modules that it imports.
unexport PYTHONDONTWRITEBYTECODE

help: ## List these targets
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  make \1|\2/p' Makefile | awk -F'|' '{ printf "%-16s %s\n", $$1, $$2 }'

setup: ## Create .venv, for a GPU if there is one (override: PROFILE=cpu or PROFILE=cuda; PYTHON=python3.12)
	@for python in $(PYTHONS); do \
		if "$$python" -c 'import sys, ensurepip, venv; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' 2>/dev/null; then \
			exec "$$python" launch/setup.py; \
		fi; \
	done; \
	echo "setup: no Python 3.11 or 3.12 with its venv module was found as: $(PYTHONS)" >&2; \
	echo "setup: install one (Debian, Ubuntu: python3.12 and python3.12-venv, or python3.11 and python3.11-venv)," >&2; \
	echo "setup: or name it: make setup PYTHON=/path/to/python3.12" >&2; \
	exit 1

demo: setup ## Start a small server and let it write, speak and listen
	@exec $(BIN)/python -m sglang_speechlm.demo --model '$(MODEL)' $(ARGS)

serve: setup ## Serve MODEL=directory (default: the demo's small model) on port 9000; ARGS="--port 30000 ..."
	@exec $(BIN)/python -m sglang_speechlm.launch --model-path '$(MODEL)' \
		--served-model-name speechlm-qwen3-8b --any-model --host 127.0.0.1 --port 9000 $(ARGS)

# setuptools would add the modules of an earlier build to the wheel.
wheel: setup ## Build the wheel in build
	rm -rf build/lib build/bdist.*
	$(BIN)/python -m pip wheel --disable-pip-version-check --no-deps --no-build-isolation -w build .

test: setup ## Run the linters and the tests in parallel
	@$(MAKE) --no-print-directory -j 2 lint cases

# Three test files at a time, also on two cores: while one waits, for a deadline say, the others can use the processor.
cases: setup
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder $(ARGS)

unit: setup ## Run the unit tests, which start no processes
	$(BIN)/python -m pytest -m unit -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

coverage: setup ## Run tests/unit, and fail if it covers less than pyproject.toml demands
	$(BIN)/python -m pytest tests/unit -n 2 --dist loadfile --no-loadscope-reorder --cov $(ARGS)

soak: setup ## Send every kind of request to two workers while their processes are killed (MINUTES=10)
	@PYTHONPATH=tests:tests/support:. $(BIN)/python tests/soak.py --minutes '$(MINUTES)' $(ARGS)

attack: setup ## Attack running servers and print a table of what held (ARGS=--short: two minutes)
	@PYTHONPATH=tests:tests/support:. $(BIN)/python -m attack $(ARGS)

gpu-check: setup ## Check a GPU and measure the server on it, in ten minutes (ARGS=--rehearse: without one)
	@PYTHONPATH=tests:tests/support:. $(BIN)/python -m gpu $(ARGS)

lint: setup ## Run the linters and the type checker
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

reference: setup ## Build the API reference from the docstrings in build/reference
	$(BIN)/python docs/reference.py build/reference

format: setup ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## Remove everything these targets created
	rm -rf .venv .checkpoints demo-output build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage
	find . -name __pycache__ -prune -exec rm -rf {} +
