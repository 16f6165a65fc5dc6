# Every target sets up .venv by itself. CONTRIBUTING.md says what each is for.
#   make demo ARGS="--steps 16"    make test ARGS="-k weights"    make check PYTHON=python3.12

PYTHON ?= python3
ARGS ?=

BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install -qq --no-compile --disable-pip-version-check -c constraints.txt
PLUGINS := $(wildcard plugins/*/pyproject.toml)
RUNTIME := .venv/.installed-runtime
DEV := .venv/.installed-dev

.DEFAULT_GOAL := help
.PHONY: help demo test check format lint types imports docs secrets audit bench wheels constraints clean

help:
	@echo "make demo   train the packaged model with DMPO on the CPU     (ARGS='--steps 16')"
	@echo "make test   run all tests                                     (ARGS='-k weights')"
	@echo "make check  format, lint, types, import contracts, docs, secrets, tests"
	@echo "make bench  the benchmarks that take minutes, one after the other (BENCH=startup)"
	@echo "make wheels build the wheels, and run the demo from them in an empty environment"
	@echo "make format lint types imports docs secrets audit constraints clean"

demo: $(RUNTIME)
	@$(BIN)/dmpo train $(ARGS)

# Two workers with one thread each: more of either is slower on the small models of the tests.
test: export HF_HUB_OFFLINE = 1
test: export OMP_NUM_THREADS = 1
test: $(DEV)
	$(BIN)/python -m pytest -n 2 --cov --cov-report=term:skip-covered --durations=10 $(ARGS)

check: lint types imports docs secrets test

format: $(DEV)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint: $(DEV)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(DEV)
	$(BIN)/mypy

imports: $(DEV)
	$(BIN)/lint-imports

docs: export NO_MKDOCS_2_WARNING = 1
docs: $(DEV)
	$(BIN)/mkdocs build --quiet --strict

secrets: $(DEV)
	@$(BIN)/python .ci/find_secrets.py

# Needs the network, and says so where there is none.
audit: $(DEV)
	@$(BIN)/python .ci/audit_pins.py

# The quick ones, without writing results; benchmarks/README.md has all, with their full commands.
BENCH ?= startup exact step rollouts
bench: export HF_HUB_OFFLINE = 1
bench: export OMP_NUM_THREADS = 1
bench: $(DEV) $(addprefix bench-,$(BENCH))
bench-exact: ARGS = --steps 80
bench-step: ARGS = --size tiny
bench-rollouts: ARGS = --gen-length 32 --steps 16 --batch 1
bench-%: $(DEV)
	$(BIN)/python benchmarks/$*.py $(ARGS)

wheels:
	.ci/try_wheels $(PYTHON)

# Keeps the pins that still fit; delete constraints.txt first to move everything to its newest.
constraints: $(DEV)
	$(BIN)/python -m pip install --quiet uv
	grep -hoE '"reasoning-gym[^"]*"' $(PLUGINS) | tr -d '" ' > .venv/plugins.in
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --all-extras --no-annotate \
	  --no-header --no-emit-package pip pyproject.toml .venv/plugins.in -o .venv/constraints.txt
	cp .venv/constraints.txt constraints.txt

clean:
	rm -rf .venv site .coverage .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis

$(RUNTIME): pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing dmpo into .venv (once, a few minutes)"
	@$(INSTALL) -e .
	@touch $@

$(DEV): pyproject.toml constraints.txt $(PLUGINS) | $(BIN)/python
	@echo "Installing dmpo, its plugins and its tools into .venv (once, a few minutes)"
	@$(INSTALL) -e '.[dev,docs,eval]' $(patsubst %/pyproject.toml,-e ./%,$(PLUGINS))
	@touch $(RUNTIME) $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null || { \
	  echo "dmpo needs Python 3.11, 3.12 or 3.13; $(PYTHON) is $$($(PYTHON) -V 2>/dev/null || echo not installed)." \
	    "Name another: make $(firstword $(MAKECMDGOALS)) PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -m venv .venv
