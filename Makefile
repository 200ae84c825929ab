# make repro   run the pipeline            make test   check everything
# make bench   measure speed and memory    make cluster-demo   the pass on a cluster of two workers
# make export  one model for others        FORMAT=openvino     in place of saved_model
# make lock    renew requirements.lock     make clean-venv     start from an empty environment
# make torture kills, full disks, flipped bits, odd places: an hour on two cores

PYTHON ?= python3
VENV := .venv
PACKAGES := $(VENV)/.packages
INSTALLED := $(VENV)/.installed
CONTENDERS := $(VENV)/contenders
FORMAT ?= saved_model
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

.PHONY: repro test bench cluster-demo export lock bench-lock clean-venv torture
.DEFAULT_GOAL := repro

repro: $(INSTALLED)
	@python -m stages.check
	@dvc repro
	@echo
	@echo "metrics     metrics/evaluate.json   (dvc metrics show)"
	@echo "report      metrics/report/index.html"
	@echo "submission  data/submission.csv"

test: $(INSTALLED)
	ruff check .
	ruff format --check .
	mypy
	python -m pytest -n 2 --dist loadgroup

cluster-demo: $(INSTALLED)
	@dvc repro --quiet extract
	@python -m stages.cluster_demo $$(python -c 'from stages import params; print(params.read().extract.backbones[0])')

export: $(INSTALLED)
	@python -m stages.export --format $(FORMAT)

# BENCH="1 2 --rounds 7" chooses; REAL_DATA names a folder of real photos.
bench: $(INSTALLED) $(CONTENDERS)/.installed
	PYTHONPATH=$(CURDIR)/$(CONTENDERS) python -m benchmarks $(BENCH)

lock: $(INSTALLED)
	uv pip compile --universal --generate-hashes --no-emit-index-url --upgrade --extra test \
	    --extra dask --extra openvino --extra security -o requirements.lock pyproject.toml

bench-lock: $(INSTALLED)
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --upgrade \
	    --constraints requirements.lock --no-emit-package numpy --no-emit-package cffi \
	    --no-emit-package pycparser -o benchmarks/requirements.lock benchmarks/requirements.in

clean-venv:
	rm -rf $(VENV)

# `make test` tries a sample of these faults. Figures go to build/torture/.
torture: $(INSTALLED)
	TORTURE=1 python -m pytest -n 2 --dist loadgroup tests/test_torture_*.py

# The environment is rebuilt when the lock file changes: the versions and hashes in it are all that
# is installed.
$(PACKAGES): requirements.lock
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 13) else "make: expected Python 3.11 to 3.13, got %d.%d; run make PYTHON=python3.12" % v)'
	@echo "installing the packages of requirements.lock into $(VENV) (about two minutes)"
	@$(PYTHON) -m venv --clear $(VENV)
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@touch $(PACKAGES)

$(INSTALLED): $(PACKAGES) pyproject.toml
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $(INSTALLED)

# Only `make bench` sees them; numpy, cffi and pycparser come from requirements.lock.
$(CONTENDERS)/.installed: benchmarks/requirements.lock | $(INSTALLED)
	@rm -rf $(CONTENDERS)
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps \
	    --no-build-isolation --target $(CONTENDERS) -r benchmarks/requirements.lock
	@touch $@
