PYTHON ?= .venv/bin/python

.PHONY: all lint types test fix run bench setup

all: lint types test

setup:
	python3 -m venv .venv
	.venv/bin/pip install --quiet -e '.[dev]'

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

run:
	$(PYTHON) -m service.cli serve

bench:
	$(PYTHON) -m service.cli bench
