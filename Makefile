# `make demo` and `make test` start from a fresh clone: they make .venv and install what they need.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# On all cores, where pip has one. Some packages bring a file for another Python, which compiles as little by pip.
COMPILE := @$(BIN)/python -W ignore -m compileall -qq -j 0 $(VENV)/lib sio_ray || true

.DEFAULT_GOAL := help
.PHONY: help install demo test check audit format clean

help:  ## show this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(VENV)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is %d.%d; set PYTHON=" % sys.version_info[:2]) if sys.version_info < (3, 11) else 0'
	@echo 'installing into $(VENV): about 5 GB, a few minutes, once'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --no-compile --editable .
	$(COMPILE)
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --no-compile --group dev
	$(COMPILE)
	@touch $@

install: $(VENV)/.installed  ## make .venv and install the package

demo: $(VENV)/.installed  ## run the whole method on scikit-learn's digits; minutes on 2 cores
	@$(BIN)/sio-ray demo

test: $(VENV)/.installed-dev  ## run all tests
	@$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

check: $(VENV)/.installed-dev  ## lint, formatting, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

audit: $(VENV)/.installed-dev  ## compare all that is installed with known vulnerabilities; asks the network
	@$(BIN)/python -m pip install --quiet pip-audit
	$(BIN)/pip-audit --skip-editable --progress-spinner off

format: $(VENV)/.installed-dev  ## mend what can be mended
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## delete .venv and caches, never runs/
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache build dist *.egg-info
