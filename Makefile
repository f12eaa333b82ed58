# Every target makes what it needs: `make demo` and `make test` work on a fresh clone.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help demo test test-lowest check bench fuzz processors wheel clean

help: ## show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

demo: .venv/run ## install, then quantise the embedded examples into out/
	$(BIN)/onnxmpq demo

test: .venv/test ## install, then run the whole test suite
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/pytest -q -n 2 --dist loadfile --no-loadscope-reorder

test-lowest: ## run the suite with the lowest releases that pyproject.toml allows, in .venv-lowest
	$(PYTHON) -m venv --clear .venv-lowest
	.venv-lowest/bin/pip install -q -e ".[cpu,openvino,dask,images,test]" -c requirements/lowest.txt
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 .venv-lowest/bin/pytest -q -n 2 --dist loadfile --no-loadscope-reorder

check: .venv/lint ## lint and type-check everything
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pyright --pythonpath $(BIN)/python

bench: .venv/test ## compare exports with float and with onnxruntime's own quantisers
	$(BIN)/python -m benchmarks deploy

fuzz: .venv/test ## try damaged models, samples, texts and stores for ten minutes; what breaks is kept in out/fuzz
	$(BIN)/python -m tests.fuzz --minutes 10

processors: .venv/test ## run exports on processors that this machine does not have, by emulation
	$(BIN)/python -m benchmarks processors

wheel: .venv/lint ## build the wheel and the source distribution into dist/
	$(BIN)/pip install -q build
	$(BIN)/python -m build

clean: ## remove everything that was made here
	rm -rf .venv .venv-lowest out dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis

.venv/bin/pip:
	$(PYTHON) -m venv .venv

.venv/run: .venv/bin/pip pyproject.toml
	$(BIN)/pip install -q -e ".[cpu]"
	@touch $@

.venv/test: .venv/bin/pip pyproject.toml
	$(BIN)/pip install -q -e ".[cpu,openvino,dask,test]"
	-$(BIN)/pip install -q -e ".[qnn]" # where there is a wheel: x86 Linux with glibc 2.35
	@touch $@

.venv/lint: .venv/test
	$(BIN)/pip install -q -e ".[dev]"
	@touch $@
