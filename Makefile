# make demo: watch a small policy learn the 24 game (13 to 18 minutes on two slow cores, after the set-up).
# make test: what CI runs, in JOBS=3 processes (half of the time they wait). make test-slow: minutes-long tests. make bench: figures and ratios, all
# or BENCHMARKS='one two'.
# make gpu-proof: on one or two GPUs, what docs/gpu.md claims of them, as a page.
# make check: style, types, layering. make lock: renew requirements/cpu.lock. make clean.

BIN := .venv/bin
NAME ?= demo-$(shell date +%Y%m%d-%H%M%S)
ARGS ?=
JOBS ?= 3
BENCHMARKS ?= $(patsubst benchmarks/%.py,%,$(wildcard benchmarks/[a-z]*.py)) peers.grpo peers.to_success
export PYTHON
unexport PYTHONDONTWRITEBYTECODE # a run starts dozens of processes, which would compile all files again
SHELL := bash
.SHELLFLAGS := -euo pipefail -c

.PHONY: demo test test-slow check bench gpu-proof setup lock clean

demo: setup
	$(BIN)/cardinal train configs/gp_l.yaml name=$(NAME) $(ARGS)

# A file's tests share their engine: one process runs them all. tests/conftest.py orders the files.
test: check
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder --ignore tests/test_layering.py $(ARGS)

test-slow: setup
	$(BIN)/python -m pytest -m slow $(ARGS)

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_layering.py

bench: setup # each benchmark prints JSON rows; a failing one leaves its last results as they were
	@mkdir -p benchmarks/results
	@for name in $(BENCHMARKS); do \
		echo "benchmarks.$$name" >&2; \
		$(BIN)/python -m benchmarks.$$name $(ARGS) | tee benchmarks/results/.$$name.new; \
		mv benchmarks/results/.$$name.new benchmarks/results/$$name.jsonl; \
	done

gpu-proof:
	@compgen -G '/dev/nvidia[0-9]*' >/dev/null || \
		{ echo "gpu-proof: this machine has no NVIDIA GPU (/dev/nvidia0): nothing is started" >&2; exit 2; }
	@tools/setup.sh gpu
	$(BIN)/python -m benchmarks.gpu_proof $(ARGS)

setup:
	@tools/setup.sh

lock: setup
	tools/lock.sh $(ARGS)

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis *.egg-info
