# tuition: teach a model, use it, read its bill.  `make help` lists what can be done.
# A virtual environment is made in .venv; pip keeps your own settings (index, proxy, find-links).
# PYTHON=/path/to/python3.12 chooses the interpreter for a new .venv.

SHELL := /bin/sh
VENV := .venv
BIN := $(VENV)/bin
PYTHON ?=
export PYTHON
NEEDS := pyproject.toml constraints.txt requirements/data.txt requirements/install.py \
	$(wildcard kernels/pyproject.toml kernels/CMakeLists.txt kernels/src/*)

.DEFAULT_GOAL := help
.PHONY: help setup demo clean-demo test test-full check format bench bench-peers docs pictures sanitize lock clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

setup: $(VENV)/.core  ## make .venv with all that tuition needs, and the native kernels if a compiler is there

demo: $(VENV)/.core  ## teach a model from scratch, use it, and read its bill (about 8 minutes on 2 cores, set-up included)
	@TUITION_HOME="$${TUITION_HOME:-$(CURDIR)/.demo}" $(BIN)/tuition demo

clean-demo:  ## remove what `make demo` made (.demo); a workspace of your own (TUITION_HOME) is kept
	@if [ -n "$$TUITION_HOME" ]; then echo "Kept: $$TUITION_HOME. While TUITION_HOME is set the demo writes there;" \
		"it is yours: take single models out of it with $(BIN)/tuition models remove NAME, or delete it yourself."; fi
	@case "$$(cd "$$TUITION_HOME" 2>/dev/null && pwd -P)/" in \
		"$$(pwd -P)/.demo/"*) ;; \
		*) if [ -e .demo ]; then rm -rf .demo && echo "Removed: .demo"; else echo "Nothing to remove: no .demo here."; fi ;; \
	esac

test: $(VENV)/.test  ## the quick suite: every truth in small sizes
	@$(BIN)/python -m pytest -q

test-full: $(VENV)/.test  ## the quick suite and the slow tests, in their full sizes
	@$(BIN)/python -m pytest -q --full

check: $(VENV)/.test  ## lint, format, types and the rules of the house
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/pyrefly check --summarize-errors
	@$(BIN)/python -m pytest -q tests/architecture

format: $(VENV)/.test  ## put the sources in the one format
	@$(BIN)/ruff check --fix --quiet || true
	@$(BIN)/ruff format

docs: $(VENV)/.test  ## write again what README and docs take from the program and from the last demo
	@$(BIN)/python docs/write.py
	@$(BIN)/python -m pytest -q tests/architecture/test_documents.py

pictures: $(VENV)/.test  ## make the pictures of README again, from the program itself (needs Chromium)
	@$(BIN)/python docs/pictures.py

bench: $(VENV)/.test  ## every measurement in bench/, one after the other (long; one alone: .venv/bin/python bench/NAME.py)
	@for script in bench/*.py; do echo "== $$script"; $(BIN)/python "$$script" || exit 1; done

bench-peers: $(VENV)/.test  ## install the engines that bench/inference.py measures beside ours, into .peers (minutes)
	@$(BIN)/python bench/peers/install.py

sanitize: $(VENV)/.test  ## the native kernels under address, undefined-behaviour and thread sanitizers (needs a C++ compiler)
	@command -v cmake >/dev/null || $(BIN)/python -m pip install -qq --constraint constraints.txt cmake
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(MAKE) -C kernels sanitize

lock: $(VENV)/.core  ## renew the hash-locked list for releases
	@$(BIN)/python requirements/lock.py

clean:  ## remove .venv and every cache (not your workspace)
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis build dist

$(VENV)/.made:
	@python=$$(requirements/find-python) && echo "Making $(VENV) with $$python" && "$$python" -m venv $(VENV) && touch $@

$(VENV)/.core: $(VENV)/.made $(NEEDS)
	@$(BIN)/python requirements/install.py
	@touch $@

$(VENV)/.test: $(VENV)/.core
	@$(BIN)/python requirements/install.py --extras test
	@touch $@
