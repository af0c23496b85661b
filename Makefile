PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help install demo test soak check format bench bench-upsert bench-compare servers clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-13s %s\n", $$1, $$2}'

$(VENV)/installed: requirements.lock pyproject.toml
	@test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	@echo "installing the locked dependencies into $(VENV) (about a minute, once)"
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements.lock
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

install: $(VENV)/installed  ## a virtual environment with everything in it

demo: install  ## stream a million trades into an Iceberg table, kill the writer half-way, verify
	@$(BIN)/lakeward demo

test: install servers  ## every test, against embedded and real servers
	@$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder --max-worker-restart 0

soak: install servers  ## the long tests, with Spark: thousands of random histories (an hour or more)
	@$(BIN)/python -m servers install spark
	@$(BIN)/python -m pytest -m soak -n 2 -o faulthandler_timeout=0

check: install  ## style, types, formatting
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: install  ## let the formatter and the fixer have their way
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: install servers  ## every figure that lakeward is measured by, as one JSON (half an hour; more: docs/benchmarks.md)
	@$(BIN)/python -m servers install connect-sink
	@$(BIN)/python -m benchmarks --peers

bench-upsert: install  ## what changes to a table of ten million rows cost, and what readers find after them (5 minutes)
	@$(BIN)/python -m benchmarks.upsert

bench-compare: install  ## two results of `bench` side by side: make bench-compare A=one.json B=other.json
	@$(BIN)/python -m benchmarks --compare $(A) $(B)

servers: install  ## install the real servers for the tests (Kafka, registry, catalog, S3)
	@$(BIN)/python -m servers install

clean:  ## remove what the build made
	@rm -rf $(VENV) .servers
