# make setup | demo | test | check | sim | faults | accuracy | soak | bench | bench-servers | bench-compare | lock
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
SEEDS ?= 1000
FAULT_SEEDS ?= 10
ROUNDS ?= 30
WORKERS ?= 2
C_SOURCES := validator/_columns.c synchroscope/_hashing.c pipeline/_messages.c pipeline/_batches.c $(wildcard synchroscope/native/*.h)

.PHONY: setup demo test check sim faults accuracy soak bench bench-servers bench-compare lock clean

setup: $(VENV)/.ready

# The lock file pins every package by hash; the project itself is installed editable on top.
$(VENV)/.ready: requirements.lock pyproject.toml hatch_build.py $(C_SOURCES)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; choose one with: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || \
		{ echo "Python's venv module is missing (on Debian: apt-get install python3-venv)"; exit 2; }
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@

demo: setup
	$(BIN)/synchroscope demo $(ARGS)

# Two workers: tests that wait for servers in one, those that calculate in both.
test: setup
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadgroup $(ARGS)

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

sim: setup
	$(BIN)/synchroscope simulate --seeds $(SEEDS) $(ARGS)

faults: setup
	$(BIN)/python -m benchmarks.faults --seeds $(FAULT_SEEDS) $(ARGS)

# Precision, recall and onset error for each kind of fault; starts servers of its own as soak does.
accuracy: setup
	$(BIN)/python -m benchmarks.accuracy $(ARGS)

# Installs and starts servers of its own (deploy/local/up) and stops them again.
soak: setup
	$(BIN)/python -m benchmarks.soak --rounds $(ROUNDS) $(ARGS)

bench: setup
	$(BIN)/python -m benchmarks.run $(ARGS)

# Starts servers of its own, as soak does. Quix Streams, a peer, is installed beside, since it asks
# for another confluent-kafka than the lock file has.
bench-servers: setup $(VENV)/quix/.ready
	$(BIN)/python -m benchmarks.servers $(ARGS)

$(VENV)/quix/.ready:
	$(PYTHON) -m venv $(VENV)/quix
	$(VENV)/quix/bin/python -m pip install --quiet 'quixstreams>=3.20,<4'
	@touch $@

# Starts a PostgreSQL of its own; reladiff, a peer, is installed beside.
bench-compare: setup $(VENV)/reladiff/.ready
	$(BIN)/python -m benchmarks.compare $(ARGS)

$(VENV)/reladiff/.ready:
	$(PYTHON) -m venv $(VENV)/reladiff
	$(VENV)/reladiff/bin/python -m pip install --quiet 'reladiff[postgresql]==0.6.0'
	@touch $@

# Resolve again for Python 3.11 and newer; needs uv (pip install uv).
lock:
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-header \
		--no-emit-index-url --no-annotate --extra dev -o requirements.lock pyproject.toml

clean:
	rm -rf $(VENV) build dist *.egg-info
