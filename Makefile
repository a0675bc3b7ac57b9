# Each target is complete on a fresh Debian or Ubuntu machine with Python 3.11 or later: scripts/setup.sh installs
# what is missing, and nothing the second time.
.PHONY: quickstart test quick torture lint docs setup
BIN := .venv/bin
# Where this is set, every process compiles all that it imports again, which takes it twice as long to start.
export PYTHONDONTWRITEBYTECODE :=

quickstart: setup
	$(BIN)/python -m fastgen.quickstart

# Tests of real data read the folder FASTGEN_DATA and are skipped where it has none. A file's tests share a
# process, and so what they compiled and baked. Three of them keep two cores busy: many tests wait for processes.
TESTS := $(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

test: lint
	$(TESTS) --cov --cov-report=term:skip-covered

# What takes under a minute: without the tests marked slow.
quick: lint
	$(TESTS) -m "not slow"

# Places to die, kills, damaged files, long runs: under an hour on two cores (docs/reliability.md).
torture: setup
	$(BIN)/python tests/torture

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy fastgen pipelines

# The documentation as a site, in site/.
docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

setup:
	@sh scripts/setup.sh
