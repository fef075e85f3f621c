# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
#
# Needs make and Python 3.11 or newer; everything else goes to .venv.

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
BENCH_STAMP := $(VENV)/.installed-bench
DOCS_STAMP := $(VENV)/.installed-docs
NOTEBOOKS_STAMP := $(VENV)/.installed-notebooks

# The interpreter that .venv is made from: the version of constraints.txt first.
PYTHON ?= $(shell \
  for python in python3.11 python3.12 python3.13 python3; do if "$$python" \
  -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
  command -v "$$python"; break; fi; done)
# Processes that run tests at a time, and parts of the tests that have
# processes of their own, as these grow.
JOBS ?= 2
PARTS ?= 1 2 3 4 5 6
# More arguments for pytest, as in `make test PYTEST_ARGS='-k weighting'`.
PYTEST_ARGS ?=
# Notebooks to run, as in `make notebooks NOTEBOOKS=annealing`; by default, all.
NOTEBOOKS ?=
# More flags of the comparison, as in `make bench BENCH_ARGS=--num_densities=8`.
BENCH_ARGS ?=

# TensorFlow prints notices about absent GPUs, as errors, on every start.
TF_CPP_MIN_LOG_LEVEL ?= 3
export TF_CPP_MIN_LOG_LEVEL
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help install demo bench docs notebooks test slow coverage lint format \
  clean distclean

help:  ## List the targets.
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  %-10s %s\n", $$1, $$2 }' \
	  $(firstword $(MAKEFILE_LIST))

install: $(STAMP)  ## Create .venv with the package and its test tools.

demo: $(STAMP)  ## Fit a posterior; learn a sampler for eight modes; draw both.
	$(BIN)/python -m benchmarks.posteriors --targets=eight_schools --seeds=0 \
	  --output_dir=results/demo
	$(BIN)/python -m tfp_nvi.experiments.annealing --method=nvir_star \
	  --num_densities=8 --num_restarts=3 --output_dir=results/demo

bench: $(BENCH_STAMP)  ## Measure training and sampling beside other libraries.
	$(BIN)/python -m benchmarks.annealing_training \
	  --output_dir=results/benchmarks $(BENCH_ARGS)
	$(BIN)/python -m benchmarks.sampling --output_dir=results/benchmarks

docs: $(DOCS_STAMP)  ## Build the site of documentation in .build/site.
	$(BIN)/python -m docs.make_site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict -f .build/mkdocs.yml

notebooks: $(NOTEBOOKS_STAMP)  ## Run the notebooks, and compare their outputs.
	$(BIN)/python -m docs.run_notebooks $(NOTEBOOKS)

test: lint  ## Lint, check the format, and run the tests.
	@status=5; for part in $(PARTS); do \
	  echo "Tests, part $$part of $(words $(PARTS))"; \
	  $(BIN)/python -m pytest -n $(JOBS) --dist=loadgroup --durations=10 \
	    --part=$$part/$(words $(PARTS)) $(PYTEST_ARGS); \
	  case $$? in \
	    0) if [ $$status -eq 5 ]; then status=0; fi ;; \
	    2) exit 2 ;; \
	    5) echo 'None of these are asked for.' ;; \
	    *) status=1 ;; \
	  esac; \
	done; exit $$status

slow: $(STAMP)  ## Run the tests that `make test` leaves out.
	$(BIN)/python -m pytest -n $(JOBS) --dist=loadgroup -m slow $(PYTEST_ARGS)

coverage: $(STAMP)  ## Run all tests, and show which lines they do not reach.
	$(BIN)/coverage erase
	@for part in $(PARTS); do \
	  $(BIN)/coverage run -m pytest --part=$$part/$(words $(PARTS)) \
	    $(PYTEST_ARGS); \
	  case $$? in 0|5) ;; *) exit 1 ;; esac; \
	done
	$(BIN)/coverage combine
	$(BIN)/coverage report

lint: $(STAMP)  ## Lint, check the format and the types, changing nothing.
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: $(STAMP)  ## Format the code and fix what the linter can fix.
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean:  ## Remove build files, caches and the demo's results.
	rm -rf .build dist *.egg-info .coverage* .pytest_cache .ruff_cache \
	  results/demo
	find $(wildcard benchmarks tests tfp_nvi) -name __pycache__ -type d \
	  -prune -exec rm -rf {} +

distclean: clean  ## Remove what clean removes, and .venv.
	rm -rf $(VENV)

# A second call installs again only when a requirement may have changed.
$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo 'No Python 3.11 or newer on PATH;' \
	  'name one with make PYTHON=/path/to/python3.11' >&2; exit 1; }
	test -x $(BIN)/pip || "$(PYTHON)" -m venv $(VENV)
	$(BIN)/pip install -c constraints.txt -e '.[test]'
	@touch $@

# What benchmarks compare with is large, and nothing else needs it.
$(BENCH_STAMP): $(STAMP)
	$(BIN)/pip install -c constraints.txt -e '.[bench]'
	@touch $@

# What builds the site, which nothing else needs.
$(DOCS_STAMP): $(STAMP)
	$(BIN)/pip install -c constraints.txt -e '.[docs]'
	@touch $@

# What runs notebooks in kernels.
$(NOTEBOOKS_STAMP): $(STAMP)
	$(BIN)/pip install -c constraints.txt -e '.[notebooks]'
	@touch $@
