# What each target does: `make help`. All of them create and refresh the virtual environment as needed;
# PYTHON and VENV may be set: `make test PYTHON=python3.13 VENV=.venv313`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
STATIC := src/penstock/ui/static
UI := ui/index.html $(wildcard ui/*.json ui/*.ts) $(shell find ui/src -type f)

.SILENT:
.DEFAULT_GOAL := help
.PHONY: help demo test again check bench docs ui clean

help: ## list the targets
	awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-6s %s\n", $$1, $$2 }' Makefile

demo: $(VENV)/.package ## install the package and run examples/demo.py
	$(BIN)/python examples/demo.py

test: $(VENV)/.dev ui ## run the tests, on all cores
	$(BIN)/python -m pytest --numprocesses auto --dist loadgroup

again: $(VENV)/.dev ## run the tests that failed the last time, one after the other
	$(BIN)/python -m pytest --last-failed --last-failed-no-failures none

check: $(VENV)/.dev ## lint, formatting and both type checkers; the front end's, too, if it was built here
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pyright --pythonpath $(BIN)/python
	test ! -d ui/node_modules || $(BIN)/python hatch_build.py check

bench: $(VENV)/.dev ## measure the cost budgets, as a Markdown table
	$(BIN)/python -m benchmarks

docs: $(VENV)/.docs ## build the documentation into site/
	$(BIN)/sphinx-build --quiet --fresh-env --fail-on-warning -b html docs site
	echo "open site/index.html"

ui: $(STATIC)/index.html ## build the front end of the dashboard

clean: ## remove what the tools generated (not the virtual environment, not recorded runs)
	rm -rf build dist site $(STATIC) ui/node_modules .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find src tests benchmarks examples docs -name __pycache__ -type d -prune -exec rm -rf {} +

# Stamps are touched last, so an interrupted step is repeated rather than believed.
$(VENV)/.created:
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/.package: pyproject.toml $(VENV)/.created
	echo "installing penstock into $(VENV)"
	$(PIP) install --editable .
	touch $@

$(STATIC)/index.html: $(UI) hatch_build.py | $(VENV)/.dev
	echo "building the dashboard"
	$(BIN)/python hatch_build.py

$(VENV)/.dev $(VENV)/.docs: $(VENV)/.%: pyproject.toml $(VENV)/.created
	echo "installing penstock[$*] into $(VENV)"
	$(PIP) install --editable ".[$*]"
	touch $@
