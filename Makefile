# Every command a person uses; bare `make` lists them. What a command of mnist-exp takes and does is
# said by its function in mnist_exp/commands, and nowhere else.

.DEFAULT_GOAL := help
.SUFFIXES:
commands := run resume reproduce sweep tune new adopt check compare runs watch report results import delete backup restore ui server
others := help setup test test-slow test-faults test-browser bench lint
.PHONY: $(commands) $(others)

# What a person sets is taken literally: it reaches a command through the environment alone, and
# neither make nor a shell expands or runs what is in it.
given := $(foreach name,$(.VARIABLES),$(if $(filter command,$(firstword $(origin $(name)))),$(name)))
unexport $(given)
override SHELL := /bin/sh
override .SHELLFLAGS := -c
override PYTHON := $(or $(value PYTHON),python3)
override VENV := $(or $(value VENV),.venv)
python := $(or $(wildcard $(VENV)/bin/python),$(PYTHON))

# VENV is also part of the name of a target, which these would break.
hash := \#
$(foreach character,; : % | = & \ $(hash) ',$(if $(findstring $(character),$(VENV)),\
    $(error VENV=$(VENV): choose a folder without $(character) in its name)))
$(if $(filter-out 1,$(words $(VENV))),$(error VENV=$(VENV): choose a folder without spaces in its name))

# A misspelt name, or one that the command does not take, would go unnoticed: mnist-exp refuses it,
# before anything runs and before a name means anything to make.
ifneq ($(filter-out PYTHON VENV,$(given)),)
quoted = '$(subst ','\'',$(1))'
refusal := $(shell $(call quoted,$(python)) -m mnist_exp.commands.makefile \
    $(call quoted,$(MAKECMDGOALS)) $(call quoted,$(given)) $(others) 2> /dev/null)
$(if $(refusal),$(error $(refusal)))
endif
$(foreach name,$(given),$(eval override $(name) := $$(value $(name))))
export python PYTHON VENV $(given)

installed := $(VENV)/.mnist-exp-installed
new_enough = "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	echo "make: PYTHON=$$python must be Python 3.11 or newer, as in PYTHON=python3.12" >&2; exit 2; }

$(commands): $(installed)
	@"$$VENV/bin/python" -m mnist_exp $@

help: ## list these commands
	@$(new_enough); "$$python" -m mnist_exp.commands.makefile
	@awk -F ' *## *' '/^[a-z-]+:.*##/ { sub(/:.*/, "", $$1); printf "make %-12s %s\n", $$1, $$2 }' Makefile
	@echo; echo "PYTHON= chooses the Python (3.11 or newer) that makes the environment,"
	@echo "and VENV= its folder, or one of your own (conda: VENV=\$$CONDA_PREFIX)."
test: $(installed) ## run the tests
	@"$$VENV/bin/python" -m pytest
test-slow: $(installed) ## run the slow tests, such as each command of the documents
	@"$$VENV/bin/python" -m pytest -m slow
test-faults: $(installed) ## kill, cut off and fill up runs, and print what was lost
	@PYTHONPATH=tests/support "$$VENV/bin/python" -W ignore tests/faults/inject.py
test-browser: $(installed) ## run the tests in a browser (installs Chromium if it may)
	@for name in chromium chromium-browser google-chrome; do command -v $$name > /dev/null && exit; done; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null; then \
		apt-get -qq update && apt-get -qq install --yes --no-install-recommends chromium; \
	else echo "No Chromium here. Debian: sudo apt-get install chromium; elsewhere:"; \
		echo "$$VENV/bin/playwright install chromium (which is used if it is there)"; fi
	@"$$VENV/bin/python" -m pytest tests/browser
bench: $(installed) ## measure how fast it is, for an hour and a half
	@"$$VENV/bin/python" -m benchmarks
lint: $(installed) ## check style, types and the direction of imports
	@"$$VENV/bin/ruff" check .
	@"$$VENV/bin/ruff" format --check .
	@"$$VENV/bin/mypy"
	@"$$VENV/bin/lint-imports" --no-cache
setup: $(installed) ## make the environment, as the others do by themselves

# uv unpacks on all cores, and links what it has unpacked before: a third of the time that pip takes.
# It does not read where pip is told to look for packages, nor does it compile them: what a run loads
# is compiled here, also for those who want no such files later, where each start would take longer.
by_uv = "$$VENV/bin/python" -m pip install --quiet --constraint constraints.txt uv && { \
	index="$${PIP_INDEX_URL:-$$("$$VENV/bin/python" -m pip config get global.index-url 2> /dev/null)}"; \
	[ -z "$$index" ] || export UV_DEFAULT_INDEX="$${UV_DEFAULT_INDEX:-$$index}"; \
	"$$VENV/bin/python" -m uv pip install --python "$$VENV/bin/python" --constraint constraints.txt \
		--editable '.[dev]'; } && { \
	env -u PYTHONDONTWRITEBYTECODE "$$VENV/bin/python" -c \
		'import torch._dynamo, mnist_exp.runs.run, mnist_exp.runs.sweep, mnist_exp.reporting.page' || \
	true; }

# The marker tells an environment made here from one that the user brought, and names the checkout
# that made it. What the user brought is completed where something is missing, but its versions are
# its owner's. At the end the engine is compiled; where that fails, a line says so, and torch trains.
$(installed): pyproject.toml constraints.txt
	@owner=$$(cat "$$VENV/.mnist-exp" 2> /dev/null); \
	if [ -n "$$owner" ] && [ "$$owner" != "$$PWD" ] && [ -e "$$owner/pyproject.toml" ]; then \
		echo "make: VENV=$$VENV belongs to $$owner: choose another, or remove it" >&2; exit 2; fi; \
	if [ -n "$$owner" ]; then python="$$PYTHON"; fi; $(new_enough); \
	if [ -z "$$owner" ] && [ -e "$$VENV/bin/python" ]; then \
		echo "Using the environment in $$VENV, with the versions it has"; \
		"$$VENV/bin/python" -m pip install --editable '.[dev]'; \
	else \
		echo "Making the environment in $$VENV, once. PyTorch is a large download: on Linux about"; \
		echo "3 GB, and 6 GB on disk; this can take several minutes."; \
		mkdir -p "$$VENV" && echo "$$PWD" > "$$VENV/.mnist-exp" && "$$PYTHON" -m venv "$$VENV" && { \
			$(by_uv) || { echo "make: uv cannot install here, so pip does, which takes longer"; \
			"$$VENV/bin/python" -m pip install --constraint constraints.txt --editable '.[dev]'; }; }; \
	fi
	@compile() { "$$VENV/bin/python" -m mnist_exp.engine.library; }; compile; \
	if [ $$? = 3 ]; then echo "make: so ziglang is installed, a compiler that pip brings, about 100 MB"; \
		"$$VENV/bin/python" -m pip install --constraint constraints.txt ziglang && compile || \
		echo "make: without the engine torch computes the steps, more slowly; all else is the same"; fi
	@touch "$$VENV/.mnist-exp-installed"
