# Everything here needs python3 (3.11 or newer) and make; `make PYTHON=python3.12 VENV=.venv312 test`
# takes another interpreter.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
INSTALLED = $(VENV)/.installed

# Compiled programs are kept between runs: the second `make test` is much faster than the first.
export JAX_COMPILATION_CACHE_DIR ?= $(CURDIR)/.cache/jax

.DEFAULT_GOAL := help
.PHONY: help install demo test lint format docs clean

help:
	@echo "make install the environment alone, in $(VENV)"
	@echo "make demo    train a small attention translator, score it, draw an alignment (minutes)"
	@echo "make test    lint, types and tests"
	@echo "make lint    lint and types alone"
	@echo "make format  put the code into the project's format"
	@echo "make docs    the documentation site, in docs/_build/html"
	@echo "make clean   remove the environment and the caches (runs/ stays)"
	@echo "Each of them makes the environment $(VENV) first, with $(PYTHON)."

install: $(INSTALLED)

demo: $(INSTALLED)
	$(BIN)/python scripts/demo.py

test: lint
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

lint: $(INSTALLED)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/ty check

format: $(INSTALLED)
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

docs: $(VENV)/.installed-docs
	JAX_PLATFORMS=cpu $(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet docs docs/_build/html
	@echo "the site is in docs/_build/html/index.html"

$(VENV)/.installed-docs: $(INSTALLED)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	@touch $@

# Installed anew only when what is to be installed has changed.
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "error: $(PYTHON) is older than Python 3.11; try make PYTHON=python3.12" >&2; exit 1; }
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) .cache .pytest_cache .ruff_cache .hypothesis *.egg-info build dist docs/_build docs/api
	find attnzoo scripts tests -name __pycache__ -type d -prune -exec rm -rf {} +
