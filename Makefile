# Everything here calls commands that README shows; nothing needs make.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

# Without bytecode every Ray process would compile torch and ray again at its start.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: quickstart test check format install

quickstart: install
	$(BIN)/gfnet quickstart

test: install
	$(BIN)/python -m pytest

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

install: $(VENV)/installed

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; give make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --compile --constraint constraints.txt --editable '.[dev]'
	touch $@
