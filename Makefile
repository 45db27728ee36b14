# The two commands of the README. Each does all its set-up, on a fresh clone or an old one.
PYTHON ?= python3
BIN := .venv/bin
# Lines of pip that say nothing new stay out of sight. As a module: a script's first line may not be
# as long as a path.
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
# Two test files at a time, each whole in one process. Most of a test that starts Ray is spent on
# imports of one core; what is left over is another core's.
BESIDE := --numprocesses 2 --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help demo test bench clean

help:
	@echo "make demo   install, fetch models, annotate 3,000 real reviews, show some rows"
	@echo "make test   install with test extras, run lint, types and all tests but gpu"
	@echo "make bench  compare with what people would use instead, into benchmarks/RESULTS.md"
	@echo "make clean  remove .venv and data"

demo: .venv/demo
	$(BIN)/shardscribe models pull
	$(BIN)/shardscribe samples write reviews data/reviews
	$(BIN)/shardscribe run jobs/movie_reviews.yaml
	$(BIN)/shardscribe show jobs/movie_reviews.yaml -n 5
	$(BIN)/shardscribe samples write long-reviews data/long-reviews
	$(BIN)/shardscribe run jobs/abstract_reviews.yaml
	$(BIN)/shardscribe show jobs/abstract_reviews.yaml -n 3

test: .venv/test
	$(BIN)/shardscribe models pull
	$(BIN)/python -m pytest -m "not gpu" $(BESIDE)

bench: .venv/bench
	$(BIN)/shardscribe models pull starter/minilm starter/sentiment starter/pii starter/smollm2
	$(BIN)/python benchmarks/peers.py
	$(BIN)/python benchmarks/writing.py
	$(BIN)/python benchmarks/int8.py
	$(BIN)/python benchmarks/masks.py
	$(BIN)/python benchmarks/host.py

# torch first and alone: the constraint decides which build, before anything else asks for one.
.venv/python: constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "shardscribe needs Python 3.11 or newer: make PYTHON=python3.12 ..."; exit 1; }
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv .venv
	$(PIP) torch
	@touch $@

.venv/demo: .venv/python pyproject.toml
	$(PIP) --editable '.[starter]'
	@touch $@

.venv/bench: .venv/python pyproject.toml
	$(PIP) --editable '.[starter,bench]'
	@touch $@ .venv/demo

.venv/test: .venv/python pyproject.toml
	$(PIP) --editable '.[starter,test]'
	@touch $@ .venv/demo .venv/bench

clean:
	rm -rf .venv data
