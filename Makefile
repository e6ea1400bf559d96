# Each target does its own set-up: Python 3.11 or newer, make and a package index are all it needs.

BIN := .venv/bin
READY := .venv/.ready
export UV_PROJECT_ENVIRONMENT := .venv
export UV_PYTHON_DOWNLOADS := never

.PHONY: help setup serve demo check test bench docs

help: ## Tell what there is
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' Makefile

setup: $(READY) ## Install into .venv what the lock file names; leaves the command at .venv/bin/headrace

serve: $(READY) ## Start the server of this checkout, its data in .headrace; OPTIONS="--port 8081" changes how
	@$(BIN)/headrace serve $(OPTIONS)

demo: $(READY) ## Load a real PostgreSQL into an Iceberg lake, change it, load again, and compare
	@$(BIN)/python -m demo

check: $(READY) ## Format, lint, types, import rules, spelling, licences, generated pages
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell
	$(BIN)/python -m docs.licences
	$(BIN)/python -m docs.generate --check

test: check ## Everything of check, and the whole suite against real servers
	$(BIN)/pytest -n 2

bench: $(READY) ## Measure speed beside other tools; PARTS="…" chooses parts, ROWS=300000 makes it a quick try
	@$(BIN)/python -m benchmarks $(PARTS) $(if $(ROWS),--rows $(ROWS))

docs: $(READY) ## Write docs/reference anew from the code
	$(BIN)/python -m docs.generate

# uv takes the files that the lock file names. Where only a mirror can be reached, pip asks the mirror
# for them, and the lock file's hashes still decide.
$(READY): uv.lock pyproject.toml hatch_build.py $(wildcard src/headrace/native/*.[ch])
	@if ! $(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	  for python in $(PYTHON) python3.13 python3.12 python3.11 python3 python; do \
	    if $$python -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then \
	      found=$$python; break; \
	    fi; \
	  done; \
	  if [ -z "$$found" ]; then \
	    echo "Headrace needs Python 3.11 or newer with its venv module, and found none." >&2; \
	    echo "Install one (on Debian and Ubuntu: python3 and python3-venv), or name it: make setup PYTHON=/path/to/python" >&2; \
	    exit 1; \
	  fi; \
	  $$found -m venv --clear .venv; \
	fi
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip >/dev/null
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@$(BIN)/uv sync --quiet --frozen --all-extras || { \
	  echo "The lock file's own addresses can't be reached: asking the index that pip is set up for." >&2; \
	  $(BIN)/uv export --quiet --frozen --all-extras --no-emit-project --output-file .venv/requirements.txt && \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r .venv/requirements.txt && \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .; \
	}
	@touch $@
