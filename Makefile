# `make demo` shows the pair, `make serve` keeps it running, `make loadtest` loads it, `make test` tests it; `make help` lists all targets.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --progress-bar off
APP := $(VENV)/.app-installed
LOADTEST := $(VENV)/.loadtest-installed
DEV := $(VENV)/.dev-installed
LOCK_VENV := .tools/lock
CODE := serving predictor transformers cli loadtest bench tests helm requirements terraform
TESTS ?= tests
LOADTEST_OUT ?= loadtest-out
# Processes that run tests; 0 runs them in pytest's own, where a debugger can be used.
WORKERS ?= 2

.DEFAULT_GOAL := help
.PHONY: help demo serve loadtest test cluster cluster-down test-cluster soak bench gpu-kit dev tools chart lint format lock clean

help: ## List the targets.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(APP) ## Run the pair once: photos in, boxes out, pictures in demo-out/.
	$(BIN)/saccade demo --out demo-out

serve: $(APP) ## Run the pair until Ctrl-C; prints curl lines to paste.
	$(BIN)/saccade up

loadtest: $(LOADTEST) ## Load the pair with cameras and judge it: a table, and a report in loadtest-out/ (2 minutes).
	$(BIN)/saccade-loadtest example --out $(LOADTEST_OUT) $(FLAGS)

test: $(DEV) ## Run the tests (no cluster, soak or GPU).
	$(BIN)/python -m pytest $(TESTS) -n $(WORKERS) -m "not cluster and not soak and not gpu"

cluster: ## Start a real control plane of Kubernetes, Knative and KServe for test-cluster (needs ../shared/cluster, Go; 15 minutes the first time).
	CLUSTER_STATE="$(CURDIR)/.tools/cluster" ../shared/cluster/up

cluster-down: ## Stop it.
	CLUSTER_STATE="$(CURDIR)/.tools/cluster" ../shared/cluster/down

test-cluster: $(DEV) ## Run the tests on a real control plane, which stays up for the next run (make cluster-down stops it).
	@$(MAKE) --no-print-directory cluster
	$(BIN)/python -m pytest tests/cluster -m cluster -n $(WORKERS)

soak: $(DEV) ## Run the long tests, which look for what grows or gets lost (about half an hour).
	$(BIN)/python -m pytest $(TESTS) -m soak -s -o timeout=7200

bench: $(DEV) ## Measure what a request and batching cost, beside other servers (FLAGS=--quick for a look).
	$(BIN)/python bench/dataplane.py $(FLAGS)
	$(BIN)/python bench/path.py $(filter --quick,$(FLAGS))
	$(BIN)/python bench/client.py $(filter --quick,$(FLAGS))
	$(BIN)/python bench/frames.py $(filter --quick,$(FLAGS))
	$(BIN)/python bench/cache.py $(filter --quick,$(FLAGS))
	$(BIN)/python bench/shared_cache.py $(filter --quick,$(FLAGS))
	$(BIN)/python bench/decoders.py $(filter --quick,$(FLAGS))
	$(BIN)/python bench/metrics.py $(filter --quick,$(FLAGS))
	$(BIN)/python bench/batching.py $(filter --quick,$(FLAGS))
	$(BIN)/python bench/shadow.py $(filter --quick,$(FLAGS))
	$(BIN)/python bench/scheduler.py $(filter --quick,$(FLAGS))
	$(BIN)/python bench/hard_limit.py $(filter --quick,$(FLAGS))
	$(BIN)/python bench/replay.py --real-time $(filter --quick,$(FLAGS))
	$(BIN)/python bench/gpu.py $(filter --quick,$(FLAGS))
	$(BIN)/python bench/parity.py $(filter --quick,$(FLAGS))
	$(BIN)/python bench/loadtest.py $(filter --quick,$(FLAGS))

gpu-kit: $(DEV) ## Pack the wheels that a GPU machine without a network needs into .gpu-kit/ (docs/development.md).
	$(BIN)/python bench/gpu_kit.py $(FLAGS)

dev: $(DEV) ## Install the development environment: clients, linters, test tools.

tools: ## Install the programs that some tests start (the rest of the tests runs without).
	@PYTHON="$(PYTHON)" sh requirements/tools.sh

chart: $(DEV) ## Write what of the charts and of Terraform follows from other files: schemas, dashboards, scripts, tables.
	$(BIN)/python helm/generate.py
	$(BIN)/python terraform/tables.py

lint: $(DEV) ## Check format, style and types.
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/ruff check $(CODE)
	$(BIN)/mypy

format: $(DEV) ## Bring the code into the one format.
	$(BIN)/ruff check --fix $(CODE)
	$(BIN)/ruff format $(CODE)

lock: $(LOCK_VENV)/bin/uv ## Write requirements/*.txt from pyproject.toml (FLAGS=--upgrade for newer versions).
	UV="$(LOCK_VENV)/bin/uv" FLAGS="$(FLAGS)" sh requirements/lock.sh

clean: ## Remove everything that make created.
	rm -rf $(VENV) .tools .gpu-kit demo-out loadtest-out bench/results .mypy_cache .pytest_cache .ruff_cache .hypothesis

$(VENV)/bin/python:
	@echo "creating $(VENV) with $(PYTHON)"
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(None if (3, 11) <= v < (3, 14) else \
	  f"Python 3.11 to 3.13 is needed, this is {v[0]}.{v[1]}; set PYTHON=/path/to/python3.11")'
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "venv failed; on Debian: apt-get install python3-venv"; exit 1; }

$(APP): requirements/app.txt pyproject.toml serving/saccade_serving/__init__.py | $(VENV)/bin/python
	@echo "installing the locked requirements (one to two minutes; later calls reuse $(VENV))"
	@$(PIP) --require-hashes -r requirements/app.txt
	@$(PIP) --no-deps --no-build-isolation -e .
	@touch $@

$(LOADTEST): requirements/loadtest.txt $(APP)
	@echo "installing the locked requirements of the load test"
	@$(PIP) --require-hashes -r requirements/loadtest.txt
	@touch $@

$(DEV): requirements/dev.txt $(APP)
	@echo "installing the locked development requirements"
	@$(PIP) --require-hashes -r requirements/dev.txt
	@touch $@

$(LOCK_VENV)/bin/uv: requirements/tools-lock.txt
	@$(PYTHON) -m venv $(LOCK_VENV)
	@$(LOCK_VENV)/bin/python -m pip --disable-pip-version-check install --quiet --require-hashes -r $<
	@touch $@
