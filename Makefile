# Everything runs in .venv, which .ci/prepare makes complete and leaves alone while it is.

# The folder of this file, also for `make -f elsewhere/Makefile`.
top := $(shell dirname '$(subst ','\'',$(strip $(MAKEFILE_LIST)))')
in_top := $(if $(filter-out .,$(top)),cd '$(subst ','\'',$(top))' &&)

.PHONY: help lab book cheatsheet history test check bench specimen recordings clean prepare

help:
	@echo 'make lab       say what works on this kernel, and open the notebooks in JupyterLab'
	@echo 'make book      run all notebooks, and make pages of them that open without a network'
	@echo 'make cheatsheet  one page of A4 with members, checks and changes (PDF)'
	@echo 'make history   docs/history.md, made again from the tables of changes and claims'
	@echo 'make test      check style and types, and run all tests'
	@echo 'make check     check style and types only'
	@echo 'make bench     measure'
	@echo 'make specimen  build the specimens from their assembly sources (needs binutils)'
	@echo 'make recordings  record what the notebooks show where the call cannot be made'
	@echo 'make clean     remove the environment and what was built'

prepare:
	@$(in_top) .ci/prepare

lab: prepare
	@$(in_top) .venv/bin/prctlmm-lab doctor --brief || true
	@$(in_top) exec .venv/bin/prctlmm-lab lab

book: prepare
	$(in_top) .venv/bin/python -m docs.book

cheatsheet: prepare
	$(in_top) mkdir -p build && .venv/bin/prctlmm-lab cheatsheet build/cheatsheet.pdf

history: prepare
	$(in_top) .venv/bin/python -m docs.history

check: prepare
	$(in_top) .venv/bin/ruff check
	$(in_top) .venv/bin/ruff format --check
	$(in_top) .venv/bin/mypy

test: check
	$(in_top) .venv/bin/pytest -n 2

bench: prepare
	$(in_top) .venv/bin/python -m bench

specimen: prepare
	$(in_top) .venv/bin/python -m prctlmm_lab.specimen.build

recordings: prepare
	$(in_top) .venv/bin/python -m tests.record

clean:
	$(in_top) rm -rf .venv .hypothesis .mypy_cache .pytest_cache .ruff_cache build dist
	$(in_top) find . -name __pycache__ -type d -prune -exec rm -rf {} +
