# One command each: run, test, check, lock. A fresh machine needs make and python3 with venv.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PIP     = $(BIN)/python -m pip --disable-pip-version-check --quiet install
ARGS   ?=

# What tests hurt the service with: system calls that fail, disks that are full, or lose power.
FAULT_PACKAGES := strace e2fsprogs xfsprogs nbdkit libnbd-bin fuse3 iproute2

.PHONY: run test faults check lock wheel image bench memory clean

run: $(VENV)/.service  ## start the service at http://127.0.0.1:8080 on its embedded catalogue
	exec $(BIN)/file-service serve $(ARGS)

test: $(VENV)/.dev  ## run every test, real PostgreSQL and a real browser included
	@sh scripts/system_packages.sh chromium curl nginx openssl wget wrk $(FAULT_PACKAGES)
	@sh scripts/node_packages.sh tests/clients
	$(BIN)/python -m pytest -n auto --dist worksteal $(ARGS)

faults: $(VENV)/.dev  ## hurt the service in every way we know (root, Debian; about three quarters of an hour)
	@sh scripts/system_packages.sh $(FAULT_PACKAGES)
	FILE_SERVICE_TEST_THOROUGH=1 $(BIN)/python -m pytest tests/faults -s -n auto --dist worksteal $(ARGS)

check: $(VENV)/.dev  ## lint, types, container files
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy scripts/upload.py
	$(BIN)/hadolint Dockerfile
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec docker-compose.yml

bench: $(VENV)/.bench  ## measure ourselves beside nginx and others (about a quarter of an hour)
	@sh scripts/system_packages.sh nginx wrk
	@sh scripts/node_packages.sh benchmarks/peers
	$(BIN)/python -m benchmarks.bench $(ARGS)

memory: $(VENV)/.service  ## how much memory 1 GiB up and down costs the server
	$(BIN)/python -m benchmarks.memory $(ARGS)

wheel: $(VENV)/.dev  ## build the wheel, install it elsewhere and start it once
	sh scripts/check_wheel.sh $(BIN)/python

image:  ## build the Dockerfile for real, without a container engine (root, Debian)
	sh scripts/check_image.sh

lock: $(VENV)/.dev  ## renew the locked dependencies
	sh scripts/lock.sh $(BIN)/uv

$(VENV)/bin/python:
	@sh scripts/make_venv.sh $(PYTHON) $(VENV)

$(VENV)/.service: $(VENV)/bin/python requirements/service.txt requirements/build.txt pyproject.toml
	$(PIP) --require-hashes -r requirements/build.txt
	$(PIP) --no-build-isolation --require-hashes -r requirements/service.txt
	$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.service requirements/dev.txt
	$(PIP) --no-build-isolation --require-hashes -r requirements/dev.txt
	@touch $@

$(VENV)/.bench: $(VENV)/.service requirements/bench.txt
	$(PIP) --no-build-isolation --require-hashes -r requirements/bench.txt
	@touch $@

clean:
	rm -rf $(VENV) dist build tests/clients/node_modules benchmarks/peers/node_modules .mypy_cache .ruff_cache .pytest_cache .hypothesis
