PYTHON ?= python3
PYTEST_ARGS ?=
EXAMPLES ?= 100
TORTURE_ARGS ?=
SOAK_ARGS ?=
BENCH_ARGS ?=
export PYTHON
unexport VIRTUAL_ENV PYTHONHOME PYTHONPATH

.PHONY: help demo test check lint format lock audit mutants torture soak bench docs clean
.DEFAULT_GOAL := help

help: ## say what the targets do
	@sed -n 's/^\([a-z]*\):[^#]*## /make \1|/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "%-13s %s\n", $$1, $$2 }'

demo: ## set-up, then the whole worker at work: killed, cut off and started twice, a simulated Linq counts
	@scripts/setup.sh
	@.venv/bin/share-worker demo

test: ## set-up, then the tests, on SQLite and on a real PostgreSQL; PYTEST_ARGS=tests/test_linq.py for a part
	@scripts/setup.sh dev
	@echo "The whole suite takes less than five minutes on two idle cores."
	.venv/bin/python -m pytest $(PYTEST_ARGS)

lint: ## lint, format and types
	@scripts/setup.sh dev
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

check: lint test ## what CI runs: lint, format, types, tests

torture: ## try for some minutes to make it share twice: crashes, clocks that lie, kill -9
	@scripts/setup.sh dev
	TORTURE_EXAMPLES=$(EXAMPLES) .venv/bin/python -m pytest tests/test_machine.py tests/test_any_answer.py tests/test_any_input.py \
		tests/test_chat_files.py tests/test_events.py tests/test_partner_rows.py
	.venv/bin/python -m tests.torture $(TORTURE_ARGS)

soak: ## let it live for a month, in minutes, and look whether it grows
	@scripts/setup.sh dev
	.venv/bin/python -m tests.soak $(SOAK_ARGS)

format: ## put the code into shape
	@scripts/setup.sh dev
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

docs: ## build the documentation site into build/site; a dead link or anchor fails
	@scripts/setup.sh docs
	.venv/bin/zensical build --strict --clean

bench: ## the measurements of docs/performance.md; BENCH_ARGS=--quick for a look in two minutes
	@scripts/setup.sh bench
	.venv/bin/python -m bench $(BENCH_ARGS)

lock: ## pin what a deployment installs, with hashes and without index lines
	@scripts/setup.sh dev
	.venv/bin/python -m pip install --quiet uv
	.venv/bin/uv pip compile pyproject.toml --extra notify --quiet --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-emit-find-links --no-annotate --custom-compile-command "make lock" --output-file requirements.lock
	echo hatchling | .venv/bin/uv pip compile - --quiet --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-emit-find-links --no-annotate --no-header --output-file requirements-build.lock

# Fails if an advisory is known, or the service cannot be asked.
audit: ## ask a public service of advisories about what a deployment installs
	@scripts/setup.sh dev
	.venv/bin/python -m pip install --quiet pip-audit
	.venv/bin/pip-audit --strict --disable-pip --requirement requirements.lock

mutants: ## break the modules that hold the promise, change by change; does a test notice? Takes hours
	@scripts/setup.sh dev
	nice .venv/bin/python scripts/mutants.py

clean: ## remove what the set-up and the tools made
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
