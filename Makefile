# make serve   make the environment, import the demo set, serve on 127.0.0.1:$(PORT)
# make test    run the suite          make check   lint, types, format
# make setup   the environment alone  make format  format the code
# make docs    the documents as a site, build/site, its references made anew
# make fuzz    the schema's requests, 200 of each kind for each route
# make audit   packages against the registry and known holes    make lock  their hashes anew
# make sbom    what an image is made of, build/sbom.json
# make bento   import CATALOG and build a Bento that carries it    make image  its container image
# make image TARGET=vast   the image for vast.ai (FLAVOUR=slim: without models, fetched at start; BASE=…)
# make vast-test  boot the demo under supervisor, laid out as that image (as root, on Debian)
# make monitoring-test  check the alert rules, run their cases (promtool: apt install prometheus)
# make container-test   build and run the demo's image without a Docker engine (as root, on Debian)
PORT ?= 3000
CATALOG ?= demo
PYTHON ?= $(shell for p in python3 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null \
	&& echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

# With TARGET=vast: `full` carries the catalog's models, `slim` fetches them at its first start.
FLAVOUR ?= full

BENTO := build/bento-tag
# The first that is at hand. A docker command without an engine does not count.
BACKEND ?= $(shell docker info >/dev/null 2>&1 && echo docker || \
	for b in podman buildah; do command -v $$b >/dev/null && echo $$b && break; done)

export CATALOG
export BENTOML_DO_NOT_TRACK ?= True

.PHONY: setup serve import shipped backend bento image container-test vast-test monitoring-test test docs fuzz check audit lock sbom format demo-train bench-parity bench-image-parity bench-estimator bench-fidelity bench-overhead bench-throughput bench-switching bench-isolation bench-import-faults bench-load bench-scaling-sim bench-workload bench-flops bench-syncs bench-fullsize bench-memory bench-deepcache bench-tiling bench-lora-switch bench-overload bench-soak bench-contention gpu-report clean

setup: $(INSTALLED)

$(INSTALLED): requirements.lock client/pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or 3.12 is needed (apt install python3 python3-venv)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --requirement requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable client
	@touch $@

import: setup
	@$(BIN)/python -m models import --catalog $(CATALOG)

serve: import
	@echo "Look at http://127.0.0.1:$(PORT)/playground (paint), http://127.0.0.1:$(PORT) (API documentation), http://127.0.0.1:$(PORT)/healthcheck (ready when \"ready_for_inference\")"
	@PATH="$(CURDIR)/$(BIN):$$PATH" exec $(BIN)/bentoml serve --host 127.0.0.1 --port $(PORT)

# The catalog travels inside the Bento by its name, so it must be one of models/catalog/.
shipped:
	@test -f models/catalog/$(CATALOG).toml || { \
		echo "CATALOG: put $(CATALOG) into models/catalog/ and give its name without .toml"; exit 1; }

backend:
	@test -n "$(BACKEND)" || { echo "One of docker, podman, buildah is needed"; exit 1; }

bento: shipped import
	@mkdir -p $(dir $(BENTO))
	@$(BIN)/bentoml build --arg catalog=$(CATALOG) --label catalog=$(CATALOG) --output tag > $(BENTO)
	@sed -n 's/^__tag__://p' $(BENTO)

ifeq ($(TARGET),vast)
image: shipped setup
	@$(BIN)/python -m deploy.vast.image --catalog $(CATALOG) --flavour $(FLAVOUR) \
		$(if $(BASE),--base $(BASE)) $(if $(BACKEND),--backend $(BACKEND))
else
image: backend bento
	$(BIN)/bentoml containerize $$(sed -n 's/^__tag__://p' $(BENTO)) --backend $(BACKEND) \
		--image-tag experimance-controlnet:$(CATALOG)
endif

vast-test: setup
	@$(BIN)/python -m deploy.vast.boot_test

monitoring-test: setup
	@command -v promtool >/dev/null || { echo "promtool is needed (apt install prometheus)"; exit 1; }
	promtool check config --syntax-only deploy/monitoring/prometheus.yml
	promtool check rules deploy/monitoring/rules.yml
	promtool test rules deploy/monitoring/rules_test.yml
	$(BIN)/python -m pytest --quiet tests/unit/test_monitoring.py

container-test: setup
	@$(BIN)/python -m deploy.container

test: setup
	@# Two processes with a thread each: teams of threads that share cores wait for one another.
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile

docs: setup
	$(BIN)/python -m docs_build
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
	@echo "Look at build/site/index.html, or serve it: $(BIN)/python -m http.server --directory build/site"

fuzz: setup
	FUZZ_EXAMPLES=200 OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/integration/test_fuzz.py

audit: setup
	$(BIN)/python -m deploy.supply.lock --check
	@test -d build/audit || $(PYTHON) -m venv build/audit
	@build/audit/bin/pip install --quiet --disable-pip-version-check pip-audit
	build/audit/bin/pip-audit --strict --disable-pip --require-hashes --requirement requirements.lock

lock: setup
	$(BIN)/python -m deploy.supply.lock

sbom: setup
	$(BIN)/python -m deploy.supply.sbom --catalog $(CATALOG) --output build/sbom.json

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

demo-train: setup
	$(BIN)/python -m models.demo.train

bench-parity bench-image-parity bench-estimator bench-fidelity bench-overhead bench-throughput bench-switching bench-isolation bench-import-faults bench-load bench-scaling-sim bench-workload bench-flops bench-syncs bench-fullsize bench-memory bench-deepcache bench-tiling bench-lora-switch bench-overload bench-soak bench-contention: setup
	$(BIN)/python -m benchmarks.$(subst -,_,$(@:bench-%=%))

gpu-report: setup
	$(BIN)/python -m benchmarks.gpu_report --output docs/gpu-report.md

clean:
	rm -rf $(VENV) build .pytest_cache .mypy_cache .ruff_cache
