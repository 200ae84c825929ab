# make repro   run the pipeline            make test   check everything
# make lock    renew requirements.lock     make clean-venv   start from an empty environment

PYTHON ?= python3
VENV := .venv
PACKAGES := $(VENV)/.packages
INSTALLED := $(VENV)/.installed
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

.PHONY: repro test lock clean-venv
.DEFAULT_GOAL := repro

repro: $(INSTALLED)
	@python -m stages.check
	@dvc repro
	@echo
	@echo "metrics     metrics/evaluate.json   (dvc metrics show)"
	@echo "pictures    metrics/pictures/"
	@echo "submission  data/submission.csv"

test: $(INSTALLED)
	ruff check .
	ruff format --check .
	mypy
	python -m pytest -n 2 --dist loadgroup

lock: $(INSTALLED)
	uv pip compile --universal --generate-hashes --no-emit-index-url --upgrade --extra test \
	    -o requirements.lock pyproject.toml

clean-venv:
	rm -rf $(VENV)

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
