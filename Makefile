# make demo   set-up, then the whole worker at work: SQLite, a simulated Linq, two passes
# make test   set-up, then the tests, on SQLite and on a real PostgreSQL
# make check  what CI runs: lint, format, types, tests
# make torture  tries for some minutes to make it call twice: crashes, lies, kill -9
# make soak     lets it live for a month, in minutes, and looks whether it grows
# make bench    the measurements of docs/performance.md; BENCH_ARGS=--quick for a look in two minutes
# make format puts the code into shape
PYTHON ?= python3
PYTEST_ARGS ?=
EXAMPLES ?= 100
TORTURE_ARGS ?=
SOAK_ARGS ?=
BENCH_ARGS ?=
export PYTHON
unexport VIRTUAL_ENV PYTHONHOME PYTHONPATH

.PHONY: demo test check lint format lock audit mutants torture soak bench clean
.DEFAULT_GOAL := check

demo:
	@scripts/setup.sh
	@.venv/bin/share-worker demo

test:
	@scripts/setup.sh dev
	.venv/bin/python -m pytest $(PYTEST_ARGS)

lint:
	@scripts/setup.sh dev
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

check: lint test

torture:
	@scripts/setup.sh dev
	TORTURE_EXAMPLES=$(EXAMPLES) .venv/bin/python -m pytest tests/test_machine.py
	.venv/bin/python -m tests.torture $(TORTURE_ARGS)

soak:
	@scripts/setup.sh dev
	.venv/bin/python -m tests.soak $(SOAK_ARGS)

format:
	@scripts/setup.sh dev
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

bench:
	@scripts/setup.sh bench
	.venv/bin/python -m bench $(BENCH_ARGS)

# Pins what a deployment installs; carries hashes and no index lines.
lock:
	@scripts/setup.sh dev
	.venv/bin/python -m pip install --quiet uv
	.venv/bin/uv pip compile pyproject.toml --quiet --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-emit-find-links --no-annotate --custom-compile-command "make lock" --output-file requirements.lock
	echo hatchling | .venv/bin/uv pip compile - --quiet --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-emit-find-links --no-annotate --no-header --output-file requirements-build.lock

# Asks a public service of advisories about what a deployment installs; fails if one is known, or it cannot be asked.
audit:
	@scripts/setup.sh dev
	.venv/bin/python -m pip install --quiet pip-audit
	.venv/bin/pip-audit --strict --disable-pip --requirement requirements.lock

# Breaks the modules that hold the promise, change by change, and sees whether a test notices. Takes hours.
mutants:
	@scripts/setup.sh dev
	nice .venv/bin/python scripts/mutants.py

clean:
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
