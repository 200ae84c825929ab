# make repro   run the pipeline            make test   check style, types and code
# make test-slow   the tests of whole runs, which CI adds
# make bench   measure speed and memory
# make verify  is it reproducible?         make verify-quick   the same, nothing runs
# make doctor  what is wrong here?
# make export  one model for others        FORMAT=openvino     in place of saved_model
# make compare REV=main   this run against another commit      OUT=folder   OTHER=a second commit
# make pull    outputs from DVC's remote    make compare-here  with REV, both run on this machine
# make fuzz    100,000 damaged inputs    make docs    renew docs/BAD_INPUT.md
# make lock    renew requirements.lock     make clean-venv     start from an empty environment
# make torture kills, full disks, flipped bits, odd places: an hour on two cores
# make sbom    list its packages           make audit-packages what is known against them

PYTHON ?= python3
VENV := .venv
PACKAGES := $(VENV)/.packages
INSTALLED := $(VENV)/.installed
CONTENDERS := $(VENV)/contenders
FORMAT ?= saved_model
REV ?= main
OUT ?= comparison
export REV OTHER OUT STAGES COMMIT
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

.PHONY: repro test test-slow verify verify-quick doctor bench export compare lock bench-lock pull \
        compare-here audit-packages sbom fuzz docs torture clean-venv
.DEFAULT_GOAL := repro

repro: $(INSTALLED)
	@python -m pipeline doctor --quick
	@dvc repro
	@echo
	@echo "metrics     metrics/evaluate.json   (dvc metrics show)"
	@echo "report      metrics/report/index.html"
	@echo "submission  data/submission.csv"

test: $(INSTALLED)
	ruff check .
	ruff format --check .
	mypy
	python -m pytest -n 2 --dist loadgroup -m "not slow"

# Whole runs again and again. CI runs both.
test-slow: $(INSTALLED)
	python -m pytest -n 2 --dist loadgroup -m slow

# STAGES="extract evaluate" chooses; COMMIT names another one than HEAD.
verify: $(INSTALLED)
	@python -m pipeline verify $$STAGES $${COMMIT:+--revision "$$COMMIT"}

verify-quick: $(INSTALLED)
	@python -m pipeline verify --quick

doctor: $(INSTALLED)
	@python -m pipeline doctor

export: $(INSTALLED)
	@python -m pipeline export --format $(FORMAT)

# Prints Markdown; $(OUT) gets index.html, comparison.md and plots/*.svg. A script that does not choose
# the names gives them as environment variables, where make does not look into them.
compare: $(INSTALLED)
	@python -m pipeline compare --out "$$OUT" -- "$$REV" $${OTHER:+"$$OTHER"}

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

# Nothing where no remote is set; what the remote lacks is left for `make repro` to compute.
pull: $(INSTALLED)
	@if dvc remote list | grep -q .; then dvc pull --run-cache --allow-missing; \
	else echo "no DVC remote is set: nothing to pull"; fi

compare-here: $(INSTALLED)
	@bash .ci/compare "$$REV"

clean-venv:
	rm -rf $(VENV)

# Fails where no advisory service can be reached.
audit-packages: $(INSTALLED)
	@python -m packages.audit requirements.lock benchmarks/requirements.lock

sbom: $(INSTALLED)
	@python -m packages.sbom requirements.lock docs/sbom.cdx.json

# FUZZ="--kinds image --inputs 5000 --seed 1" chooses; FUZZ="--replay fuzzed/image-12" tries one again.
fuzz: $(INSTALLED)
	@python tests/fuzzing.py $(FUZZ)

docs: $(INSTALLED)
	@mkdir -p docs
	@python tests/bad_inputs.py > docs/BAD_INPUT.md

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
