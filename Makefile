# Each target works from a fresh clone.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := $(VENV)
.PHONY: $(VENV) quickstart test check parity clean

$(VENV): $(VENV)/installed

$(VENV)/installed: pyproject.toml constraints.txt $(wildcard src/verydeep/engine/native/*)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

# Two nets of different depth on handwritten digits, the deeper one from the shallower; then both tested on three
# scales, alone and together.
DIGITS := --crop 32 --width 0.25 --fully-connected 128 --training-scale 32 40 --no-flip \
	--initialisation glorot --batch 64 --epochs 40 --patience 4 --rate-drops 2

quickstart: $(VENV)/installed
	$(BIN)/verydeep train digits --net A $(DIGITS) --out runs/quickstart/a
	$(BIN)/verydeep train digits --net D $(DIGITS) --start-from runs/quickstart/a --out runs/quickstart/d
	$(BIN)/verydeep test runs/quickstart/a runs/quickstart/d digits --scales 32 36 40

test: $(VENV)/installed
	$(BIN)/pytest --numprocesses 2
	VERYDEEP_ENGINE=off $(BIN)/pytest --numprocesses 2 tests/test_network.py tests/training/test_step.py

check: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# PyTorch's tools on a small net of ours, in an environment of their own: a table, and an error where one disagrees.
PARITY := build/parity

parity: $(PARITY)/installed
	$(PARITY)/bin/python tests/parity/tools.py

$(PARITY)/installed: pyproject.toml constraints.txt tests/parity/requirements.txt
	$(PYTHON) -m venv $(PARITY)
	$(PARITY)/bin/pip install --quiet --constraint constraints.txt --editable . --requirement tests/parity/requirements.txt
	touch $@

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache build
