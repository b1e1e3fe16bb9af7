# Two commands do everything: `make book` and `make test`. Each sets up .venv first, once.
PYTHON ?= python3
PORT ?= 8000
PROFILE ?= embedded
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: help book test test-browser serve check student slides reproduce lock clean
.DEFAULT_GOAL := help

help: ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-13s %s\n", $$1, $$2}'

book: .venv/installed ## run every chapter on the embedded model and build the book
	@$(BIN)/python -m cbtlib book

test: .venv/installed ## lint, types and tests, the book on the smoke profile among them
	@$(BIN)/ruff check . && $(BIN)/ruff format --check -q . && $(BIN)/mypy
	@$(BIN)/python -m pytest

test-browser: .venv/installed ## the built book in headless Chromium: axe, keyboard, phone, search, widgets (needs node 20)
	@test -f _build/html/index.html || $(BIN)/python -m cbtlib book --profile smoke
	@command -v npm >/dev/null || { echo "node 20 and npm are needed: apt-get install nodejs npm, or nodejs.org"; exit 1; }
	@cd tests/browser && npm install --no-package-lock --no-audit --no-fund --silent
	@test -n "$$CHROMIUM" || command -v chromium >/dev/null || command -v chromium-browser >/dev/null || \
	  command -v google-chrome >/dev/null || \
	  { apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium; } || \
	  { echo "Chromium is needed and cannot be installed without root: install it, or set CHROMIUM=/path/to/it"; exit 1; }
	@cd tests/browser && PYTHON="$(CURDIR)/$(BIN)/python" node --test --test-reporter=spec

serve: .venv/installed ## serve the built book on this machine (PORT=8000)
	@$(BIN)/python -m cbtlib serve --port $(PORT)

check: .venv/installed ## is this machine ready? (cbt doctor)
	@$(BIN)/python -m cbtlib doctor

student: .venv/installed ## write the exercises without solutions into student/
	@$(BIN)/python -m cbtlib student

slides: .venv/installed ## make slides of the chapters that have run, into slides/ (PROFILE=embedded)
	@$(BIN)/python -m cbtlib slides --profile $(PROFILE)

reproduce: .venv/installed ## compare the last embedded run with the published numbers
	@$(BIN)/python -m cbtlib claims --reproduce

lock: ## resolve pyproject.toml anew into requirements.lock (maintainers)
	rm -rf .venv-lock && $(PYTHON) -m venv .venv-lock
	.venv-lock/bin/pip install "$$(grep -o 'torch==[0-9.]*' pyproject.toml)"
	.venv-lock/bin/pip install setuptools .
	{ echo '# Written by `make lock` from pyproject.toml; every package, exactly.'; \
	  .venv-lock/bin/pip freeze --all | grep -vE '^pip==|cbtlib' | sed 's/+cpu$$//'; \
	  sed -n 's/^ *"\(.*; .*\)",$$/\1/p' pyproject.toml; } > requirements.lock
	rm -rf .venv-lock

clean: ## remove results, the built book and .venv (the model's cache stays)
	rm -rf .venv .venv-lock _build book/executed student slides .snakemake results/embedded results/smoke
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(None if (3, 11, 5) <= sys.version_info < (3, 15) else \
	  "a Python of 3.11.5 to 3.14 is needed, this is " + sys.version.split()[0] + "; try: make $(MAKECMDGOALS) PYTHON=python3.11")'
	@echo "setting up .venv: some gigabytes, a few minutes, once"
	$(PYTHON) -m venv .venv && date +%s > .venv/began
	$(PIP) install -q "$$(grep '^torch==' requirements.lock)"
	$(PIP) install -r requirements.lock
	$(PIP) install -q --no-deps --no-build-isolation -e .
	@echo $$(( $$(date +%s) - $$(cat .venv/began) )) > $@
