# `make run` and `make test` do all their set-up: a virtual environment in .venv from hash-pinned requirements.
# ARGS is passed on: make run ARGS="--gateway-port 0", make test ARGS="-k limits".

PYTHON ?= python3
ARGS ?=
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input -q
COMPILE := uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--no-emit-find-links --no-header --no-annotate

WEB := admin/web

.PHONY: run test check format requirements clean screenshots

run: .venv/.run $(WEB)/static/app.js
	@$(BIN)/tollgate dev $(ARGS)

test: check $(WEB)/static/app.js
	$(BIN)/pytest -n 2 --dist loadgroup $(ARGS)

check: .venv/.test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv/.test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Stamps: what is installed already is not looked at again.
.venv/.run: requirements/run.txt pyproject.toml | $(BIN)/python
	$(PIP) install --require-hashes -r requirements/run.txt
	$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

.venv/.test: requirements/test.txt pyproject.toml | $(BIN)/python
	$(PIP) install --require-hashes -r requirements/test.txt
	$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

# What browsers run, bundled by npm. The pages have no script where it cannot be made, and work all the same.
$(WEB)/static/app.js: $(WEB)/assets/app.js $(WEB)/assets/package.json $(WEB)/assets/package-lock.json
	@cd $(WEB)/assets && { npm ci --ignore-scripts --no-audit --no-fund --loglevel=error >/dev/null && npm run --silent build; } \
		|| echo "npm could not build $@: pages go without scripts" >&2

# Every page at 1280 and 390 px, light and dark, into build/screenshots.
screenshots: .venv/.test $(WEB)/static/app.js
	@$(BIN)/python -m tests.browser.screenshots $(ARGS)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else "Tollgate needs Python 3.11 or newer, and $(PYTHON) is %d.%d: make PYTHON=python3.12 ..." % v[:2])'
	@$(PYTHON) -c 'import ensurepip, venv' || { echo "$(PYTHON) has no venv module: install it (Debian, Ubuntu: apt install python3-venv)" >&2; exit 1; }
	$(PYTHON) -m venv --clear .venv

# The pins, from pyproject.toml and the .in files. image.txt is run.txt without the servers of `tollgate dev`.
requirements:
	@command -v uv >/dev/null || { echo "make requirements needs uv" >&2; exit 1; }
	$(COMPILE) --upgrade --extra dev-servers pyproject.toml requirements/test.in -o requirements/test.txt
	$(COMPILE) --constraint requirements/test.txt --extra dev-servers pyproject.toml requirements/run.in -o requirements/run.txt
	$(COMPILE) --constraint requirements/run.txt pyproject.toml requirements/run.in -o requirements/image.txt

# Removes what make made; the data of `make run` in .tollgate stay.
clean:
	rm -rf $(WEB)/assets/node_modules $(WEB)/static/app.js $(WEB)/static/charts.css .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Tollgate beside nginx, haproxy, nginx + Lua + Redis and aiohttp in one run: make bench ARGS=--quick, ARGS="--case get_1k",
# ARGS=--cost. Installs what it needs from Debian.
.PHONY: bench
bench: .venv/.test
	@$(BIN)/python -m tests.bench $(ARGS)

# Minutes of full load with a change of configuration each second and rolling restarts at the end: make soak ARGS="--seconds 300".
.PHONY: soak
soak: .venv/.test
	@$(BIN)/python -m tests.soak $(ARGS)

# The real stack under load while its parts are killed, paused and emptied: make chaos ROUNDS=100 SEED=1 PAUSE=5. The result is
# .tollgate/chaos.json.
.PHONY: chaos
ROUNDS ?= 30
PAUSE ?= 5
chaos: .venv/.test
	@$(BIN)/python -m tests.faults.chaos --rounds $(ROUNDS) --pause $(PAUSE) $(if $(SEED),--seed $(SEED)) $(ARGS)

# Mixed runs through the real stack while the sandbox, its broker and gateways are killed: make chaos-sandbox RUNS=10000
# SEED=1 ARGS="--jails bubblewrap" (or cloned, zygote). Needs root. The result is .tollgate/chaos-sandbox.json.
.PHONY: chaos-sandbox
RUNS ?= 1000
chaos-sandbox: .venv/.test
	@$(BIN)/python -m tests.sandbox.chaos --runs $(RUNS) $(if $(SEED),--seed $(SEED)) $(ARGS)

# The state machines of tests/machines, many long games, others every time; minutes.
.PHONY: machines
machines: .venv/.test
	@MACHINES=deep $(BIN)/pytest --timeout 0 tests/machines $(ARGS)

# Usage into PostgreSQL: the worker's way beside one INSERT per event and executemany, in one run.
.PHONY: bench-ingest
bench-ingest: .venv/.test
	@$(BIN)/python -m tests.bench.ingest $(ARGS)

# The code runner beside `docker run --rm`: make bench-sandbox ARGS=--quick, ARGS="--backend jail".
.PHONY: bench-sandbox
bench-sandbox: .venv/.test
	@$(BIN)/python -m tests.bench.sandbox $(ARGS)
