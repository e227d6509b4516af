# Every command a person uses; bare `make` lists them.

.DEFAULT_GOAL := help
.PHONY: help setup run resume reproduce sweep check compare report results import backup restore ui server new test test-slow test-faults test-browser bench lint
.SUFFIXES:

# What a user sets is taken literally and reaches a recipe through the environment only, as in
# "$$MODEL": neither make nor the shell expands or runs what is in it.
settings := MODEL MODELS SEED SEEDS EPOCHS DEVICE SPLIT RESUME RUN BASELINE WORKERS THREADS SCHEDULER BACKEND \
    ARTIFACTS HOST PORT BACKUP FROM PYTHON VENV
given := $(foreach name,$(.VARIABLES),$(if $(filter command,$(firstword $(origin $(name)))),$(name)))
$(foreach name,$(settings),$(eval override $(name) := $$(value $(name))))
ifeq ($(PYTHON),)
override PYTHON := python3
endif
ifeq ($(VENV),)
override VENV := .venv
endif
export $(settings)

# A misspelt name, or one that the command does not take (SEED for SEEDS), would otherwise go
# unnoticed. What a command takes is in the line that lists it.
hash := \#
unknown := $(filter-out $(settings),$(given))
ifneq ($(unknown),)
$(error unknown: $(unknown); what can be set is $(settings))
endif
ifneq ($(filter-out PYTHON VENV,$(given)),)
takes := $(shell awk -F : '/^[a-z-]+:.*$(hash)$(hash) / { goal = $$1; while (match($$0, /[A-Z]+=/)) { \
    print goal ":" substr($$0, RSTART, RLENGTH - 1); $$0 = substr($$0, RSTART + RLENGTH) } }' Makefile)
$(foreach goal,$(MAKECMDGOALS),$(foreach name,$(filter-out PYTHON VENV,$(given)),\
    $(if $(filter $(goal):$(name),$(takes)),,\
    $(error make $(goal) takes no $(name); it takes $(patsubst $(goal):%,%,$(filter $(goal):%,$(takes))) PYTHON VENV))))
endif

# VENV is also part of the name of a target, which these would break.
$(foreach character,; : % | = & \ $(hash) ',$(if $(findstring $(character),$(VENV)),\
    $(error VENV=$(VENV): choose a folder without $(character) in its name)))
ifneq ($(words $(VENV)),1)
$(error VENV=$(VENV): choose a folder without spaces in its name)
endif

installed := $(VENV)/.mnist-exp-installed

help: ## list these commands
	@awk -F ' *## *' '/^[a-z-]+:.*##/ { sub(/:.*/, "", $$1); printf "make %-12s %s\n", $$1, $$2 }' Makefile
	@echo
	@echo "PYTHON= chooses the Python (3.11 or newer) that makes the environment, and VENV= its folder,"
	@echo "or an environment of your own (conda: VENV=\$$CONDA_PREFIX)."

run: $(installed) ## MODEL=5 [SEED=1] [EPOCHS=2] [DEVICE=auto] [SPLIT=test] [RESUME=1]: train an iteration and record it
	@"$$VENV/bin/python" -m mnist_exp run $${SEED:+--seed="$$SEED"} $${EPOCHS:+--epochs="$$EPOCHS"} \
		$${DEVICE:+--device="$$DEVICE"} $${SPLIT:+--split="$$SPLIT"} $${RESUME:+--resume="$$RESUME"} -- "$$MODEL"

resume: $(installed) ## RUN=<id>: go on with a run that ended early
	@"$$VENV/bin/python" -m mnist_exp resume -- "$$RUN"

reproduce: $(installed) ## RUN=<id>: train a recorded run again, and compare every epoch
	@"$$VENV/bin/python" -m mnist_exp reproduce -- "$$RUN"

sweep: $(installed) ## MODELS="2 3" SEEDS=5 [EPOCHS=2] [SPLIT=test] [WORKERS=2] [THREADS=1] [SCHEDULER=host:8786]: train what the store lacks
	@"$$VENV/bin/python" -m mnist_exp sweep --models="$$MODELS" --seeds="$$SEEDS" \
		$${EPOCHS:+--epochs="$$EPOCHS"} $${SPLIT:+--split="$$SPLIT"} $${WORKERS:+--workers="$$WORKERS"} \
		$${THREADS:+--threads="$$THREADS"} $${SCHEDULER:+--scheduler="$$SCHEDULER"}

check: $(installed) ## [MODEL=6] [SEEDS=5] [BASELINE=5]: is the target met on every seed? Or: no worse than 5?
	@"$$VENV/bin/python" -m mnist_exp check $${SEEDS:+--seeds="$$SEEDS"} \
		$${BASELINE:+--baseline="$$BASELINE"} -- $${MODEL:+"$$MODEL"}

compare: $(installed) ## [MODELS="3 6"]: print a table of the iterations
	@"$$VENV/bin/python" -m mnist_exp compare $${MODELS:+--models="$$MODELS"}

report: $(installed) ## [MODELS="3 6"]: write the comparison as a page, figures and tables to reports/
	@"$$VENV/bin/python" -m mnist_exp report $${MODELS:+--models="$$MODELS"}

results: $(installed) ## write experiments/RESULTS.md, results/ and the table in README.md from the store
	@"$$VENV/bin/python" -m mnist_exp results

import: $(installed) ## enter the published runs of experiments/results/ into the store
	@"$$VENV/bin/python" -m mnist_exp import

backup: $(installed) ## [BACKUP=file.tar.gz]: write the whole local store to one file
	@"$$VENV/bin/python" -m mnist_exp backup -- $${BACKUP:+"$$BACKUP"}

restore: $(installed) ## BACKUP=file.tar.gz: put a backup in the place of the local store, which is kept
	@"$$VENV/bin/python" -m mnist_exp restore -- "$$BACKUP"

ui: $(installed) ## [PORT=5000]: browse the recorded runs
	@"$$VENV/bin/python" -m mnist_exp ui $${PORT:+--port="$$PORT"}

server: $(installed) ## BACKEND=postgresql:... [ARTIFACTS=folder or s3:...] [HOST=127.0.0.1] [PORT=5000]: a tracking server for several machines
	@"$$VENV/bin/python" -m mnist_exp server $${ARTIFACTS:+--artifacts="$$ARTIFACTS"} \
		$${HOST:+--host="$$HOST"} $${PORT:+--port="$$PORT"}

new: $(installed) ## MODEL=30 FROM=12: start an iteration from a copy of another
	@"$$VENV/bin/python" -m mnist_exp new --from="$$FROM" -- "$$MODEL"

test: $(installed) ## run the tests
	@"$$VENV/bin/python" -m pytest

test-slow: $(installed) ## run the tests that kill sweeps, their workers and their trainings
	@"$$VENV/bin/python" -m pytest --no-cov -m slow

test-faults: $(installed) ## kill, cut off and fill up runs at random moments, and print what was lost
	@"$$VENV/bin/python" -W ignore tests/faults.py

test-browser: $(installed) ## run the tests in a real browser (installs Debian's Chromium if it may)
	@for name in chromium chromium-browser google-chrome; do \
		command -v $$name > /dev/null && found=yes; done; \
	if [ -z "$$found" ] && [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null; then \
		apt-get -qq update && apt-get -qq install --yes --no-install-recommends chromium; \
	elif [ -z "$$found" ]; then \
		echo "No Chromium here. Debian: sudo apt-get install chromium; elsewhere:"; \
		echo "$$VENV/bin/playwright install chromium (which is used if it is there)"; fi
	@"$$VENV/bin/python" -m pytest --no-cov tests/browser

bench: $(installed) ## measure how fast it is (an hour and a half on a quiet machine), and write benchmarks/RESULTS.md
	@"$$VENV/bin/python" -m benchmarks

lint: $(installed) ## check style, types and the direction of imports
	@"$$VENV/bin/ruff" check .
	@"$$VENV/bin/ruff" format --check .
	@"$$VENV/bin/mypy"
	@"$$VENV/bin/lint-imports" --no-cache

setup: $(installed) ## make the environment that the others use (they call it themselves)

# The marker tells an environment made here from one that the user brought, and names the checkout
# that made it. What the user brought is completed where something is missing, but its versions are
# its owner's.
$(installed): pyproject.toml constraints.txt
	@owner=$$(cat "$$VENV/.mnist-exp" 2>/dev/null); python="$$VENV/bin/python"; \
	if [ -n "$$owner" ] && [ "$$owner" != "$$PWD" ] && [ -e "$$owner/pyproject.toml" ]; then \
		echo "make: VENV=$$VENV belongs to $$owner: choose another, or remove it" >&2; exit 2; fi; \
	if [ -n "$$owner" ] || [ ! -e "$$python" ]; then python="$$PYTHON"; fi; \
	"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "make: PYTHON=$$python must be Python 3.11 or newer, as in PYTHON=python3.12" >&2; \
		exit 2; }; \
	if [ -z "$$owner" ] && [ -e "$$VENV/bin/python" ]; then \
		echo "Using the environment in $$VENV, with the versions it has"; \
		"$$VENV/bin/python" -m pip install --editable '.[dev]'; \
	else \
		echo "Making the environment in $$VENV, once. PyTorch is a large download: on Linux about"; \
		echo "3 GB, and 6 GB on disk; this can take several minutes."; \
		mkdir -p "$$VENV" && echo "$$PWD" > "$$VENV/.mnist-exp" && "$$PYTHON" -m venv "$$VENV" && \
		"$$VENV/bin/python" -m pip install --constraint constraints.txt --editable '.[dev]'; \
	fi
	@touch "$$VENV/.mnist-exp-installed"
