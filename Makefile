# Everything a newcomer needs: `make demo` and `make test` create their own environment in .venv.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --no-compile --editable
comma := ,
space := $(subst ,, )
EXTRAS := train,cpu,dev
# Extras that need more than a registry (a C++ compiler, say). Their absence breaks nothing else.
OPTIONAL_EXTRAS := cluster crf video web mcap mqtt mavlink nmea foxglove signalk rtx openvino bench interop mutants

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow lint signatures bench gpu venv clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: venv ## render a clip, train on it, evaluate, export with parity, stream (IL2VSEG_DATA: real frames)
	$(BIN)/python -m il2vseg.demo

test: $(VENV)/.optional ## install what the tests need and run them
	tests/debian-packages.sh
	$(BIN)/pytest -m "not slow" --numprocesses 2 --dist loadfile

test-slow: $(VENV)/.optional ## run the slow tests too
	tests/debian-packages.sh
	tests/npm-packages.sh
	$(BIN)/pytest

lint: venv ## ruff, mypy and a spell checker
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	git ls-files -z '*.py' '*.md' '*.toml' '*.js' '*.css' '*.html' '*.yaml' '*.sh' Makefile | xargs -0 $(BIN)/python -m codespell_lib
	@# export/, calib/ and runtime/ are imported as il2vseg.*: show them so to mypy, in a tree of links.
	rm -rf $(VENV)/typing && mkdir -p $(VENV)/typing/il2vseg
	ln -s $(CURDIR)/il2vseg/* $(addprefix $(CURDIR)/,$(wildcard export calib runtime)) $(VENV)/typing/il2vseg/
	MYPYPATH=$(VENV)/typing $(BIN)/mypy

signatures: venv ## write the types of the functions' keyword arguments, after a flag was added or changed
	$(BIN)/python -m il2vseg.signatures
	$(BIN)/ruff format --quiet il2vseg/flags.pyi

bench: $(VENV)/.optional ## measure the hot paths
	$(BIN)/python -m il2vseg.bench
	$(BIN)/python bench/export.py
	$(BIN)/python bench/runtime.py
	$(BIN)/python bench/student.py

gpu: $(VENV)/.installed ## measure training, exports and the runtime on a GPU, and check that they compute the same
	$(BIN)/python bench/gpu.py

mutants: $(VENV)/.optional ## plant bugs and see which no test notices (FILES=, SAMPLE=, SECONDS=, SEED=)
	$(INSTALL) '.[mutants]'
	$(BIN)/python tests/mutants.py $(FILES) --sample $(or $(SAMPLE),200) --seconds $(or $(SECONDS),3600) --seed $(or $(SEED),0)

venv: $(VENV)/.installed ## create the environment in .venv

clean: ## remove the environment and caches, keep runs/
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

# The stamps make installation happen once, and again when pyproject.toml changes.
$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) '.[$(EXTRAS)]'
	touch $@

$(VENV)/.optional: $(VENV)/.installed
	@$(INSTALL) '.[$(subst $(space),$(comma),$(OPTIONAL_EXTRAS))]' || for extra in $(OPTIONAL_EXTRAS); do \
	    $(INSTALL) ".[$$extra]" \
	        || echo "make: left out the extra '$$extra': it did not install; tests that need it are skipped" >&2; \
	done
	touch $@
