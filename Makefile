# make demo: install and run the main job.  make test: install where that is missing, and run the tests, JOBS at a time.
# make test-all: run the tests marked `extended` too.  make lint: check style and types.  ARGS: more options for the command.
PYTHON ?= python3
VENV ?= .venv
JOBS ?= 2
BIN := $(VENV)/bin
READY := $(VENV)/.ready
LINTED := setup.py $(wildcard tardis_fl tests benchmarks simulations examples)

.PHONY: setup demo quickstart test test-all lint clean

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else f"tardis_fl needs Python 3.11 or newer, {sys.executable} is " + sys.version.split()[0] + "; try make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --disable-pip-version-check --quiet -c constraints.txt -e ".[test]"
	@touch $(READY)

demo: setup
	$(BIN)/python -m tardis_fl.simulate configs/cifar10_3tier.yaml $(ARGS)

quickstart: setup
	$(BIN)/python -m tardis_fl.simulate configs/quickstart.yaml $(ARGS)

test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile $(ARGS)

test-all:
	$(MAKE) test ARGS='-m "extended or not extended" $(ARGS)'

lint: setup
	$(BIN)/ruff check $(LINTED)
	$(BIN)/ruff format --check $(LINTED)

clean:
	rm -rf $(VENV) *.egg-info
