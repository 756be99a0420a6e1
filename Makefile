# Each target works from a fresh clone.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := $(VENV)
.PHONY: $(VENV) quickstart test sanitize check package versions parity clean

$(VENV): $(VENV)/installed

$(VENV)/installed: pyproject.toml setup.py constraints.txt $(wildcard src/verydeep/engine/native/*)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@test ! -e src/verydeep/engine/_unbuilt.txt || sed 's/^/The engine was not built: /' src/verydeep/engine/_unbuilt.txt
	touch $@

# The paper's experiments on handwritten digits: 22 trainings, Tables 3 to 7, a report. Fails if the nets did not learn.
quickstart: $(VENV)/installed
	$(BIN)/verydeep reproduce --data digits --preset digits --out runs/quickstart
	@$(BIN)/python .ci/quickstart.py runs/quickstart/results.json

test: $(VENV)/installed
	$(BIN)/pytest --numprocesses 2
	VERYDEEP_ENGINE=off $(BIN)/pytest --numprocesses 2 -m "not slow" tests/test_network.py tests/training/test_step.py

# The tests of the engine's native code, compiled with assertions and the address and undefined-behaviour sanitizers.
SANITIZED := build/sanitized
SANITIZERS := -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer
PROCESSOR_avx512 := -march=x86-64-v4
PROCESSOR_avx2 := -march=x86-64-v3
runnable = $(shell $(BIN)/python -c "from verydeep.engine.native import runnable_here; print(*runnable_here())")

sanitize: $(VENV)/installed
	$(MAKE) --jobs 2 $(runnable:%=$(SANITIZED)/%.so)
	for name in $(runnable); do \
	  LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libstdc++.so.6)" \
	  ASAN_OPTIONS=detect_leaks=0 VERYDEEP_ENGINE=$(SANITIZED)/$$name.so \
	  $(BIN)/pytest tests/engine -k "$$name or assertions" || exit 1; \
	done

$(SANITIZED)/%.so: $(wildcard src/verydeep/engine/native/*)
	mkdir -p $(@D)
	$(CXX) -std=c++17 -O1 -g -Wall -Wextra -Werror $(SANITIZERS) -DVERYDEEP_DEBUG $(PROCESSOR_$*) \
	  -shared -fPIC src/verydeep/engine/native/engine.cpp -o $@

check: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python .ci/pages.py

# Builds the sdist and the wheel in dist/, and uses the wheel from a fresh environment.
package: $(VENV)/installed
	$(BIN)/python .ci/package.py

# The tests with every supported Python and torch (docs/versions.md). Not part of CI, because it installs gigabytes.
versions: $(VENV)/installed
	$(BIN)/python .ci/versions.py $(VERSIONS)

# PyTorch's tools on a small net, and other systems' nets compared with what is loaded from their files, each in a
# separate environment. Prints tables; fails if anything disagrees.
PARITY := build/parity
PEERS := build/peers

parity: $(PARITY)/installed $(PEERS)/installed
	$(PARITY)/bin/python tests/parity/tools.py
	$(PEERS)/bin/python tests/parity/weights.py $(if $(wildcard ../shared/data),--data ../shared/data)

$(PARITY)/installed: pyproject.toml constraints.txt tests/parity/requirements.txt
	$(PYTHON) -m venv $(PARITY)
	$(PARITY)/bin/pip install --quiet --constraint constraints.txt --editable . --requirement tests/parity/requirements.txt
	touch $@

# torchvision, timm and Keras, whose nets are compared with what we load of their files.
$(PEERS)/installed: pyproject.toml tests/parity/peers.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/pip install --quiet --editable . --requirement tests/parity/peers.txt
	touch $@

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache build dist
