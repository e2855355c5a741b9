# Every target sets up what it needs. A machine with Python 3.11 or newer, git and make is enough.
#
#   make demo        fetch a sample head, extract the brain, write images and a report to demo/
#   make test        the whole suite under tensorflow, jax, torch and openvino
#   make test-fast   one backend, without the slow tests
#   make lint        ruff, mypy, import contracts, generated files, text
#   make docs        regenerate the model table and the model cards
#   make bench       time kerasneuro against the original tools (QUICK=1: under five minutes)
#   make parity      compare the results with those of the original packages
#   make clean       remove what the other targets made

PYTHON ?= python3
BACKEND ?= tensorflow
PYTEST_ARGS ?= -q
# Address of an index with CPU builds of PyTorch; needed only where the configured index offers CUDA builds alone.
TORCH_CPU_INDEX ?=
# Set to 1 to accept the CUDA build of PyTorch.
ALLOW_CUDA ?=
TORCH ?= torch==2.13.0

VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python tools/install.py --cpu-index "$(TORCH_CPU_INDEX)" $(if $(ALLOW_CUDA),--allow-cuda)
STAMPS := $(VENV)/stamps
EXTRAS := tensorflow,jax,torch,openvino,datalad,report,train,evaluation,torchio,export,dev

.PHONY: demo test test-fast lint docs bench parity clean
.DELETE_ON_ERROR:

$(STAMPS)/created:
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; v >= (3, 11) or sys.exit("Python 3.11 or newer is needed, this is %d.%d: make PYTHON=python3.11 ..." % v)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -qq --upgrade "pip>=24"
	mkdir -p $(STAMPS) && touch $@

$(STAMPS)/demo: pyproject.toml weights_registry.json tools/install.py | $(STAMPS)/created
	@echo "Setting up $(VENV) for the demonstration"
	$(INSTALL) --editable ".[tensorflow,report]"
	@touch $@

# PyTorch comes first and alone, so that every later range is already satisfied by the CPU build.
$(STAMPS)/torch: tools/install.py | $(STAMPS)/created
	$(BIN)/python -c "import torch" 2>/dev/null || $(INSTALL) $(TORCH)
	@touch $@

$(STAMPS)/test: pyproject.toml weights_registry.json tools/install.py | $(STAMPS)/torch
	@echo "Setting up $(VENV) for the tests: four backends and every extra but hippocampus"
	$(INSTALL) --editable ".[$(EXTRAS)]"
	@touch $@

demo: $(STAMPS)/demo
	$(BIN)/kerasneuro fetch t1-group-average --dest demo
	KERAS_BACKEND=$(BACKEND) $(BIN)/kerasneuro run deepbet demo/mean_reg2mean.nii.gz -o demo/deepbet --report --overwrite
	@echo
	@echo "Done. The results are in demo/deepbet:"
	@ls demo/deepbet

test: $(STAMPS)/test
	$(BIN)/python tools/run_tests.py -- $(PYTEST_ARGS)

test-fast: $(STAMPS)/test
	$(BIN)/python tools/run_tests.py --fast --backends $(BACKEND) -- $(PYTEST_ARGS)

lint: $(STAMPS)/test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python docs/build.py --check
	$(BIN)/python tools/check_text.py

docs: $(STAMPS)/test
	$(BIN)/python docs/build.py

# The original tools need other versions of the same libraries, so each lives in an environment of its own.
.venvs/%/ready: benchmarks/requirements-%.txt | $(STAMPS)/created
	test -x .venvs/$*/bin/python || $(PYTHON) -m venv .venvs/$*
	.venvs/$*/bin/python -m pip install -qq --upgrade "pip>=24"
	if grep -qi torch $<; then .venvs/$*/bin/python tools/install.py --cpu-index "$(TORCH_CPU_INDEX)" $(TORCH); fi
	.venvs/$*/bin/python tools/install.py --requirement $<
	@touch $@

bench: $(STAMPS)/test .venvs/deepbet/ready .venvs/nobrainer/ready
	$(BIN)/python benchmarks/run.py $(if $(QUICK),--quick)
	$(BIN)/python docs/build.py

parity: $(STAMPS)/test .venvs/deepbet/ready .venvs/nobrainer/ready .venvs/monai/ready
	$(BIN)/python tools/parity/run.py
	$(BIN)/python docs/build.py

clean:
	rm -rf $(VENV) .venvs demo build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find kerasneuro tests tools benchmarks docs -name __pycache__ -type d -prune -exec rm -rf {} +
