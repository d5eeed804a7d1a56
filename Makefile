# Everything runs in .venv, which each target builds by itself. Needs make and Python >= 3.11.
#   make demo        score the shipped activations of a language model
#   make demo-model  score the shipped language model whole, and its perplexity; installs torch
#   make test        the whole test suite on all cores, with every optional dependency
#   make check       its fast part, within a minute
#   make lint        style, types, spelling
#   make bench       timings as ratios against named peers
#   make sweep       which causal language models of the installed transformers run block by block
#   make install     the command line only: .venv/bin/wncore; EXTRAS=all adds torch, matplotlib, pyarrow, pytest
# Variables, as in `make test CONSTRAINTS=`:
#   CONSTRAINTS    the versions that are tested (constraints.txt); empty takes the newest of everything
#   TORCH_INDEX    one more package index, such as https://download.pytorch.org/whl/cpu, for a torch without CUDA

PYTHON ?= python3
EXTRAS ?=
CONSTRAINTS ?= constraints.txt
TORCH_INDEX ?=
BIN = .venv/bin
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check \
	$(addprefix --constraint ,$(CONSTRAINTS)) $(addprefix --extra-index-url ,$(TORCH_INDEX))
# the processes share the cores: none waits spinning, and BLAS takes one
PYTEST = OMP_WAIT_POLICY=passive OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --maxprocesses 8 --dist loadgroup

.PHONY: install demo demo-model test check lint bench sweep clean

# one stamp for each choice of extras, so that nothing is installed twice
STAMP = .venv/installed-$(or $(EXTRAS),core)

install: $(STAMP)

$(STAMP): pyproject.toml $(CONSTRAINTS) | $(BIN)/python
	@$(INSTALL) --editable '.$(if $(EXTRAS),[$(EXTRAS)],)'
	@touch '$@'

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "wncore needs Python 3.11 or newer; set PYTHON=")'
	@$(PYTHON) -m venv .venv

demo: install
	$(BIN)/wncore score data/smollm2-135m

demo-model:
	@$(MAKE) --no-print-directory install EXTRAS=torch
	$(BIN)/wncore score data/tiny-llm --text data/tiny-llm/heldout.txt --windows 16 --top 5
	$(BIN)/wncore eval data/tiny-llm --text data/tiny-llm/heldout.txt

test:
	@$(MAKE) --no-print-directory install EXTRAS=all
	$(PYTEST)

check:
	@$(MAKE) --no-print-directory install EXTRAS=all
	$(PYTEST) -m 'not slow'

lint:
	@$(MAKE) --no-print-directory install EXTRAS=all,lint
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/codespell

bench:
	@$(MAKE) --no-print-directory install EXTRAS=all
	$(BIN)/python benchmarks/score.py
	OMP_WAIT_POLICY=passive $(BIN)/python benchmarks/prune.py
	$(BIN)/python benchmarks/prune_errors.py

sweep:
	@$(MAKE) --no-print-directory install EXTRAS=all
	$(BIN)/python -W ignore tests/sweep_models.py

clean:
	rm -rf .venv build dist .pytest_cache .ruff_cache .hypothesis
