# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CONSTRAINTS ?= --constraint requirements/tested.txt
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check $(CONSTRAINTS)
# PyTorch for the tests; elsewhere than on Linux with a CPU only, say which build: make test TORCH=torch
TORCH ?= torch==2.13.0
CODE := src tests benchmarks tools examples

.PHONY: demo demo-nodes digits images test check format lint types imports docs evidence clean

demo: $(VENV)/.installed  ## install, then run the main job by two processes on embedded data
	$(BIN)/unseen demo

demo-nodes: $(VENV)/.installed  ## install, then let two nodes go through a project, from pairing to revocation
	$(BIN)/unseen demo-nodes

digits: $(VENV)/.learning  ## fetch MNIST, then learn it from 300 simulated clients
	$(BIN)/python tools/fetch_images.py mnist
	$(BIN)/python examples/digits.py

images: $(VENV)/.developing  ## fetch the image sets that tests and benchmarks use, as far as they are to be had
	$(BIN)/python tools/fetch_images.py --optional

test: $(VENV)/.developing  ## install, then run everything that CI runs
	$(MAKE) --no-print-directory check

check: lint types imports docs  ## everything that CI runs; the tests come last
	$(BIN)/pytest

lint: $(VENV)/.developing
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/ruff check $(CODE)

types: $(VENV)/.developing
	$(BIN)/mypy

imports: $(VENV)/.developing
	$(BIN)/lint-imports --no-cache

docs: $(VENV)/.developing
	$(BIN)/mkdocs build --strict --quiet

format: $(VENV)/.developing  ## bring the code into form
	$(BIN)/ruff check --fix $(CODE)
	$(BIN)/ruff format $(CODE)

evidence: $(VENV)/.developing  ## long runs and benchmarks, not part of CI
	$(BIN)/pytest -m evidence
	$(BIN)/python -m benchmarks.main_job
	$(BIN)/python tools/fetch_images.py
	$(BIN)/python -m benchmarks.niid --published
	for epsilon in 1 2 4 8; do $(BIN)/python -m benchmarks.private_digits --epsilon $$epsilon || exit 1; done

clean:
	rm -rf $(VENV) unseen-demo site

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml requirements/tested.txt | $(VENV)/bin/python
	$(INSTALL) --editable .
	touch $@

$(VENV)/.learning: pyproject.toml requirements/tested.txt | $(VENV)/bin/python
	$(INSTALL) --editable '.[dp]' '$(TORCH)'
	touch $@

$(VENV)/.developing: pyproject.toml requirements/tested.txt | $(VENV)/bin/python
	$(INSTALL) --editable '.[dev,docs]' '$(TORCH)'
	touch $@ $(VENV)/.learning $(VENV)/.installed
