# make serve   make the environment, import the demo set, serve on 127.0.0.1:$(PORT)
# make test    run the suite          make check   lint, types, format
# make setup   the environment alone  make format  format the code
PORT ?= 3000
CATALOG ?= demo
PYTHON ?= $(shell for p in python3 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null \
	&& echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

export CATALOG
export BENTOML_DO_NOT_TRACK ?= True

.PHONY: setup serve import test check format demo-train bench-parity bench-fidelity bench-overhead bench-isolation clean

setup: $(INSTALLED)

$(INSTALLED): requirements.lock
	@test -n "$(PYTHON)" || { echo "Python 3.11 or 3.12 is needed (apt install python3 python3-venv)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --requirement requirements.lock
	@touch $@

import: setup
	@$(BIN)/python -m models import --catalog $(CATALOG)

serve: import
	@echo "Look at http://127.0.0.1:$(PORT) (API documentation), http://127.0.0.1:$(PORT)/healthcheck (ready when \"ready_for_inference\")"
	@PATH="$(CURDIR)/$(BIN):$$PATH" exec $(BIN)/bentoml serve --host 127.0.0.1 --port $(PORT)

test: setup
	$(BIN)/python -m pytest

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

demo-train: setup
	$(BIN)/python -m models.demo.train

bench-parity bench-fidelity bench-overhead bench-isolation: setup
	$(BIN)/python -m benchmarks.$(@:bench-%=%)

clean:
	rm -rf $(VENV) build .pytest_cache .mypy_cache .ruff_cache
