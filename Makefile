# Every target sets up what it needs in .venv; a stamp there says what has been done.
PYTHON ?= python3
ARGS ?=

VENV := .venv
BIN  := $(VENV)/bin
PROOFS := $(patsubst %,tests/storage/test_%.py,capture_property repeated_tasks_property elements_property btree_damaged \
    walfile journalfile)
ROOMS := bridge handlers samples storage
SOURCES := server.py setup.cfg Makefile \
    $(shell find $(ROOMS) \( -name '*.py' -o -name '*.html' -o -name '*.toml' \) 2>/dev/null)

# Silent unless it fails.
quietly = { $(1); } >$(VENV)/make.log 2>&1 || { cat $(VENV)/make.log; exit 1; }
install = echo "installing $(1) into $(VENV)" && $(call quietly,$(BIN)/python -m pip install --disable-pip-version-check -e '$(1)')

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: run test lint prove bench binary clean help

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile | sort | expand -t 10
	@echo 'ARGS="..." is passed on by run, test, prove and bench; PYTHON=... picks the interpreter (3.11 or newer)'

run: $(VENV)/.run ## start the demo and print the address of its page
	@exec $(BIN)/walcast demo $(ARGS)

test: lint $(VENV)/.test ## check the code, then run the whole suite
	@exec $(BIN)/python -m pytest $(ARGS)

lint: $(VENV)/.test ## ruff and mypy alone
	@$(BIN)/ruff check --quiet
	@$(BIN)/mypy --no-error-summary

prove: $(VENV)/.test ## let the capture meet as many random writers as an hour or two holds; says how to repeat a failure
	@HYPOTHESIS_PROFILE=long exec $(BIN)/python -m pytest -o timeout=0 -o faulthandler_timeout=0 \
	    --hypothesis-seed=$$(od -An -N4 -tu4 /dev/urandom | tr -d ' ') $(PROOFS) $(ARGS)

bench: $(VENV)/.run ## measure, into bench/results.json and a table
	@exec $(BIN)/python -m bench $(ARGS)

binary: dist/walcast ## build dist/walcast, one file that needs no Python

clean: ## remove everything that make made
	@rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis *.egg-info
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# All modules are named because some are imported late; the data files go where importlib.resources looks for them.
dist/walcast: $(SOURCES) $(VENV)/.binary
	@echo "building $@"
	@$(call quietly,$(BIN)/python -m PyInstaller --noconfirm --log-level WARN --onefile --name walcast \
	    --distpath dist --workpath build --specpath build --paths . --copy-metadata walcast \
	    $(foreach room,$(ROOMS),--collect-submodules $(room) --collect-data $(room)) \
	    --hidden-import uvloop server.py)
	@touch $@

$(VENV)/.made:
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is not here: walcast needs Python 3.11 or newer (make PYTHON=... names one)" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "$$($(PYTHON) --version 2>&1) is too old: walcast needs 3.11 or newer (make PYTHON=... names one)" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	    echo "$(PYTHON) has no venv or ensurepip; on Debian: apt-get install python3-venv" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.run: setup.cfg pyproject.toml | $(VENV)/.made
	@$(call install,.)
	@touch $@

$(VENV)/.test: $(VENV)/.run
	@$(call install,.[test])
	@touch $@

$(VENV)/.binary: $(VENV)/.run
	@$(call install,.[binary])
	@touch $@
