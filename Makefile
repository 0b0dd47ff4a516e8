# Everything a person does here. `make run` needs Python 3.11 or newer and make, nothing else.
#
#   make run             the whole service on this machine; CHANGEROOM_PORT=8080 make run picks the port
#   make test            lint and every test; installs Chromium where it may
#   make test-faults     every fault on real processes, the long ones too; writes loadtests/results/faults.json
#   make fuzz            hostile input for MINUTES (10)
#   make bench-gateway   requests per second and added milliseconds of everything but the engine
#   make bench-overload  goodput, time to reject and fairness beyond capacity; make bench-capacity checks the simulation
#   make bench-gpu       try-ons on this GPU against diffusers; PRESET=tstars-5b make bench-gpu for another shape
#   make bench-adapters  distinct adapters in a stream of try-ons against none, on the GPU or one thread of the CPU
#   make gpu-check       GPU tests, both large shapes measured and TensorRT, each within MINUTES (8), in one file
#   make refresh-constraints   the newest versions into constraints.txt and the images' locks, and every test on them
#
# Versions are those of constraints.txt, with which the tests ran; others may install any within pyproject's ranges.
# Which torch: Linux without an NVIDIA GPU takes the CPU build from PyTorch's own index (200 MB, not gigabytes of
# CUDA). TORCH_INDEX_URL=<index> make setup chooses another one, TORCH_INDEX_URL=pypi the default of pip.

SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
PYTHONS := python3.12 python3.13 python3.11 python3.14 python3 python
TORCH := $(shell sed -n '/^torch==/p' constraints.txt)
TORCH_CPU_INDEX := https://download.pytorch.org/whl/cpu
TORCH_INDEX_URL ?=
PIP := PIP_BUILD_CONSTRAINT=constraints.txt $(BIN)/python -m pip --disable-pip-version-check
INSTALL := $(PIP) install -c constraints.txt
PYTEST_ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup setup-test setup-browser run test lint test-faults fuzz bench-gateway bench-overload bench-capacity bench-gpu bench-adapters gpu-check refresh-constraints clean

help:
	@sed -n '3,12p' Makefile | sed 's/^# *//'

setup: $(VENV)/.stamp

setup-test: $(VENV)/.stamp-test

$(VENV)/.stamp: pyproject.toml constraints.txt
	@set -euo pipefail; \
	python=""; \
	for name in $(PYTHONS); do \
	  if "$$name" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 15))' 2>/dev/null; then \
	    python=$$name; break; \
	  fi; \
	done; \
	if [ -z "$$python" ]; then \
	  echo "make: no Python from 3.11 to 3.14 found; install one (Debian: apt install python3 python3-venv)" >&2; \
	  exit 1; \
	fi; \
	if ! "$$python" -c 'import venv, ensurepip' 2>/dev/null; then \
	  echo "make: $$python cannot make virtual environments; install its venv package" \
	    "(Debian, Ubuntu: apt install python3-venv)" >&2; \
	  exit 1; \
	fi; \
	if ! $(BIN)/python -m pip --version >/dev/null 2>&1; then "$$python" -m venv --clear $(VENV); fi
	@$(MAKE) --no-print-directory torch
	$(INSTALL) -e .
	@touch $@

# A CPU build, where no GPU would use another one; pip's own default when PyTorch's index cannot be reached. torch alone:
# what it needs comes with everything else, from where everything else comes.
.PHONY: torch
torch:
	@set -euo pipefail; \
	if $(BIN)/python -c 'import sys; from importlib.metadata import version as v; \
	    sys.exit("torch==" + v("torch").split("+")[0] != sys.argv[1])' "$(TORCH)" 2>/dev/null; then exit 0; fi; \
	index="$(TORCH_INDEX_URL)"; \
	if [ -z "$$index" ] && [ "$$(uname -s)" = Linux ] && ! command -v nvidia-smi >/dev/null; then \
	  index="$(TORCH_CPU_INDEX)"; \
	fi; \
	if [ -n "$$index" ] && [ "$$index" != pypi ]; then \
	  echo "torch: from $$index"; \
	  if timeout 15 $(BIN)/python -c 'import sys, urllib.request as r; r.urlopen(sys.argv[1], timeout=8)' \
	      "$${index%/}/torch/" 2>/dev/null; then \
	    $(PIP) install --no-deps --index-url "$$index" --timeout 30 --retries 1 "$(TORCH)" && exit 0; \
	  fi; \
	  echo "torch: $$index cannot be reached, taking pip's default"; \
	fi; \
	$(PIP) install --no-deps "$(TORCH)"

$(VENV)/.stamp-test: $(VENV)/.stamp
	$(INSTALL) -e '.[test]'
	@touch $@

setup-browser:
	@set -euo pipefail; \
	if command -v chromedriver >/dev/null && { command -v chromium || command -v google-chrome; } >/dev/null; then \
	  exit 0; \
	fi; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  export DEBIAN_FRONTEND=noninteractive; \
	  apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium chromium-driver && exit 0; \
	fi; \
	echo "*******************************************************************************" >&2; \
	echo "NOT TESTED here: the studio page. It needs Chromium and chromedriver, which only" >&2; \
	echo "root can install with apt-get (Debian: apt install chromium chromium-driver)." >&2; \
	echo "*******************************************************************************" >&2

run: setup
	@exec $(BIN)/changeroom up

test: setup-test setup-browser lint
	$(BIN)/python -m pytest $(PYTEST_ARGS)

lint: setup-test
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

FAULTS := loadtests/results/faults.json

test-faults: setup-test
	@rm -f $(FAULTS); \
	CHANGEROOM_FAULTS_LEDGER=$(FAULTS) $(BIN)/python -m pytest tests/faults -m "long or not long" \
	  --timeout 600; status=$$?; \
	$(BIN)/python tests/faults/fault_table.py $(FAULTS); exit $$status

# Hostile input for MINUTES; what fails is written to runs/fuzz and makes this fail. FUZZ_ARGS=--help tells more.
MINUTES ?= 10
FUZZ_ARGS ?=
fuzz: setup-test
	$(BIN)/python tests/abuse/fuzz.py --minutes $(MINUTES) $(FUZZ_ARGS)

bench-gateway: setup
	$(BIN)/python -m loadtests.bench.gateway_bench

bench-overload: setup
	$(BIN)/python -m loadtests.bench.overload

bench-capacity: setup
	$(BIN)/python -m loadtests.bench.validate

PRESET ?= klein-4b

bench-gpu: setup
	$(BIN)/python -c 'import triton' 2>/dev/null || $(INSTALL) -e '.[gpu]'
	$(BIN)/changeroom engine bench --preset $(PRESET) --json loadtests/results

bench-adapters: setup
	$(BIN)/changeroom engine bench-adapters --json loadtests/results/adapters.json

# A part that was run again replaces its own entry of that day: make gpu-check PARTS=tests,klein-4b
PARTS ?= tests,klein-4b,tstars-5b,tensorrt

gpu-check: MINUTES = 8
gpu-check: setup-test
	$(BIN)/python -c 'import triton' 2>/dev/null || $(INSTALL) -e '.[gpu]'
	$(BIN)/python -m loadtests.bench.gpu_check --parts $(PARTS) --minutes $(MINUTES)

# The newest versions within pyproject's ranges for everybody who uses this Makefile, once every test has passed on them.
refresh-constraints:
	@set -euo pipefail; \
	tools=$$(mktemp -d); trap 'rm -rf "$$tools"' EXIT; \
	for name in $(PYTHONS); do if "$$name" -m venv "$$tools" 2>/dev/null; then break; fi; done; \
	"$$tools/bin/python" -m pip install --quiet --disable-pip-version-check uv; \
	PATH="$$tools/bin:$$PATH" deploy/requirements/lock.sh --newest
	rm -rf $(VENV)
	@$(MAKE) --no-print-directory test

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
