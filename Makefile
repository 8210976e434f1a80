# Each target first makes what it needs: the virtual environment .venv with all libraries.
#   make demo                     train on synthetic scenes, print the PQ table, draw a sheet
#   make test                     lint, types, all tests with their coverage
#   make test ARGS=tests/cops     a part of the tests, without
#   make endurance                kills, signals, full disks, forged files: an hour or more
#   make demo PYTHON=python3.12   with another interpreter
#   make demo SETUP=--system-site-packages    with your own torch and Detectron2
#   make demo TORCH=cpu           torch without CUDA's libraries, from PyTorch's own index

PYTHON ?= python3
SETUP ?=
TORCH ?= default
# Number of test processes, each with one thread.
JOBS ?= 2
# Which lines the tests run, and a floor for their share ([tool.coverage] in pyproject.toml). A part
# of the tests has no business with that floor.
COVERAGE ?= $(if $(ARGS),,--cov)

VENV := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint types pytest endurance bench doctor docs wheel clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup:  ## the virtual environment only (does nothing where it is complete)
	@$(PYTHON) tools/setup_environment.py --torch $(TORCH) $(SETUP)

demo: setup  ## train, evaluate and draw on synthetic scenes
	@$(VENV)/python tools/quickstart.py $(ARGS)

# A chain rather than a list of prerequisites: with `make -j` the tests still come last, and their
# summary is the last line.
test: pytest  ## lint, types, all tests, coverage

pytest: types
	@echo "== tests"
	@OMP_NUM_THREADS=1 $(VENV)/python -m pytest -n $(JOBS) --dist loadfile --durations 10 \
		$(COVERAGE) $(ARGS)

types: lint
	@echo "== types"
	@$(VENV)/mypy

lint: setup  ## style and format
	@echo "== lint"
	@$(VENV)/ruff check .
	@$(VENV)/ruff format --check .

endurance: setup  ## kills, signals, full disks, forged files (docs/reliability.md)
	@$(VENV)/python tests/support/endurance.py all $(ARGS)

bench: setup  ## time and memory of the model's parts
	@$(VENV)/python tools/studies/benchmark.py $(ARGS)

doctor: setup  ## versions, work-arounds in effect, and whether all would run
	@$(VENV)/python tools/doctor.py

docs: setup  ## the documentation as a site, in output/site
	@NO_MKDOCS_2_WARNING=1 $(VENV)/python -m mkdocs build --strict

# From a clean build folder: what a former build left there would go into the wheel.
wheel: setup  ## the wheel, in dist
	@rm -rf build
	@$(VENV)/python -m pip --disable-pip-version-check wheel --no-deps --wheel-dir dist .

clean:  ## remove the virtual environment and caches (outputs stay)
	rm -rf .venv .venv.lock .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist \
		.coverage .coverage.* *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
