# make serve   make the environment, import the demo set, serve on 127.0.0.1:$(PORT)
# make test    run the suite          make check   lint, types, format
# make setup   the environment alone  make develop  that of the tests and documents too
# make format  format the code
# make docs    the documents as a site, build/site, its references made anew
# make fuzz    the schema's requests, 200 of each kind for each route
# make audit   packages against the registry and known holes    make lock  their hashes anew
# make sbom    what an image is made of, build/sbom.json
# make bento   import CATALOG and build a Bento that carries it    make image  its container image
# make image TARGET=vast   the image for vast.ai (FLAVOUR=slim: without models, fetched at start; BASE=…)
# make vast-test  boot the demo under supervisor, laid out as that image (as root, on Debian)
# make monitoring-test  check the alert rules, run their cases (promtool: apt install prometheus)
# make fresh-test   README's commands on a bare Debian 12 and 13 (as root, on Debian)
# make container-test   build and run the demo's image without a Docker engine (as root, on Debian)
PORT ?= 3000
CATALOG ?= demo
PYTHON ?=
VENV := .venv
BIN := $(VENV)/bin
# Where torch comes from: `default`, the package index; `cpu`, CPU builds from TORCH_INDEX, an index or
# a folder. Unset: as it is installed.
TORCH ?=
TORCH_INDEX ?=

# With TARGET=vast: `full` carries the catalog's models, `slim` fetches them at its first start.
FLAVOUR ?= full

BENTO := build/bento-tag
# The first that is at hand. A docker command without an engine does not count.
BACKEND ?= $(shell docker info >/dev/null 2>&1 && echo docker || \
	for b in podman buildah; do command -v $$b >/dev/null && echo $$b && break; done)

export CATALOG
export BENTOML_DO_NOT_TRACK ?= True

.PHONY: setup develop serve import shipped backend bento image container-test fresh-test vast-test monitoring-test test test-all docs fuzz check audit lock sbom format demo-train bench-parity bench-image-parity bench-estimator bench-fidelity bench-overhead bench-throughput bench-switching bench-isolation bench-import-faults bench-load bench-scaling-sim bench-workload bench-flops bench-syncs bench-fullsize bench-memory bench-deepcache bench-tiling bench-lora-switch bench-weight-kinds bench-overload bench-abuse bench-soak bench-contention bench-load-beside-painting gpu-report pack-gpu-report clean

ENVIRONMENT = @python=$$(deploy/setup/find_python.sh $(if $(PYTHON),"$(PYTHON)")) && \
	"$$python" -m deploy.setup --torch "$(TORCH)" --torch-index "$(TORCH_INDEX)"

setup:
	$(ENVIRONMENT)

develop:
	$(ENVIRONMENT) --development

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
	@$(BIN)/python -m deploy.vast.build_image --catalog $(CATALOG) --flavour $(FLAVOUR) \
		$(if $(BASE),--base $(BASE)) $(if $(BACKEND),--backend $(BACKEND))
else
image: backend bento
	$(BIN)/bentoml containerize $$(sed -n 's/^__tag__://p' $(BENTO)) --backend $(BACKEND) \
		--image-tag experimance-controlnet:$(CATALOG)
endif

vast-test: setup
	@$(BIN)/python -m deploy.vast.boot_test

monitoring-test: develop
	@command -v promtool >/dev/null || { echo "promtool is needed (apt install prometheus)"; exit 1; }
	promtool check config --syntax-only deploy/monitoring/prometheus.yml
	promtool check rules deploy/monitoring/rules.yml
	promtool test rules deploy/monitoring/rules_test.yml
	$(BIN)/python -m pytest --quiet tests/unit/deploy/test_monitoring.py

container-test: setup
	@$(BIN)/python -m deploy.container

fresh-test: develop
	@$(BIN)/python -m deploy.fresh $(if $(TORCH_INDEX),--torch-index "$(TORCH_INDEX)")

# Two processes with a thread each: teams of threads that share cores wait for one another. Without
# compiled modules each of the many processes takes 18 s longer to import its libraries.
SUITE = PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile

test: develop
	$(SUITE) -m "not slow"

test-all: develop
	$(SUITE)

docs: develop
	$(BIN)/python -m docs_build
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
	@echo "Look at build/site/index.html, or serve it: $(BIN)/python -m http.server --directory build/site"

fuzz: develop
	FUZZ_EXAMPLES=200 OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/integration/service/test_fuzz.py \
		tests/integration/service/test_mutated_pictures.py

audit: develop
	$(BIN)/python -m deploy.supply.lock --check
	@test -d build/audit || $(BIN)/python -m venv build/audit
	@build/audit/bin/pip install --quiet --disable-pip-version-check pip-audit
	build/audit/bin/pip-audit --strict --disable-pip --require-hashes --requirement requirements-dev.lock

lock: develop
	$(BIN)/python -m deploy.supply.lock $(if $(UPGRADE),--upgrade)

sbom: develop
	$(BIN)/python -m deploy.supply.sbom --catalog $(CATALOG) --output build/sbom.json

check: develop
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: develop
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

demo-train: develop
	$(BIN)/python -m models.demo.training.train

bench-parity bench-image-parity bench-estimator bench-fidelity bench-overhead bench-throughput bench-switching bench-isolation bench-import-faults bench-load bench-scaling-sim bench-workload bench-flops bench-syncs bench-fullsize bench-memory bench-deepcache bench-tiling bench-lora-switch bench-weight-kinds bench-overload bench-abuse bench-soak bench-contention bench-load-beside-painting: develop
	$(BIN)/python -m benchmarks.$(subst -,_,$(@:bench-%=%))

gpu-report: develop
	$(BIN)/python -m benchmarks.gpu_report --output docs/gpu-report.md

pack-gpu-report: develop
	$(BIN)/python -m benchmarks.pack_gpu_report

clean:
	rm -rf $(VENV) build .pytest_cache .mypy_cache .ruff_cache
