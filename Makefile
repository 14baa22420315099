# make demo: watch a small policy learn the 24 game (about 8 minutes after the set-up).
# make test: what CI runs. make test-slow: minutes-long tests. make bench: figures and ratios.
# make check: style, types, layering. make lock: renew requirements/cpu.lock. make clean.

BIN := .venv/bin
NAME ?= demo-$(shell date +%Y%m%d-%H%M%S)
ARGS ?=
export PYTHON

.PHONY: demo test test-slow check bench setup lock clean

demo: setup
	$(BIN)/cardinal train configs/gp_l.yaml name=$(NAME) $(ARGS)

test: check
	$(BIN)/python -m pytest $(ARGS)

test-slow: setup
	$(BIN)/python -m pytest -m slow $(ARGS)

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_layering.py

bench: setup
	$(BIN)/python -m benchmarks $(ARGS)

setup:
	@tools/setup.sh

lock: setup
	tools/lock.sh $(ARGS)

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis *.egg-info
