# make run     set up and serve on http://127.0.0.1:8000
# make check   set up, then lint, types and tests
# make         lint, types and tests in the environment that is there
VENV ?= .venv
PYTHON ?= $(VENV)/bin/python

.PHONY: all check run demo lint types test fix bench

all: lint types test

check: $(VENV)/.installed
	$(MAKE) all

run: $(VENV)/.installed
	$(PYTHON) -m service.cli serve

demo: $(VENV)/.installed
	$(PYTHON) -m service.cli demo

$(VENV)/.installed: pyproject.toml
	python3 -m venv $(VENV)
	$(VENV)/bin/pip install --quiet -e '.[dev]'
	touch $@

lint:
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .

types:
	$(PYTHON) -m mypy

test:
	$(PYTHON) -m pytest

fix:
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .

bench:
	$(PYTHON) -m service.cli bench
